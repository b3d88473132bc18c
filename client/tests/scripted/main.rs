//! The client against a server that does exactly what a test tells it to: every loss, delay and
//! order of events is a line of the test.

mod requests;
mod server;
mod session;
