//! Our server beside Apache ZooKeeper's: the same requests, the same answers.
//!
//! The reference is 3.9.4 or later: before, other requests take a zxid, and from then on nothing
//! can be compared. With an older one the test says so and compares nothing.
//!
//! - `QUORATE_DIFFERENTIAL_OPS`: how many requests, 20,000 without it.
//! - `QUORATE_DIFFERENTIAL_SEED`: run the program of this seed alone.
//! - `QUORATE_APACHE_CLASSPATH`: another version of the reference.
//! - `QUORATE_DIFFERENTIAL_SUBJECT`: the class path of a server of Apache's to compare with the
//!   reference, instead of ours.
#![cfg(feature = "peers")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::env;
use std::io::{self, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use quorate_tests::apache::Apache;
use quorate_tests::differential::rules::Version;
use quorate_tests::differential::run::{Kind, Report, run_seed, version};
use quorate_tests::ours::Quorate;

/// The first that numbers its transactions, and checks its ACLs, as ours does.
const OLDEST_REFERENCE: Version = Version(3, 9, 4);

/// Requests of one program: enough for the tree to grow old, few enough to start over often.
const PROGRAM: usize = 10_000;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
    )
}

fn subject() -> Kind {
    match env::var("QUORATE_DIFFERENTIAL_SUBJECT") {
        Ok(classpath) => Kind::Apache(Apache::new(classpath)),
        Err(_) => Kind::Quorate(Quorate::from_env()),
    }
}

#[test]
fn every_answer_is_the_same_as_apache_zookeepers() {
    let pair = [Kind::Apache(Apache::from_env()), subject()];
    let reference = version(&pair[0]);
    if reference < OLDEST_REFERENCE {
        writeln!(
            io::stderr(),
            "not compared: the reference is {reference}, and {OLDEST_REFERENCE} is wanted; \
             QUORATE_APACHE_CLASSPATH=DIR/* names another"
        )
        .unwrap();
        return;
    }
    let only = number("QUORATE_DIFFERENTIAL_SEED");
    let requests = number("QUORATE_DIFFERENTIAL_OPS").unwrap_or(20_000);
    let programs = only.map_or(requests.div_ceil(PROGRAM as u64), |_| 1);
    let first = only.unwrap_or(1);
    let next = AtomicU64::new(first);
    let total = Mutex::new(Report::default());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + programs || !failures.lock().unwrap().is_empty() {
                        return;
                    }
                    match run_seed(&pair, seed, PROGRAM, reference) {
                        Ok(report) => total.lock().unwrap().add(report),
                        Err(failure) => failures.lock().unwrap().push(failure),
                    }
                }
            });
        }
    });
    // Not captured: what was covered is part of the result.
    writeln!(io::stderr(), "{}", total.lock().unwrap()).unwrap();
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
