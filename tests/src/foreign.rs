//! The programs of `tests/foreign`, which drive a server through clients that others wrote.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Where Debian puts Java libraries.
const JARS: &str = "/usr/share/java";

/// What a program on Curator needs.
const CURATOR: [&str; 8] = [
    "zookeeper",
    "zookeeper-jute",
    "curator-recipes",
    "curator-framework",
    "curator-client",
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
        let home = TempDir::new().unwrap();
        // Debian's compiler for a machine that has no JDK.
        compile(
            Command::new("java")
                .args(["-cp", &format!("{JARS}/*")])
                .arg("org.eclipse.jdt.internal.compiler.batch.Main")
                .args(["-17", "-proc:none", "-cp", &class_path(&CURATOR), "-d"])
                .args([home.path(), &script(&format!("{class}.java"))]),
        );
        Curator { class, home }
    }

    /// The command that runs it.
    pub fn command(&self) -> Command {
        let class_path = format!("{}:{}", self.home.path().display(), class_path(&CURATOR));
        let mut command = Command::new("java");
        command.args(["-XX:TieredStopAtLevel=1", "-cp", &class_path, self.class]);
        command
    }
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
