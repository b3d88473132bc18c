//! Ensembles in which our servers and Apache's are members side by side.
#![cfg(feature = "peers")]

use quorate_tests::apache::Apache;
use quorate_tests::cluster::{Cluster, Role, Seat};

#[test]
fn apache() {
    let seats = vec![
        Seat::voter(Apache::from_env()),
        Seat::voter(Apache::from_env()),
        Seat::voter(Apache::from_env()),
        Seat::observer(Apache::from_env()),
    ];
    let mut cluster = Cluster::start(seats, Cluster::settings());
    let leader = cluster.leader();
    eprintln!("leader {leader}");
    assert_eq!(cluster.role(4), Some(Role::Observer));
    cluster.kill(leader);
    let next = cluster.settle();
    assert_ne!(next, leader);
    cluster.restart(leader);
    cluster.pause(next);
    eprintln!("leader {}", cluster.settle());
    cluster.resume(next);
    cluster.settle();
}
