//! A ZooKeeper server: the library for embedding it.

pub mod config;
pub mod storage;
pub mod tree;
