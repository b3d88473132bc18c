//! The lock, against an embedded server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails"
)]

mod exclusion;
mod history;
mod holding;
mod queueing;
mod relay;
mod support;
