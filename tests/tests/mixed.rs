//! Ensembles in which our servers and Apache's are members side by side.
#![cfg(feature = "peers")]

use quorate_tests::apache::Apache;
use quorate_tests::cluster::{Cluster, Role, Seat};
use quorate_tests::workload::Load;

#[test]
fn apache() {
    let seats = vec![
        Seat::voter(Apache::from_env()),
        Seat::voter(Apache::from_env()),
        Seat::voter(Apache::from_env()),
        Seat::observer(Apache::from_env()),
    ];
    let mut cluster = Cluster::start(seats, Cluster::settings());
    let load = Load::start(&cluster.addresses(), 6);
    let leader = cluster.leader();
    eprintln!("leader {leader}");
    assert_eq!(cluster.role(4), Some(Role::Observer));
    load.progress(5000);
    cluster.kill(leader);
    let next = cluster.settle();
    load.progress(1000);
    assert_ne!(next, leader);
    cluster.restart(leader);
    cluster.settle();
    cluster.pause(next);
    eprintln!("leader {}", cluster.settle());
    load.progress(1000);
    cluster.resume(next);
    cluster.settle();
    load.progress(1000);
    load.finish();
}
