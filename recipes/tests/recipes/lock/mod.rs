//! The exclusive lock.

mod exclusion;
mod holding;
mod queueing;
