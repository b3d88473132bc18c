//! The client against a server that does exactly what a test tells it to: every loss, delay and
//! order of events is a line of the test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, in its helpers as well"
)]

mod linearizable;
mod requests;
mod sasl;
mod server;
mod session;
mod watches;
