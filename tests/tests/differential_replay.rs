//! What the comparison with Apache ZooKeeper has taught us, one short program each: our server
//! still gives the answers that Apache's gave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use quorate_proto::jute::Encode;
use quorate_proto::{
    Acl, CreateRequest, CreateTtlRequest, MultiOp, MultiRequest, OpCode, Perms, SetDataRequest,
    SetWatches2, VersionRequest, WatchedRequest,
};
use quorate_tests::differential::observe::Side;
use quorate_tests::differential::program::{Ask, Password, Request, Step};
use quorate_tests::ours::Quorate;
use quorate_tests::process::{ServerProcess, Settings};

/// One connection to a server of ours.
struct Script {
    side: Side,
    xid: i32,
}

impl Script {
    fn new(settings: Settings) -> Self {
        let server = ServerProcess::start(Quorate::from_env(), settings);
        let mut script = Script {
            side: Side::new(server, false),
            xid: 0,
        };
        script.run(&Step::Connect {
            slot: 0,
            session: 1,
            ask: Ask {
                reattach: false,
                password: Password::Right,
                timeout: 30_000,
                last_zxid_seen: 0,
                read_only: Some(false),
            },
        });
        script
    }

    fn run(&mut self, step: &Step) -> Vec<String> {
        self.side.begin(step);
        let seen = self.side.finish(step);
        seen.iter().map(ToString::to_string).collect()
    }

    /// Sends a request and answers what comes back, the events in front of the reply.
    fn ask(&mut self, op: OpCode, body: &impl Encode) -> Vec<String> {
        self.xid += 1;
        let request = Request {
            xid: self.xid,
            op: op.number(),
            body: body.to_vec(),
        };
        self.run(&Step::Batch {
            slot: 0,
            requests: vec![request],
        })
    }

    fn create(&mut self, path: &str, acl: Acl<'_>) -> Vec<String> {
        let request = CreateRequest {
            acl: Some(vec![acl]),
            ..create(path, 0)
        };
        self.ask(OpCode::Create, &request)
    }

    fn multi(&mut self, ops: Vec<MultiOp<'_>>) -> Vec<String> {
        self.ask(OpCode::Multi, &MultiRequest { ops })
    }
}

fn create(path: &str, flags: i32) -> CreateRequest<'_> {
    CreateRequest {
        path,
        data: Some(b"x"),
        acl: Some(vec![Acl::world(Perms::ALL)]),
        flags,
    }
}

fn create_ttl(path: &str, flags: i32, ttl: i64) -> CreateTtlRequest<'_> {
    let CreateRequest {
        path,
        data,
        acl,
        flags,
    } = create(path, flags);
    CreateTtlRequest {
        path,
        data,
        acl,
        flags,
        ttl,
    }
}

#[test]
fn who_may_skip_acls_hears_of_every_change() {
    let mut script = Script::new(Settings::default().with("skipACL", "yes"));
    script.create("/a", Acl::new(Perms::ALL, "digest", "ann:x"));
    let watches = SetWatches2 {
        relative_zxid: i64::MAX,
        data: vec![],
        exist: vec![],
        child: vec![],
        persistent: vec![],
        persistent_recursive: vec!["/"],
    };
    script.ask(OpCode::SetWatches2, &watches);
    let delete = VersionRequest {
        path: "/a",
        version: -1,
    };
    assert_eq!(
        script.ask(OpCode::Delete, &delete),
        [
            r#"[0] NodeDeleted "/a", zxid 0x3"#,
            "[0] reply to Delete: xid 3, zxid 0x3, OK "
        ]
    );
}

#[test]
fn usage_is_counted_when_its_node_is_created_and_answered_as_it_was_sent() {
    let mut script = Script::new(Settings::default());
    for path in ["/zookeeper/quota/a", "/zookeeper/quota/a/zookeeper_limits"] {
        script.create(path, Acl::world(Perms::ALL));
    }
    let path = "/zookeeper/quota/a/zookeeper_stats";
    let created = script.ask(OpCode::Create2, &create(path, 0));
    assert!(created[0].contains("len=1"), "{created:?}");
    let read = WatchedRequest { path, watch: false };
    let read = script.ask(OpCode::GetData, &read);
    assert!(read[0].contains(r#"OK "count=0,bytes=0" "#), "{read:?}");
}

#[test]
fn inside_a_multi_the_flags_decide_what_is_created() {
    let mut script = Script::new(Settings::default().with("extendedTypesEnabled", true));
    assert_eq!(
        script.multi(vec![
            MultiOp::Create(create("/container", 4)),
            MultiOp::CreateTtl(create_ttl("/too", 4, 0)),
            MultiOp::CreateTtl(create_ttl("/plain", 0, -1)),
            MultiOp::CreateTtl(create_ttl("/ttl", 5, 1)),
        ]),
        [concat!(
            "[0] reply to Multi: xid 1, zxid 0x2, OK { ",
            r#"Create2 "/container" c=2 m=2 p=2 v=0 cv=0 av=0 owner=0x0 len=1 kids=0; "#,
            r#"Create2 "/too" c=2 m=2 p=2 v=0 cv=0 av=0 owner=0x0 len=1 kids=0; "#,
            r#"Create "/plain"; "#,
            r#"Create2 "/ttl" c=2 m=2 p=2 v=0 cv=0 av=0 owner=0x0 len=1 kids=0; }"#,
        )]
    );
    // A time to live cannot come without the opcode for it: that multi does not decode.
    assert_eq!(
        script.multi(vec![MultiOp::Create2(create("/b", 5))]),
        ["[0] reply to Multi: xid 2, zxid 0x3, MARSHALLING_ERROR "]
    );
    let unknown = MultiOp::CreateTtl(create_ttl("/b", 7, 1));
    assert_eq!(
        script.multi(vec![unknown]),
        ["[0] reply to Multi: xid 3, zxid 0x4, OK { Error BAD_ARGUMENTS; }"]
    );
}

#[test]
fn outside_of_a_multi_opcode_and_flags_must_agree_about_the_time_to_live() {
    let mut script = Script::new(Settings::default().with("extendedTypesEnabled", true));
    for (flags, ttl) in [
        (0, -1),
        (1, -1),
        (4, -1),
        (0, 1),
        (5, 0),
        (5, -1),
        (6, i64::MAX),
    ] {
        let answer = script.ask(OpCode::CreateTtl, &create_ttl("/a", flags, ttl));
        assert!(
            answer[0].contains("BAD_ARGUMENTS"),
            "{flags} {ttl}: {answer:?}"
        );
    }
    let answer = script.ask(OpCode::Create, &create("/a", 5));
    assert!(answer[0].contains("BAD_ARGUMENTS"), "{answer:?}");
}

#[test]
fn a_reconfiguration_that_does_not_decode_takes_no_zxid() {
    let mut script = Script::new(Settings::default());
    assert_eq!(
        script.ask(OpCode::Reconfig, &0),
        ["[0] reply to Reconfig: xid 1, zxid 0x1, MARSHALLING_ERROR "]
    );
    let set = SetDataRequest {
        path: "/",
        data: None,
        version: 7,
    };
    assert_eq!(
        script.ask(OpCode::SetData, &set),
        ["[0] reply to SetData: xid 2, zxid 0x2, BAD_VERSION "]
    );
}
