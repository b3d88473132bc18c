//! What the tests that cross crates share: servers as processes, ours and Apache's, and a client
//! that sends any bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "support of tests: a step that fails is a test that fails, and says where"
)]

pub mod apache;
pub mod cluster;
pub mod differential;
pub mod foreign;
pub mod history;
pub mod network;
pub mod ours;
pub mod process;
pub mod raw;
pub mod recipe_simulation;
pub mod relay;
pub mod simulation;
pub mod small_disk;
pub mod workload;
