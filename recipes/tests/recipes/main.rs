//! The recipes, against the servers that `servers` starts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails"
)]

mod bad_input;
mod barrier;
mod cache;
mod chroot;
mod config;
mod coordination;
mod counter;
mod election;
mod endings;
mod group;
mod history;
mod items;
mod lock;
mod locks;
mod name_service;
mod numbers;
mod partitioner;
mod relay;
mod rwlock;
mod semaphore;
mod servers;
mod spans;
mod support;
mod table;
