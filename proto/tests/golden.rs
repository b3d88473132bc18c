//! Bytes that are not ours: a session recorded from Apache ZooKeeper 3.8.0, the connect frames of
//! the client protocol's description, and the log of the disk formats' description. Each must decode
//! to the values given here, and these values must encode to exactly these bytes.

#![allow(clippy::unwrap_used, reason = "what is missing fails the test")]

use std::fmt::Debug;

use quorate_proto::jute::{Decode, DecodeError, Encode, Reader};
use quorate_proto::*;

/// Reads hex digits; everything else is for the eye.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| u8::try_from(digit).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

/// `bytes` is a frame that holds `header` and `body`, nothing else.
fn check<'a, H, B>(bytes: &'a [u8], header: &H, body: &B)
where
    H: Encode + Decode<'a> + PartialEq + Debug,
    B: Encode + Decode<'a> + PartialEq + Debug,
{
    let mut encoded = Vec::new();
    frame::write(&mut encoded, |out| {
        header.encode(out);
        body.encode(out);
    });
    assert_eq!(encoded, bytes, "{header:?} {body:?}");
    let content = frame::split(bytes, frame::DEFAULT_MAX_FRAME).unwrap();
    let mut reader = Reader::new(content.unwrap());
    assert_eq!(reader.read::<H>().as_ref(), Ok(header));
    assert_eq!(reader.read::<B>().as_ref(), Ok(body));
    assert!(reader.is_empty(), "bytes left behind {body:?}");
}

fn request<'a, B>(bytes: &'a [u8], xid: i32, op: OpCode, body: &B)
where
    B: Encode + Decode<'a> + PartialEq + Debug,
{
    let op = op.number();
    check(bytes, &RequestHeader { xid, op }, body);
}

fn reply<'a, B>(bytes: &'a [u8], xid: i32, zxid: i64, body: &B)
where
    B: Encode + Decode<'a> + PartialEq + Debug,
{
    let err = ErrorCode::OK;
    check(bytes, &ReplyHeader { xid, zxid, err }, body);
}

fn failure(bytes: &[u8], xid: i32, zxid: i64, err: ErrorCode) {
    check(bytes, &ReplyHeader { xid, zxid, err }, &Nothing);
}

/// The body of what is only a header, and the header of what is only a body.
#[derive(Debug, PartialEq)]
struct Nothing;

impl Encode for Nothing {
    fn encode(&self, _: &mut Vec<u8>) {}
}

impl Decode<'_> for Nothing {
    const MIN_SIZE: usize = 0;
    fn decode(_: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Nothing)
    }
}

fn open() -> Option<Vec<Acl<'static>>> {
    Some(vec![Acl::world(Perms::ALL)])
}

/// The session of the recording.
const SESSION: i64 = 0x0100_0020_6856_0000;

/// `/g` as it was created, its children left out.
const G: Stat = Stat {
    czxid: 2,
    mzxid: 2,
    ctime: 0x1a1_fa7e_fe02,
    mtime: 0x1a1_fa7e_fe02,
    version: 0,
    cversion: 3,
    aversion: 0,
    ephemeral_owner: 0,
    data_length: 3,
    num_children: 3,
    pzxid: 5,
};

/// `/g` with its data set to `two!`.
const G_SET: Stat = Stat {
    mzxid: 6,
    mtime: 0x1a1_fa7e_fe18,
    version: 1,
    data_length: 4,
    ..G
};

/// A znode created by transaction `zxid` and not changed since.
fn fresh(zxid: i64, time: i64) -> Stat {
    Stat {
        czxid: zxid,
        mzxid: zxid,
        ctime: time,
        mtime: time,
        pzxid: zxid,
        ..Stat::default()
    }
}

#[test]
fn connect() {
    // A new session of 30 seconds, and its grant.
    check(
        &hex(
            "0000002d 00000000 00000000 00000000 00007530 00000000 00000000 00000010
             00000000 00000000 00000000 00000000 00",
        ),
        &Nothing,
        &ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: 0,
            timeout: 30_000,
            session_id: 0,
            password: Some(&[0; 16]),
            read_only: Some(false),
        },
    );
    check(
        &hex(
            "00000025 00000000 00007530 01000020 68560000 00000010 2818ffc6 956ac6ab
             460b9a86 66f9e163 00",
        ),
        &Nothing,
        &ConnectResponse {
            protocol_version: 0,
            timeout: 30_000,
            session_id: SESSION,
            password: Some(&hex("2818ffc6 956ac6ab 460b9a86 66f9e163")),
            read_only: Some(false),
        },
    );
    // A client that does not know the read-only flag, and a session that has expired.
    check(
        &hex(
            "0000002c 00000000 0000000000000000 00007530 0000000000000000
              00000010 00000000000000000000000000000000",
        ),
        &Nothing,
        &ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: 0,
            timeout: 30_000,
            session_id: 0,
            password: Some(&[0; 16]),
            read_only: None,
        },
    );
    check(
        &hex("00000024 00000000 00000000 0000000000000000
              00000010 00000000000000000000000000000000"),
        &Nothing,
        &ConnectResponse {
            protocol_version: 0,
            timeout: 0,
            session_id: 0,
            password: Some(&[0; 16]),
            read_only: None,
        },
    );
}

#[test]
fn ping() {
    request(
        &hex("00000008fffffffe0000000b"),
        xid::PING,
        OpCode::Ping,
        &Nothing,
    );
    reply(
        &hex("00000010fffffffe000000000000000100000000"),
        xid::PING,
        1,
        &Nothing,
    );
}

#[test]
fn auth() {
    request(
        &hex(
            "00000024 fffffffc 00000064 00000000 00000006 64696765 73740000 000a616e
             6e3a7365 63726574",
        ),
        xid::AUTH,
        OpCode::Auth,
        &AuthPacket {
            kind: 0,
            scheme: "digest",
            auth: Some(b"ann:secret"),
        },
    );
    reply(
        &hex("00000010fffffffc000000000000000000000000"),
        xid::AUTH,
        0,
        &Nothing,
    );
}

#[test]
fn sasl() {
    // An empty token, to a server that has no SASL configured.
    request(
        &hex("0000000c0000001c0000006600000000"),
        28,
        OpCode::Sasl,
        &SaslToken { token: Some(b"") },
    );
    reply(
        &hex("000000140000001c000000000000000000000000ffffffff"),
        28,
        0,
        &SaslToken { token: None },
    );
}

#[test]
fn create() {
    request(
        &hex(
            "00000034 00000001 00000001 00000002 2f670000 00036f6e 65000000 01000000
             1f000000 05776f72 6c640000 0006616e 796f6e65 00000000",
        ),
        1,
        OpCode::Create,
        &CreateRequest {
            path: "/g",
            data: Some(b"one"),
            acl: open(),
            flags: CreateMode::Persistent.number(),
        },
    );
    reply(
        &hex("0000001600000001000000000000000200000000000000022f67"),
        1,
        2,
        &CreateResponse { path: "/g" },
    );
}

#[test]
fn create2() {
    // Ephemeral and sequential, with null data.
    request(
        &hex(
            "00000034 00000002 0000000f 00000005 2f672f65 2dffffff ff000000 01000000
             1f000000 05776f72 6c640000 0006616e 796f6e65 00000003",
        ),
        2,
        OpCode::Create2,
        &CreateRequest {
            path: "/g/e-",
            data: None,
            acl: open(),
            flags: CreateMode::EphemeralSequential.number(),
        },
    );
    reply(
        &hex(
            "00000067 00000002 00000000 00000003 00000000 0000000f 2f672f65 2d303030
             30303030 30303000 00000000 00000300 00000000 00000300 0001a1fa 7efe0c00
             0001a1fa 7efe0c00 00000000 00000000 00000001 00002068 56000000 00000000
             00000000 00000000 000003",
        ),
        2,
        3,
        &Create2Response {
            path: "/g/e-0000000000",
            stat: Stat {
                ephemeral_owner: SESSION,
                ..fresh(3, 0x1a1_fa7e_fe0c)
            },
        },
    );
}

#[test]
fn create_container() {
    // Empty data, which is not null.
    request(
        &hex(
            "00000035 00000003 00000013 00000006 2f672f62 6f780000 00000000 00010000
             001f0000 0005776f 726c6400 00000661 6e796f6e 65000000 04",
        ),
        3,
        OpCode::CreateContainer,
        &CreateRequest {
            path: "/g/box",
            data: Some(b""),
            acl: open(),
            flags: CreateMode::Container.number(),
        },
    );
    reply(
        &hex(
            "0000005e 00000003 00000000 00000004 00000000 00000006 2f672f62 6f780000
             00000000 00040000 00000000 00040000 01a1fa7e fe0f0000 01a1fa7e fe0f0000
             00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
             0004",
        ),
        3,
        4,
        &Create2Response {
            path: "/g/box",
            stat: fresh(4, 0x1a1_fa7e_fe0f),
        },
    );
}

#[test]
fn create_ttl() {
    request(
        &hex(
            "0000003e 00000004 00000015 00000006 2f672f74 746c0000 00017400 00000100
             00001f00 00000577 6f726c64 00000006 616e796f 6e650000 00050000 00000000
             ea60",
        ),
        4,
        OpCode::CreateTtl,
        &CreateTtlRequest {
            path: "/g/ttl",
            data: Some(b"t"),
            acl: open(),
            flags: CreateMode::PersistentWithTtl.number(),
            ttl: 60_000,
        },
    );
    reply(
        &hex(
            "0000005e 00000004 00000000 00000005 00000000 00000006 2f672f74 746c0000
             00000000 00050000 00000000 00050000 01a1fa7e fe120000 01a1fa7e fe120000
             00000000 00000000 00000000 00000000 00000000 00010000 00000000 00000000
             0005",
        ),
        4,
        5,
        &Create2Response {
            path: "/g/ttl",
            stat: Stat {
                data_length: 1,
                ..fresh(5, 0x1a1_fa7e_fe12)
            },
        },
    );
}

#[test]
fn exists() {
    // With a watch, of a znode that is not there; without, of one that is.
    request(
        &hex("000000140000000500000003000000072f672f6e6f6e6501"),
        5,
        OpCode::Exists,
        &WatchedRequest {
            path: "/g/none",
            watch: true,
        },
    );
    failure(
        &hex("00000010000000050000000000000005ffffff9b"),
        5,
        5,
        ErrorCode::NO_NODE,
    );
    request(
        &hex("0000000f0000000600000003000000022f6700"),
        6,
        OpCode::Exists,
        &WatchedRequest {
            path: "/g",
            watch: false,
        },
    );
    reply(
        &hex(
            "00000054 00000006 00000000 00000005 00000000 00000000 00000002 00000000
             00000002 000001a1 fa7efe02 000001a1 fa7efe02 00000000 00000003 00000000
             00000000 00000000 00000003 00000003 00000000 00000005",
        ),
        6,
        5,
        &StatResponse { stat: G },
    );
}

#[test]
fn get_data() {
    request(
        &hex("0000000f0000000700000004000000022f6701"),
        7,
        OpCode::GetData,
        &WatchedRequest {
            path: "/g",
            watch: true,
        },
    );
    reply(
        &hex(
            "0000005b 00000007 00000000 00000005 00000000 00000003 6f6e6500 00000000
             00000200 00000000 00000200 0001a1fa 7efe0200 0001a1fa 7efe0200 00000000
             00000300 00000000 00000000 00000000 00000300 00000300 00000000 000005",
        ),
        7,
        5,
        &GetDataResponse {
            data: Some(b"one"),
            stat: G,
        },
    );
}

#[test]
fn set_data_and_its_event() {
    let body = SetDataRequest {
        path: "/g",
        data: Some(b"two!"),
        version: 0,
    };
    request(
        &hex("0000001a0000000800000005000000022f670000000474776f2100000000"),
        8,
        OpCode::SetData,
        &body,
    );
    reply(
        &hex("0000001effffffffffffffffffffffff000000000000000300000003000000022f67"),
        xid::NOTIFICATION,
        -1,
        &WatcherEvent::new(EventType::NodeDataChanged, "/g"),
    );
    reply(
        &hex(
            "00000054 00000008 00000000 00000006 00000000 00000000 00000002 00000000
             00000006 000001a1 fa7efe02 000001a1 fa7efe18 00000001 00000003 00000000
             00000000 00000000 00000004 00000003 00000000 00000005",
        ),
        8,
        6,
        &StatResponse { stat: G_SET },
    );
    // A version that does not match.
    let body = SetDataRequest {
        path: "/g",
        data: Some(b"x"),
        version: 0,
    };
    request(
        &hex("000000170000000900000005000000022f67000000017800000000"),
        9,
        OpCode::SetData,
        &body,
    );
    failure(
        &hex("00000010000000090000000000000007ffffff99"),
        9,
        7,
        ErrorCode::BAD_VERSION,
    );
}

#[test]
fn set_acl() {
    let acl = vec![
        Acl::new(Perms::ALL, "auth", ""),
        Acl::new(Perms::READ, "ip", "10.0.0.0/8"),
    ];
    let body = SetAclRequest {
        path: "/g/box",
        acl: Some(acl),
        version: 0,
    };
    request(
        &hex(
            "00000042 0000000a 00000007 00000006 2f672f62 6f780000 00020000 001f0000
             00046175 74680000 00000000 00010000 00026970 0000000a 31302e30 2e302e30
             2f380000 0000",
        ),
        10,
        OpCode::SetAcl,
        &body,
    );
    let stat = Stat {
        aversion: 1,
        ..fresh(4, 0x1a1_fa7e_fe0f)
    };
    reply(
        &hex(
            "00000054 0000000a 00000000 00000008 00000000 00000000 00000004 00000000
             00000004 000001a1 fa7efe0f 000001a1 fa7efe0f 00000000 00000000 00000001
             00000000 00000000 00000000 00000000 00000000 00000004",
        ),
        10,
        8,
        &StatResponse { stat },
    );
}

#[test]
fn get_acl() {
    // What `auth` stands for, and an address.
    request(
        &hex("000000120000000b00000006000000062f672f626f78"),
        11,
        OpCode::GetAcl,
        &PathRecord { path: "/g/box" },
    );
    reply(
        &hex(
            "000000a2 0000000b 00000000 00000008 00000000 00000002 0000001f 00000006
             64696765 73740000 0020616e 6e3a3752 4a664165 4976726c 347a646a 36735332
             66587251 48447648 4d3d0000 00010000 00026970 0000000a 31302e30 2e302e30
             2f380000 00000000 00040000 00000000 00040000 01a1fa7e fe0f0000 01a1fa7e
             fe0f0000 00000000 00000000 00010000 00000000 00000000 00000000 00000000
             00000000 0004",
        ),
        11,
        8,
        &GetAclResponse {
            acl: vec![
                Acl::new(Perms::ALL, "digest", "ann:7RJfAeIvrl4zdj6sS2fXrQHDvHM="),
                Acl::new(Perms::READ, "ip", "10.0.0.0/8"),
            ],
            stat: Stat {
                aversion: 1,
                ..fresh(4, 0x1a1_fa7e_fe0f)
            },
        },
    );
}

#[test]
fn get_children() {
    request(
        &hex("0000000f0000000c00000008000000022f6700"),
        12,
        OpCode::GetChildren,
        &WatchedRequest {
            path: "/g",
            watch: false,
        },
    );
    let children = vec!["e-0000000000", "box", "ttl"];
    reply(
        &hex(
            "00000032 0000000c 00000000 00000008 00000000 00000003 0000000c 652d3030
             30303030 30303030 00000003 626f7800 00000374 746c",
        ),
        12,
        8,
        &GetChildrenResponse { children },
    );
}

#[test]
fn get_children2() {
    let body = WatchedRequest {
        path: "/zookeeper",
        watch: false,
    };
    request(
        &hex("000000170000000d0000000c0000000a2f7a6f6f6b656570657200"),
        13,
        OpCode::GetChildren2,
        &body,
    );
    reply(
        &hex(
            "0000006b 0000000d 00000000 00000008 00000000 00000002 00000006 636f6e66
             69670000 00057175 6f746100 00000000 00000000 00000000 00000000 00000000
             00000000 00000000 00000000 000000ff fffffe00 00000000 00000000 00000000
             00000000 00000200 00000000 000000",
        ),
        13,
        8,
        &GetChildren2Response {
            children: vec!["config", "quota"],
            stat: Stat {
                cversion: -2,
                num_children: 2,
                ..Stat::default()
            },
        },
    );
}

#[test]
fn sync() {
    request(
        &hex("0000000e0000000e00000009000000022f67"),
        14,
        OpCode::Sync,
        &PathRecord { path: "/g" },
    );
    reply(
        &hex("000000160000000e000000000000000800000000000000022f67"),
        14,
        8,
        &PathRecord { path: "/g" },
    );
}

#[test]
fn multi() {
    let create = |path, data| CreateRequest {
        path,
        data,
        acl: open(),
        flags: 0,
    };
    let body = MultiRequest {
        ops: vec![
            MultiOp::Create(create("/g/m", Some(&b"d"[..]))),
            MultiOp::Create2(create("/g/n", None)),
            MultiOp::SetData(SetDataRequest {
                path: "/g/m",
                data: Some(b"e"),
                version: 0,
            }),
            MultiOp::Check(VersionRequest {
                path: "/g/m",
                version: 1,
            }),
            MultiOp::Delete(VersionRequest {
                path: "/g/m",
                version: 1,
            }),
        ],
    };
    request(
        &hex(
            "000000be 0000000f 0000000e 00000001 00ffffff ff000000 042f672f 6d000000
             01640000 00010000 001f0000 0005776f 726c6400 00000661 6e796f6e 65000000
             00000000 0f00ffff ffff0000 00042f67 2f6effff ffff0000 00010000 001f0000
             0005776f 726c6400 00000661 6e796f6e 65000000 00000000 0500ffff ffff0000
             00042f67 2f6d0000 00016500 00000000 00000d00 ffffffff 00000004 2f672f6d
             00000001 00000002 00ffffff ff000000 042f672f 6d000000 01ffffff ff01ffff
             ffff",
        ),
        15,
        OpCode::Multi,
        &body,
    );
    // The server answers the create2 as a plain create.
    let stat = Stat {
        version: 1,
        data_length: 1,
        ..fresh(9, 0x1a1_fa7e_fe28)
    };
    let body = MultiResponse {
        results: vec![
            MultiResult::Create(CreateResponse { path: "/g/m" }),
            MultiResult::Create(CreateResponse { path: "/g/n" }),
            MultiResult::SetData(StatResponse { stat }),
            MultiResult::Check,
            MultiResult::Delete,
        ],
    };
    reply(
        &hex(
            "0000009a 0000000f 00000000 00000009 00000000 00000001 00000000 00000000
             042f672f 6d000000 01000000 00000000 00042f67 2f6e0000 00050000 00000000
             00000000 00000900 00000000 00000900 0001a1fa 7efe2800 0001a1fa 7efe2800
             00000100 00000000 00000000 00000000 00000000 00000100 00000000 00000000
             00000900 00000d00 00000000 00000002 00000000 00ffffff ff01ffff ffff",
        ),
        15,
        9,
        &body,
    );
}

#[test]
fn multi_that_fails() {
    let body = MultiRequest {
        ops: vec![
            MultiOp::Delete(VersionRequest {
                path: "/g/n",
                version: 0,
            }),
            MultiOp::Check(VersionRequest {
                path: "/g",
                version: 9,
            }),
            MultiOp::SetData(SetDataRequest {
                path: "/g",
                data: Some(b"x"),
                version: -1,
            }),
        ],
    };
    request(
        &hex(
            "00000051 00000010 0000000e 00000002 00ffffff ff000000 042f672f 6e000000
             00000000 0d00ffff ffff0000 00022f67 00000009 00000005 00ffffff ff000000
             022f6700 00000178 ffffffff ffffffff 01ffffff ff",
        ),
        16,
        OpCode::Multi,
        &body,
    );
    let body = MultiResponse {
        results: vec![
            MultiResult::Error(ErrorCode::OK),
            MultiResult::Error(ErrorCode::BAD_VERSION),
            MultiResult::Error(ErrorCode::RUNTIME_INCONSISTENCY),
        ],
    };
    reply(
        &hex(
            "00000040 00000010 00000000 0000000a 00000000 ffffffff 00000000 00000000
             00ffffff ff00ffff ff99ffff ff99ffff ffff00ff fffffeff fffffeff ffffff01
             ffffffff",
        ),
        16,
        10,
        &body,
    );
}

#[test]
fn multi_read() {
    let read = |path| WatchedRequest { path, watch: false };
    let body = MultiRequest {
        ops: vec![
            MultiOp::GetData(read("/g")),
            MultiOp::GetChildren(read("/zookeeper")),
            MultiOp::GetData(read("/none")),
        ],
    };
    request(
        &hex(
            "0000004c 00000011 00000016 00000004 00ffffff ff000000 022f6700 00000008
             00ffffff ff000000 0a2f7a6f 6f6b6565 70657200 00000004 00ffffff ff000000
             052f6e6f 6e6500ff ffffff01 ffffffff",
        ),
        17,
        OpCode::MultiRead,
        &body,
    );
    let stat = Stat {
        cversion: 6,
        num_children: 4,
        pzxid: 9,
        ..G_SET
    };
    let body = MultiResponse {
        results: vec![
            MultiResult::GetData(GetDataResponse {
                data: Some(b"two!"),
                stat,
            }),
            MultiResult::GetChildren(GetChildrenResponse {
                children: vec!["config", "quota"],
            }),
            MultiResult::Error(ErrorCode::NO_NODE),
        ],
    };
    reply(
        &hex(
            "0000009b 00000011 00000000 0000000a 00000000 00000004 00000000 00000000
             0474776f 21000000 00000000 02000000 00000000 06000001 a1fa7efe 02000001
             a1fa7efe 18000000 01000000 06000000 00000000 00000000 00000000 04000000
             04000000 00000000 09000000 08000000 00000000 00020000 0006636f 6e666967
             00000005 71756f74 61ffffff ff00ffff ff9bffff ff9bffff ffff01ff ffffff",
        ),
        17,
        10,
        &body,
    );
}

#[test]
fn watches() {
    let body = |kind| WatchRequest { path: "/g", kind };
    let recursive = body(AddWatchMode::PersistentRecursive.number());
    request(
        &hex("00000012000000120000006a000000022f6700000001"),
        18,
        OpCode::AddWatch,
        &recursive,
    );
    reply(
        &hex("0000001400000012000000000000000a0000000000000000"),
        18,
        10,
        &ErrorResponse { err: ErrorCode::OK },
    );
    let any = body(WatcherType::Any.number());
    request(
        &hex("000000120000001300000011000000022f6700000003"),
        19,
        OpCode::CheckWatches,
        &any,
    );
    reply(
        &hex("0000001000000013000000000000000a00000000"),
        19,
        10,
        &Nothing,
    );
    request(
        &hex("000000120000001400000012000000022f6700000003"),
        20,
        OpCode::RemoveWatches,
        &any,
    );
    reply(
        &hex("0000001000000014000000000000000a00000000"),
        20,
        10,
        &Nothing,
    );
    // None is left.
    request(
        &hex("000000120000001500000012000000022f6700000003"),
        21,
        OpCode::RemoveWatches,
        &any,
    );
    failure(
        &hex("0000001000000015000000000000000affffff87"),
        21,
        10,
        ErrorCode::NO_WATCHER,
    );
}

#[test]
fn watches_set_again() {
    // Two of the three have something to tell.
    let body = SetWatches {
        relative_zxid: 1,
        data: vec!["/g"],
        exist: vec!["/g/none"],
        child: vec!["/g"],
    };
    request(
        &hex(
            "00000033 fffffff8 00000065 00000000 00000001 00000001 00000002 2f670000
             00010000 00072f67 2f6e6f6e 65000000 01000000 022f67",
        ),
        xid::SET_WATCHES,
        OpCode::SetWatches,
        &body,
    );
    let event = |bytes: &[u8], kind| {
        reply(bytes, xid::NOTIFICATION, -1, &WatcherEvent::new(kind, "/g"));
    };
    event(
        &hex("0000001effffffffffffffffffffffff000000000000000300000003000000022f67"),
        EventType::NodeDataChanged,
    );
    event(
        &hex("0000001effffffffffffffffffffffff000000000000000400000003000000022f67"),
        EventType::NodeChildrenChanged,
    );
    reply(
        &hex("00000010fffffff8000000000000000a00000000"),
        xid::SET_WATCHES,
        10,
        &Nothing,
    );

    let body = SetWatches2 {
        relative_zxid: 100,
        data: vec![],
        exist: vec!["/x"],
        child: vec![],
        persistent: vec!["/g"],
        persistent_recursive: vec!["/zookeeper"],
    };
    request(
        &hex(
            "0000003e fffffff8 00000069 00000000 00000064 00000000 00000001 00000002
             2f780000 00000000 00010000 00022f67 00000001 0000000a 2f7a6f6f 6b656570
             6572",
        ),
        xid::SET_WATCHES,
        OpCode::SetWatches2,
        &body,
    );
    reply(
        &hex("00000010fffffff8000000000000000a00000000"),
        xid::SET_WATCHES,
        10,
        &Nothing,
    );
}

#[test]
fn get_ephemerals() {
    request(
        &hex("0000000e0000001600000067000000022f67"),
        22,
        OpCode::GetEphemerals,
        &PathRecord { path: "/g" },
    );
    let paths = vec!["/g/e-0000000000"];
    reply(
        &hex(
            "00000027 00000016 00000000 0000000a 00000000 00000001 0000000f 2f672f65
             2d303030 30303030 303030",
        ),
        22,
        10,
        &GetEphemeralsResponse { paths },
    );
}

#[test]
fn get_all_children_number() {
    let body = PathRecord { path: "/g" };
    request(
        &hex("0000000e0000001700000068000000022f67"),
        23,
        OpCode::GetAllChildrenNumber,
        &body,
    );
    reply(
        &hex("0000001400000017000000000000000a0000000000000004"),
        23,
        10,
        &GetAllChildrenNumberResponse { total: 4 },
    );
}

#[test]
fn who_am_i() {
    request(
        &hex("00000008000000180000006b"),
        24,
        OpCode::WhoAmI,
        &Nothing,
    );
    let infos = vec![
        ClientInfo {
            scheme: "digest",
            user: "ann",
        },
        ClientInfo {
            scheme: "ip",
            user: "127.0.0.1",
        },
    ];
    reply(
        &hex(
            "00000038 00000018 00000000 0000000a 00000000 00000002 00000006 64696765
             73740000 0003616e 6e000000 02697000 00000931 32372e30 2e302e31",
        ),
        24,
        10,
        &WhoAmIResponse { infos },
    );
}

#[test]
fn reconfig() {
    // A standalone server does not allow it.
    let body = ReconfigRequest {
        joining: Some("server.2=127.0.0.1:2:3;4"),
        leaving: Some("3,4"),
        new_members: None,
        config_id: -1,
    };
    request(
        &hex(
            "00000037 00000019 00000010 00000018 73657276 65722e32 3d313237 2e302e30
             2e313a32 3a333b34 00000003 332c34ff ffffffff ffffffff ffffff",
        ),
        25,
        OpCode::Reconfig,
        &body,
    );
    failure(
        &hex("0000001000000019000000000000000bffffff85"),
        25,
        11,
        ErrorCode::RECONFIG_DISABLED,
    );
}

#[test]
fn delete() {
    // The event is that of the watch on children set again above.
    let body = VersionRequest {
        path: "/g/n",
        version: 0,
    };
    request(
        &hex("000000140000001a00000002000000042f672f6e00000000"),
        26,
        OpCode::Delete,
        &body,
    );
    let event = WatcherEvent::new(EventType::NodeChildrenChanged, "/g");
    reply(
        &hex("0000001effffffffffffffffffffffff000000000000000400000003000000022f67"),
        xid::NOTIFICATION,
        -1,
        &event,
    );
    reply(
        &hex("000000100000001a000000000000000c00000000"),
        26,
        12,
        &Nothing,
    );
}

#[test]
fn delete_container() {
    // Of a znode that is not one.
    request(
        &hex("000000120000001b00000014000000062f672f74746c"),
        27,
        OpCode::DeleteContainer,
        &PathRecord { path: "/g/ttl" },
    );
    failure(
        &hex("000000100000001b000000000000000dfffffff8"),
        27,
        13,
        ErrorCode::BAD_ARGUMENTS,
    );
}

#[test]
fn close_session() {
    request(
        &hex("000000080000001dfffffff5"),
        29,
        OpCode::CloseSession,
        &Nothing,
    );
    reply(
        &hex("000000100000001d000000000000000e00000000"),
        29,
        14,
        &Nothing,
    );
}

/// A transaction as it lies in the log between its checksum and length and its end byte.
fn transaction(text: &str, entry: &TxnEntry<'_>) {
    let bytes = hex(text);
    assert_eq!(entry.to_vec(), bytes);
    let mut reader = Reader::new(&bytes);
    assert_eq!(reader.read::<TxnEntry<'_>>().as_ref(), Ok(entry));
    assert!(reader.is_empty());
}

#[test]
fn transactions() {
    let header = |cxid, zxid, time, op: OpCode| TxnHeader {
        session_id: 0x0100_0028_19a4_0000,
        cxid,
        zxid,
        time,
        op: op.number(),
    };
    let digest = |digest| Some(TxnDigest { version: 2, digest });

    transaction(
        "0100002819a40000 00000000 0000000000000001 000001a1fa0b2eb8 fffffff6
         00007530
         00000002 0000000051c6d660",
        &TxnEntry {
            header: header(0, 1, 0x1a1_fa0b_2eb8, OpCode::CreateSession),
            txn: Txn::CreateSession(CreateSessionTxn { timeout: 30_000 }),
            digest: digest(0x51c6_d660),
        },
    );
    transaction(
        "0100002819a40000 00000001 0000000000000002 000001a1fa0b2ec9 00000001
         00000002 2f61 00000002 6869
         00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65
         01 00000001
         00000002 00000000c080266f",
        &TxnEntry {
            header: header(1, 2, 0x1a1_fa0b_2ec9, OpCode::Create),
            txn: Txn::Create(CreateTxn {
                path: "/a",
                data: Some(b"hi"),
                acl: open(),
                ephemeral: true,
                parent_cversion: 1,
            }),
            digest: digest(0xc080_266f),
        },
    );
    transaction(
        "0100002819a40000 00000002 0000000000000003 000001a1fa0b2ed9 fffffff5
         00000001 00000002 2f61
         00000002 00000000d199bd45",
        &TxnEntry {
            header: header(2, 3, 0x1a1_fa0b_2ed9, OpCode::CloseSession),
            txn: Txn::CloseSession(Some(vec!["/a"])),
            digest: digest(0xd199_bd45),
        },
    );
}
