//! Quorate.

pub mod config;
