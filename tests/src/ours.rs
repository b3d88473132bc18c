//! Our server, as the program that operators run.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process::{Program, Settings, lines};

/// How to run `quorate-server`.
#[derive(Debug, Clone)]
pub struct Quorate {
    program: PathBuf,
}

impl Quorate {
    /// The program in `QUORATE_SERVER`, without it the one that is built from this workspace in the
    /// profile of the test.
    pub fn from_env() -> Self {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        let program = match env::var_os("QUORATE_SERVER") {
            Some(path) => path.into(),
            None => BUILT.get_or_init(build).clone(),
        };
        Quorate { program }
    }

    /// Where the program is.
    pub fn path(&self) -> &Path {
        &self.program
    }
}

impl Program for Quorate {
    fn name(&self) -> String {
        format!("quorate-server ({})", self.program.display())
    }

    fn zoo_cfg(&self, settings: &Settings) -> String {
        lines(settings.iter())
    }

    fn command(&self, zoo_cfg: &Path, _: &Settings) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("start-foreground").arg(zoo_cfg);
        command
    }
}

/// Builds the program: Cargo does so for the tests of its own package only.
fn build() -> PathBuf {
    let test = env::current_exe().unwrap();
    // target/PROFILE/deps/TEST
    let profile = test.ancestors().nth(2).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            "--quiet",
            "--package",
            "quorate-server",
            "--bin",
            "quorate-server",
        ])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"),
        ])
        .arg("--target-dir")
        .arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().unwrap();
    assert!(status.success(), "quorate-server does not build: {status}");
    profile.join("quorate-server")
}
