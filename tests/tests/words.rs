//! Four-letter words: ours by themselves, and beside those of Apache ZooKeeper.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of a test fail it like the test itself"
)]

use quorate_proto::{ErrorCode, OpCode, WatchedRequest};
use quorate_tests::ours::Quorate;
use quorate_tests::process::{ServerProcess, Settings, eventually, word};
use quorate_tests::raw::{PATIENCE, RawClient};

const EPHEMERAL: i32 = 1;

/// Two sessions with znodes, an ephemeral one among them, and watches of three paths.
fn populate(server: &ServerProcess) -> [RawClient; 2] {
    let mut clients = [10_000, 30_000].map(|timeout| RawClient::connect(server.address(), timeout));
    let [first, second] = &mut clients;
    assert_eq!(first.create("/a", b"data", 0), ErrorCode::OK);
    assert_eq!(first.create("/a/e", b"", EPHEMERAL), ErrorCode::OK);
    let watch = |client: &mut RawClient, op, path| {
        client.call(op, &WatchedRequest { path, watch: true });
    };
    watch(first, OpCode::GetData, "/a");
    watch(first, OpCode::GetChildren, "/a");
    watch(first, OpCode::Exists, "/none");
    watch(second, OpCode::GetData, "/a");
    clients
}

#[test]
fn what_happens_is_counted() {
    let server = ServerProcess::start(Quorate::from_env(), Settings::default());
    let ask = |name: &str| word(server.address(), name).unwrap();
    let [first, second] = populate(&server);
    let counted = |client: &RawClient, packets: u32| {
        let line = format!(
            " /{}[1](queued=0,recved={packets},sent={packets}",
            client.local_addr()
        );
        eventually("the counters", PATIENCE, || {
            ask("stat").contains(&line).then_some(())
        });
    };
    // The handshake, two writes and three reads; the handshake and a read.
    counted(&first, 6);
    counted(&second, 2);
    let metrics = ask("mntr");
    for line in [
        "zk_server_state\tstandalone\n",
        "zk_znode_count\t7\n",
        "zk_ephemerals_count\t1\n",
        "zk_watch_count\t4\n",
        "zk_global_sessions\t2\n",
        "zk_outstanding_requests\t0\n",
        "zk_num_alive_connections\t3\n",
    ] {
        assert!(metrics.contains(line), "{line:?} is not in\n{metrics}");
    }
    assert_eq!(ask("crst"), "Connection stats reset.\n");
    counted(&first, 0);
    assert_eq!(ask("srst"), "Server stats reset.\n");
    assert!(ask("srvr").contains("Latency min/avg/max: 0/0.0/0\nReceived: 1\nSent: 1\n"));
}

#[test]
fn only_srvr_is_answered_by_default() {
    let settings = Settings::default().with("4lw.commands.whitelist", "");
    let server = ServerProcess::start(Quorate::from_env(), settings);
    let ask = |name: &str| word(server.address(), name).unwrap();
    assert!(ask("srvr").contains("Mode: standalone"));
    assert_eq!(
        ask("ruok"),
        "ruok is not executed because it is not in the whitelist.\n"
    );
}

#[cfg(feature = "peers")]
mod beside_apache {
    use std::collections::BTreeSet;

    use quorate_tests::apache::Apache;

    use super::*;

    /// An answer without what no two servers have in common.
    fn mask(answer: &str, clients: &[RawClient; 2]) -> String {
        let mut text = answer.to_owned();
        for (client, name) in clients.iter().zip(["first", "second"]) {
            text = text.replace(&format!("{:#x}", client.session().id), name);
            text = text.replace(&client.local_addr().to_string(), name);
        }
        let unlike = [
            "127.0.0.1:",
            "est=",
            "lresp=",
            "llat=",
            "minlat=",
            "avglat=",
            "maxlat=",
            "recved=",
            "sent=",
            "queued=",
            "Size=",
            "_size: ",
            "clientPort=",
            "Sets (",
            "Latency min/avg/max: ",
            "Received: ",
            "Sent: ",
        ];
        for before in unlike {
            text = mask_number(&text, before);
        }
        // How many expire together, and when, is a matter of the moment of their start.
        let lines = text.lines().filter(|line| !line.contains(" expire at "));
        let lines = lines.map(|line| {
            let end = ["Zookeeper version: ", "zookeeper.version="]
                .iter()
                .find_map(|begin| Some(line.find(begin)? + begin.len()));
            let end = end.or_else(|| line.starts_with("data").then(|| line.find('=')).flatten());
            line[..end.unwrap_or(line.len())].to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Leaves out the digits, dots and slashes behind each `before`.
    fn mask_number(text: &str, before: &str) -> String {
        let mut masked = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(before) {
            let (head, tail) = rest.split_at(at + before.len());
            masked.push_str(head);
            rest = tail.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '/');
        }
        masked + rest
    }

    #[test]
    fn words_are_answered_alike() {
        let apache = ServerProcess::start(Apache::from_env(), Settings::default());
        let ours = ServerProcess::start(Quorate::from_env(), Settings::default());
        let (theirs, mine) = (populate(&apache), populate(&ours));
        let both = |name: &str| {
            let answer = |server: &ServerProcess| word(server.address(), name).unwrap();
            (mask(&answer(&apache), &theirs), mask(&answer(&ours), &mine))
        };
        for name in [
            "ruok", "isro", "srvr", "conf", "dirs", "wchs", "gtmk", "crst", "srst", "srvr", "nope",
        ] {
            let (theirs, mine) = both(name);
            assert_eq!(mine, theirs, "{name}");
        }
        // What comes from hash tables has no order.
        for name in ["stat", "cons", "wchc", "wchp", "dump"] {
            let (theirs, mine) = both(name);
            let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
            assert_eq!(sorted(&mine), sorted(&theirs), "{name}");
        }
        // Theirs tells more than ours; what ours tells, theirs has under the same name.
        for (name, end) in [("mntr", '\t'), ("envi", '=')] {
            let (theirs, mine) = both(name);
            let keys = |text: &str| {
                let keys = text.lines().filter_map(|line| line.split_once(end));
                keys.map(|(key, _)| key.to_owned()).collect::<BTreeSet<_>>()
            };
            let (theirs, mine) = (keys(&theirs), keys(&mine));
            assert!(
                !mine.is_empty() && mine.is_subset(&theirs),
                "{name}: {mine:?}"
            );
        }
    }

    #[test]
    fn only_what_the_list_allows_is_answered() {
        let settings = || Settings::default().with("4lw.commands.whitelist", "ruok, wchs");
        let apache = ServerProcess::start(Apache::from_env(), settings());
        let ours = ServerProcess::start(Quorate::from_env(), settings());
        for name in ["ruok", "wchs", "stat", "mntr", "isro", "conf", "stmk"] {
            let answers = [&apache, &ours].map(|server| word(server.address(), name).unwrap());
            assert_eq!(answers[0], answers[1], "{name}");
        }
        assert!(
            word(ours.address(), "srvr")
                .unwrap()
                .contains("Mode: standalone")
        );
    }
}
