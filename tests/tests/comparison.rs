//! The ten tasks in three languages that the documentation of the recipes compares: the Java and
//! Python programs run, and none is shorter than ours, which the tests of the documentation compile.
#![cfg(feature = "peers")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::fmt::Write;
use std::fs;
use std::process::Command;

use quorate_tests::foreign::{self, Curator};
use quorate_tests::ours::Quorate;
use quorate_tests::process::{ServerProcess, Settings};
use tempfile::TempDir;

const COMPARISON: &str = include_str!("../../recipes/src/comparison.md");

const IMPORTS: &str = "
import java.util.Collection;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.apache.curator.framework.*;
import org.apache.curator.framework.recipes.atomic.*;
import org.apache.curator.framework.recipes.barriers.*;
import org.apache.curator.framework.recipes.cache.*;
import org.apache.curator.framework.recipes.leader.*;
import org.apache.curator.framework.recipes.locks.*;
import org.apache.curator.framework.recipes.nodes.*;
import org.apache.curator.retry.RetryForever;
import static org.apache.curator.framework.recipes.cache.CuratorCache.Options.*;
";

/// The programs in a language, one for each task.
fn programs(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = COMPARISON.split(&fence).skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    // What the documentation does not show.
    let shown = |block: &str| {
        let lines = block.lines().filter(|line| !line.starts_with("# "));
        lines.map(|line| format!("{line}\n")).collect()
    };
    blocks.map(shown).collect()
}

#[test]
fn ours_is_never_longer() {
    let ours = programs("rust,no_run");
    assert_eq!(ours.len(), 10);
    for language in ["java", "python"] {
        let theirs = programs(language);
        assert_eq!(theirs.len(), ours.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let longer = ours.lines().count() > theirs.lines().count();
            assert!(!longer, "{ours} is longer than {theirs}");
        }
    }
}

#[tokio::test]
async fn the_programs_in_java_run() {
    let mut methods = String::new();
    let mut calls = String::new();
    for (n, program) in programs("java").iter().enumerate().skip(1) {
        writeln!(calls, "task{n}(client);").unwrap();
        let head = format!("static void task{n}(CuratorFramework client) throws Exception");
        writeln!(methods, "{head} {{ {program} }}").unwrap();
    }
    let connect = &programs("java")[0];
    let source = format!(
        "{IMPORTS} public final class Comparison {{ static int worked; {methods}
        static void work() {{ worked += 1; }}
        public static void main(String[] args) throws Exception {{
            String servers = args[0]; {connect} {calls}
            System.out.println(\"worked \" + worked); System.exit(0); }} }}"
    );
    let home = TempDir::new().unwrap();
    let file = home.path().join("Comparison.java");
    fs::write(&file, source).unwrap();
    let curator = Curator::compile_file("Comparison", &file);
    runs(curator.command()).await;
}

#[tokio::test]
async fn the_programs_in_python_run() {
    let programs = programs("python").join("\n");
    let home = TempDir::new().unwrap();
    let file = home.path().join("comparison.py");
    let source = format!(
        "import sys\nfrom kazoo.client import KazooClient\nservers = sys.argv[1]\nworked = 0\n\
         def work():\n    global worked\n    worked += 1\n{programs}\n\
         print('worked', worked)\nclient.stop()\n"
    );
    fs::write(&file, source).unwrap();
    runs(foreign::python(file.to_str().unwrap())).await;
}

/// Runs programs that do their work in five of the tasks.
async fn runs(command: Command) {
    let settings = Settings::default().with("tickTime", 200);
    let server = ServerProcess::start(Quorate::from_env(), settings);
    let mut command = tokio::process::Command::from(command);
    command.arg(server.address().to_string()).kill_on_drop(true);
    let output = foreign::soon(command.output()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}{errors}");
    assert!(told.trim_end().ends_with("worked 5"), "{told}{errors}");
}
