//! A member of an ensemble at work: the sockets, threads and timers that drive [`crate::zab`].

mod codec;
mod election;
mod faults;

pub use election::probe;
pub(crate) use faults::Faults;
