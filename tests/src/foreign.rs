//! The programs of `tests/foreign`, which drive a server through clients that others wrote.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use quorate_client::{Client, Error};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use crate::apache::Apache;
use crate::ours::Quorate;
use crate::process::{Program, ServerProcess, Settings};

/// How long a program may take to do anything; a JVM starts in a second or two.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where Debian puts Java libraries.
const JARS: &str = "/usr/share/java";

/// What a program on Curator needs.
const CURATOR: [&str; 12] = [
    "zookeeper",
    "zookeeper-jute",
    "curator-recipes",
    "curator-framework",
    "curator-client",
    "curator-x-discovery",
    "jackson-annotations",
    "jackson-core",
    "jackson-databind",
    "guava",
    "slf4j-api",
    "slf4j-nop",
];

/// A file of `tests/foreign`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("foreign")
        .join(name)
}

/// The command that runs a script on kazoo, with the interpreter in `QUORATE_PYTHON` if that is set.
pub fn python(name: &str) -> Command {
    let python = env::var_os("QUORATE_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    // Python would leave its compiled form beside the script.
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script(name));
    command
}

/// The command that runs a class of Debian's jars.
pub fn java(jars: &[&str]) -> Command {
    let mut java = Command::new("java");
    java.args(["-XX:TieredStopAtLevel=1", "-cp", &class_path(jars)]);
    java
}

/// A program on Curator, compiled.
#[derive(Debug)]
pub struct Curator {
    class: &'static str,
    home: TempDir,
}

impl Curator {
    /// Compiles the class from the file of its name.
    pub fn compile(class: &'static str) -> Self {
        Self::compile_file(class, &script(&format!("{class}.java")))
    }

    /// Compiles the class from a file, which has its name too.
    pub fn compile_file(class: &'static str, file: &Path) -> Self {
        let home = TempDir::new().unwrap();
        // Debian's compiler for a machine that has no JDK.
        compile(
            Command::new("java")
                .args(["-cp", &format!("{JARS}/*")])
                .arg("org.eclipse.jdt.internal.compiler.batch.Main")
                .args(["-17", "-proc:none", "-cp", &class_path(&CURATOR), "-d"])
                .args([home.path(), file]),
        );
        Curator { class, home }
    }

    /// The command that runs it.
    pub fn command(&self) -> Command {
        self.java(&["-XX:TieredStopAtLevel=1"])
    }

    /// The command that runs it for long enough that what it does often is worth to be optimised.
    pub fn optimised(&self) -> Command {
        self.java(&[])
    }

    /// With the libraries in `QUORATE_CURATOR_CLASSPATH`, without it Debian's.
    fn java(&self, options: &[&str]) -> Command {
        let libraries = env::var("QUORATE_CURATOR_CLASSPATH");
        let libraries = libraries.unwrap_or_else(|_| class_path(&CURATOR));
        let class_path = format!("{}:{libraries}", self.home.path().display());
        let mut command = Command::new("java");
        command.args(options).args(["-cp", &class_path, self.class]);
        command
    }
}

/// A program that takes part in recipes through another library, as it is told; killed when it is
/// dropped.
#[derive(Debug)]
pub struct Foreigner {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Foreigner {
    /// Starts it with a server and a path.
    pub async fn start(mut command: Command, address: &str, path: &str) -> Self {
        command.args([address, path]);
        let mut process = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut foreigner = Foreigner {
            process,
            input,
            output,
        };
        assert_eq!(foreigner.told().await, "ready 0");
        foreigner
    }

    /// Tells it a line.
    pub async fn tell(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
    }

    /// The next line that it tells.
    pub async fn told(&mut self) -> String {
        let line = soon(self.output.next_line()).await.unwrap();
        line.expect("the program has ended")
    }

    /// Tells it a line, and answers the next that it tells.
    pub async fn ask(&mut self, line: &str) -> String {
        self.tell(line).await;
        self.told().await
    }

    /// Ends it without a word to the servers.
    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }
}

/// Runs a test on Apache ZooKeeper's server and on ours, each time with a client of ours and a
/// program, started with a path.
pub async fn on_both_servers(
    program: impl Fn() -> Command,
    path: &str,
    test: impl AsyncFn(Client, Foreigner),
) {
    on_server(Apache::from_env(), program(), path, &test).await;
    on_server(Quorate::from_env(), program(), path, &test).await;
}

async fn on_server(
    server: impl Program + 'static,
    program: Command,
    path: &str,
    test: impl AsyncFn(Client, Foreigner),
) {
    let settings = Settings::default().with("tickTime", 200);
    let server = ServerProcess::start(server, settings);
    let address = server.address().to_string();
    let builder = Client::builder().session_timeout(Duration::from_secs(4));
    let client = builder.connect(&address).await.unwrap();
    let foreigner = Foreigner::start(program, &address, path).await;
    test(client, foreigner).await;
}

/// Awaits that a znode has so many children.
pub async fn children(client: &Client, path: &str, number: usize) {
    soon(async {
        loop {
            match client.get_children_watched(path).await {
                Ok((names, ..)) if names.len() == number => return,
                Ok((_, _, watch)) => drop(watch.await.unwrap()),
                Err(Error::NoNode { .. }) => {
                    if let (None, watch) = client.exists_watched(path).await.unwrap() {
                        watch.await.unwrap();
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
}

/// Awaits what must happen.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

/// Runs a compiler, which must succeed.
pub fn compile(command: &mut Command) {
    let output = command.output().expect("the compiler is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
}

fn class_path(jars: &[&str]) -> String {
    let paths: Vec<String> = jars.iter().map(|jar| format!("{JARS}/{jar}.jar")).collect();
    paths.join(":")
}
