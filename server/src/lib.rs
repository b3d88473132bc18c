//! A ZooKeeper server: the library for embedding it.
//!
//! [`Server`] is a running server; [`config`] holds its settings. The other modules are the rooms
//! of the house, and may be of use by themselves: [`tree`] is the state, [`storage`] the files,
//! [`txn`] turns requests into transactions, [`session`] knows when sessions expire, [`zab`] is how
//! the members of an ensemble agree.

pub mod config;
mod ensemble;
mod error;
mod net;
mod quorum;
mod server;
mod service;
pub mod session;
pub mod storage;
pub mod tree;
pub mod txn;
#[doc(hidden)]
pub mod zab;

pub use ensemble::{Ensemble, EnsembleBuilder};
pub use error::ServerError;
#[doc(hidden)]
pub use quorum::probe;
pub use server::{Builder, Server};
