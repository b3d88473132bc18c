//! Storage against directories of Apache ZooKeeper, broken files and broken disks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the helpers of a test fail it like the test itself"
)]

mod cases;
mod crash;
mod damage;
mod disks;
mod fixtures;
mod fuzzy;
mod golden;
mod replica;
mod stream;
mod support;
mod writing;
