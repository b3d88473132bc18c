//! The program `quorate-cli` against an embedded server: one-shot commands, scripts, the benchmark.

#![allow(clippy::unwrap_used, reason = "what is missing fails the test")]

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use quorate_server::Server;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// Longer than any run of the program takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server, and the program that is run against it.
struct Cli {
    server: Server,
}

/// What a run of the program left.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Cli {
    async fn start() -> Cli {
        let server = Server::builder().start().await.unwrap();
        Cli { server }
    }

    /// Runs the program with these arguments and this on its standard input.
    async fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let address = self.server.client_addr().unwrap().to_string();
        run(&[&["-server", &address], args].concat(), input).await
    }

    async fn run(&self, args: &[&str]) -> Ran {
        self.run_with_input(args, "").await
    }

    /// Runs a command that must succeed and answers what it prints.
    async fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran.out
    }

    /// Runs a command that must fail with `code` and answers what it says.
    async fn fails(&self, code: i32, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert_eq!(ran.out, "", "{args:?}");
        ran.err
    }

    async fn json(&self, args: &[&str]) -> Value {
        let out = self.run(&[&["--output", "json"], args].concat()).await.out;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }

    async fn stop(self) {
        self.server.shutdown().await.unwrap();
    }
}

async fn run(args: &[&str], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quorate-cli"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output: Output = timeout(DEADLINE, child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{args:?} takes longer than {DEADLINE:?}"))
        .unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shot_commands_print_what_zkcli_prints() {
    let cli = Cli::start().await;
    let created = cli.run(&["create", "/a", "two words"]).await;
    assert_eq!(
        (created.out.as_str(), created.err.as_str()),
        ("", "Created /a\n")
    );
    assert_eq!(cli.ok(&["get", "/a"]).await, "two words\n");
    assert_eq!(cli.ok(&["get", "-b", "/a"]).await, "dHdvIHdvcmRz\n");
    assert_eq!(cli.ok(&["ls", "/"]).await, "[a, zookeeper]\n");
    assert_eq!(cli.ok(&["create", "/a/null"]).await, "");
    assert_eq!(cli.ok(&["get", "/a/null"]).await, "null\n");
    assert_eq!(cli.ok(&["set", "/a", "v1", "-v", "0"]).await, "");
    assert_eq!(cli.ok(&["getAcl", "/a"]).await, "'world,'anyone\n: cdrwa\n");
    assert_eq!(cli.ok(&["getAllChildrenNumber", "/a"]).await, "1\n");
    assert_eq!(cli.ok(&["sync", "/a"]).await, "Sync is OK\n");
    assert!(
        cli.ok(&["whoami"])
            .await
            .starts_with("Auth scheme: User\nip: 127.0.0.1")
    );

    let stat = cli.ok(&["stat", "/a"]).await;
    let fields: Vec<&str> = stat
        .lines()
        .map(|l| l.split(" = ").next().unwrap())
        .collect();
    assert_eq!(
        fields.join(" "),
        "cZxid ctime mZxid mtime pZxid cversion dataVersion aclVersion ephemeralOwner dataLength \
         numChildren"
    );
    assert!(stat.contains("dataVersion = 1\n"), "{stat}");
    assert_eq!(cli.ok(&["get", "-s", "/a"]).await, format!("v1\n{stat}"));
    assert_eq!(cli.ok(&["delete", "/a/null"]).await, "");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_tell_what_to_do_and_set_the_exit_code() {
    let cli = Cli::start().await;
    cli.ok(&["create", "/a", "x"]).await;
    cli.ok(&["create", "/a/b", "x"]).await;
    for (args, says) in [
        (&["get", "/none"][..], "Node does not exist: /none"),
        (&["create", "/none/b"], "create its parent /none first"),
        (&["create", "/a"], "Node already exists: /a (`set /a DATA`"),
        (&["delete", "/a"], "Node not empty: /a (`deleteall /a`"),
        (
            &["set", "/a", "y", "-v", "7"],
            "version No is not valid : /a (`get -s /a`",
        ),
        (&["get", "a"], "must start with '/'"),
        (&["get"], "usage: get [-s]"),
        (&["get", "-q", "/a"], "no flag -q"),
        (&["set", "/a", "y", "-v", "x"], "-v cannot be \"x\""),
        (&["create", "/c", "x", "world:anyone"], "scheme:id:perms"),
        (
            &["create", "-c", "-e", "/c"],
            "-c and -e exclude each other",
        ),
        (&["setquota", "-n", "0", "/a"], "a number of znodes above 0"),
        (&["listquota", "/a"], "quota for /a does not exist."),
    ] {
        let said = cli.fails(1, args).await;
        assert!(said.contains(says), "{args:?}: {said}");
    }
    let said = cli.fails(127, &["gte", "/a"]).await;
    assert!(said.contains("no command \"gte\""), "{said}");
    assert!(cli.fails(127, &["getacl"]).await.contains("\"getAcl\"?"));
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_is_said() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = unused.local_addr().unwrap().to_string();
    drop(unused);
    let ran = run(&["--server", &address, "--timeout", "500", "ls", "/"], "").await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("could be reached"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_shows_events_and_ends_with_the_code_of_its_last_command() {
    let cli = Cli::start().await;
    let script = "create /a 'first data'\n\
                  get -w /a\n\
                  \n\
                  set /a second\n\
                  sync /a\n\
                  create -s /a/n-\n\
                  create -e /a/mine\n\
                  getEphemerals\n\
                  redo 1\n\
                  get /none\n\
                  quit\n\
                  get /never-run\n";
    let ran = cli.run_with_input(&[], script).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(
        ran.err,
        "Created /a\nCreated /a/n-0000000000\nCreated /a/mine\nNode does not exist: /none\n"
    );
    // The event is an affair of its own and may be printed in front of an answer or behind it.
    let event =
        "\nWATCHER::\n\nWatchedEvent state:SyncConnected type:NodeDataChanged path:/a zxid: ";
    let at = ran.out.find(event).unwrap_or_else(|| panic!("{ran:?}"));
    let rest = &ran.out[at + event.len()..];
    let behind = rest.split_once('\n').unwrap().1;
    let answers = format!("{}{behind}", &ran.out[..at]);
    assert_eq!(answers, "first data\nSync is OK\n[/a/mine]\nsecond\n");
    // The session of the script is over, and so is its ephemeral znode.
    assert_eq!(cli.ok(&["ls", "/a"]).await, "[n-0000000000]\n");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_read_json() {
    let cli = Cli::start().await;
    assert_eq!(cli.json(&["create", "/a", "text"]).await["path"], "/a");
    let got = cli.json(&["get", "/a"]).await;
    assert_eq!(
        (&got["data"], &got["stat"]["version"]),
        (&"text".into(), &0.into())
    );
    cli.ok(&["set", "-b", "/a", "/w=="]).await;
    assert_eq!(cli.json(&["get", "/a"]).await["data_base64"], "/w==");
    assert_eq!(
        cli.json(&["ls", "/a"]).await["children"],
        Value::Array(vec![])
    );
    let failed = cli.json(&["get", "/none"]).await;
    assert_eq!(failed["error"]["kind"], "NO_NODE");
    assert_eq!(failed["error"]["code"], -101);
    assert_eq!(
        cli.json(&["nonsense"]).await["error"]["kind"],
        "UNKNOWN_COMMAND"
    );
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subtrees_are_listed_and_deleted() {
    let cli = Cli::start().await;
    let script = "create /t\ncreate /t/a\ncreate /t/a/b\ncreate /t/a-b\ncreate /t/c\n";
    cli.run_with_input(&[], script).await;
    assert_eq!(
        cli.ok(&["ls", "-R", "/t"]).await,
        "/t\n/t/a\n/t/a/b\n/t/a-b\n/t/c\n"
    );
    cli.ok(&["setAcl", "-R", "/t", "world:anyone:cdra"]).await;
    assert_eq!(
        cli.ok(&["getAcl", "/t/a/b"]).await,
        "'world,'anyone\n: cdra\n"
    );
    assert!(
        cli.fails(1, &["set", "/t/c", "x"])
            .await
            .starts_with("Insufficient permission")
    );
    assert_eq!(cli.json(&["deleteall", "/t"]).await["deleted"], 5);
    cli.fails(1, &["get", "/t"]).await;
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_set_listed_and_removed() {
    let cli = Cli::start().await;
    cli.run_with_input(&[], "create /q\ncreate /q/below x\n")
        .await;
    cli.ok(&["setquota", "-n", "5", "/q"]).await;
    assert_eq!(
        cli.ok(&["listquota", "/q"]).await,
        "Output quota for /q count=5,bytes=-1=;byteHardLimit=-1;countHardLimit=-1\n\
         Output stat for /q count=2,bytes=1\n"
    );
    let said = cli.fails(1, &["setquota", "-n", "5", "/q/below"]).await;
    assert!(said.contains("has a parent /q which has a quota"), "{said}");
    cli.ok(&["setquota", "-B", "9", "/q"]).await;
    cli.ok(&["delquota", "-n", "/q"]).await;
    let limits = cli.json(&["listquota", "/q"]).await;
    assert_eq!(limits["limits"]["count"], Value::Null);
    assert_eq!(limits["limits"]["hard_bytes"], 9);
    cli.ok(&["delquota", "/q"]).await;
    assert_eq!(
        cli.ok(&["delquota", "/q"]).await,
        "Quota does not exist for /q\n"
    );
    assert_eq!(cli.ok(&["ls", "/zookeeper/quota"]).await, "[]\n");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_measures_and_cleans_up() {
    let cli = Cli::start().await;
    let mix = [
        "bench",
        "--reads",
        "50",
        "--nodes",
        "1500",
        "--value-size",
        "100",
    ];
    let brief = [
        "--connections",
        "3",
        "--depth",
        "4",
        "--duration",
        "1",
        "--warmup",
        "0",
    ];
    let pid = std::process::id().to_string();
    let measured = cli
        .json(&[&mix[..], &brief, &["--server-pid", &pid]].concat())
        .await;
    assert_eq!(measured["errors"], serde_json::json!({}));
    assert_eq!(measured["lost_connections"], serde_json::json!([]));
    for kind in ["reads", "writes"] {
        assert!(measured[kind]["count"].as_u64().unwrap() > 0, "{measured}");
        assert!(measured[kind]["p50_us"].as_f64() <= measured[kind]["max_us"].as_f64());
    }
    assert!(
        measured["server_processes"][0]["resident_after"]
            .as_u64()
            .unwrap()
            > 0
    );

    let told = cli
        .json(&["bench", "--watchers", "20", "--duration", "1"])
        .await;
    assert_eq!(told["watchers"], 20);
    assert!(told["rounds"].as_u64().unwrap() > 0);

    assert_eq!(cli.ok(&["ls", "/"]).await, "[zookeeper]\n");
    let kept = cli
        .json(&["bench", "--create", "1234", "--value-size", "10", "--keep"])
        .await;
    let root = kept["kept"].as_str().unwrap();
    // Two folders beside the znodes.
    assert_eq!(cli.ok(&["getAllChildrenNumber", root]).await, "1236\n");
    cli.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_benchmark_outlives_its_server() {
    let data = tempfile::TempDir::new().unwrap();
    let start = async |port| {
        let server = Server::builder().data_dir(data.path()).client_port(port);
        server.start().await.unwrap()
    };
    let cli = Cli {
        server: start(0).await,
    };
    let address = cli.server.client_addr().unwrap();
    let servers = address.to_string();
    let bench = tokio::spawn(async move {
        let load = "--output json bench --connections 3 --depth 4 --reads 50 --nodes 10";
        let time = "--value-size 9 --duration 3 --warmup 0";
        let words = load.split(' ').chain(time.split(' '));
        run(
            &["--server", &servers]
                .into_iter()
                .chain(words)
                .collect::<Vec<_>>(),
            "",
        )
        .await
    });
    // Only what is measured sets the data of a znode again.
    let written = async {
        loop {
            let root = cli.ok(&["ls", "/"]).await;
            let root = root
                .trim_matches(['[', ']', '\n'])
                .split(", ")
                .next()
                .unwrap();
            let stat = cli.run(&["stat", &format!("/{root}/000000/000")]).await;
            if stat.code == Some(0) && !stat.out.contains("dataVersion = 0\n") {
                return;
            }
        }
    };
    timeout(DEADLINE, written).await.unwrap();
    cli.stop().await;
    let stopped = Instant::now();
    let cli = Cli {
        server: start(address.port()).await,
    };
    let away = stopped.elapsed();
    let ran = bench.await.unwrap();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let measured: Value = serde_json::from_str(&ran.out).unwrap();
    // Every session went on, and with it all was removed that the run had created.
    assert_eq!(measured["errors"], serde_json::json!({}), "{measured}");
    assert_eq!(
        measured["lost_connections"].as_array().unwrap().len(),
        3,
        "{measured}"
    );
    assert!(
        measured["writes"]["count"].as_u64().unwrap() > 0,
        "{measured}"
    );
    let gap = measured["longest_write_gap_ms"].as_f64().unwrap();
    assert!(gap > away.as_secs_f64() * 1e3, "{away:?}: {measured}");
    assert_eq!(cli.ok(&["ls", "/"]).await, "[zookeeper]\n");
    cli.stop().await;
}

#[tokio::test]
async fn a_password_comes_from_a_file_or_the_environment_and_is_not_printed() {
    let cli = Cli::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let file = file.to_str().unwrap();
    let user = ["--sasl-user", "alice"];
    // The server has no users, so it refuses every one.
    let said = cli
        .fails(
            1,
            &[&user[..], &["--sasl-password-file", file, "ls", "/"]].concat(),
        )
        .await;
    assert!(
        said.contains("as \"alice\"") && !said.contains("secret"),
        "{said}"
    );
    let said = cli.fails(1, &[&user[..], &["ls", "/"]].concat()).await;
    assert!(said.contains("QUORATE_SASL_PASSWORD"), "{said}");
    let absent = [
        &user[..],
        &["--sasl-password-file", "/no/such/file", "ls", "/"],
    ]
    .concat();
    let said = cli.fails(1, &absent).await;
    assert!(said.contains("/no/such/file"), "{said}");
    let said = cli.fails(1, &[&user[..], &["bench"]].concat()).await;
    assert!(said.contains("does not authenticate"), "{said}");
    cli.stop().await;
}
