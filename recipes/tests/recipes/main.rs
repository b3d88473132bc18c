//! The recipes, against an embedded server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails"
)]

mod barrier;
mod cache;
mod config;
mod election;
mod group;
mod history;
mod lock;
mod locks;
mod relay;
mod rwlock;
mod semaphore;
mod support;
