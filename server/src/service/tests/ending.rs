//! How services end.

use std::sync::Arc;

use super::*;
use crate::config::Config;
use crate::error::ServerError;
use crate::service::{Outlet, Phase, Service};
use crate::zab::{Link, Packet};

/// No way to other members.
#[derive(Debug)]
struct Nowhere;

impl Outlet for Nowhere {
    fn send(&self, _: Link, _: &[Packet]) {}
    fn proposals(&self) {}
}

/// The threads of a service end each other: whichever is faster, what was the cause stays it.
#[test]
fn why_a_service_ends_is_not_lost() {
    for _ in 0..100 {
        let service = Service::new(Config::temporary().unwrap(), Tree::new());
        let service = Arc::new(service);
        let applier = service.join(Arc::new(Nowhere)).unwrap();
        service.stopped(Some(ServerError::Panicked));
        applier.join().unwrap();
        let phase = service.phase();
        assert!(matches!(*phase.borrow(), Phase::Stopped(Some(_))));
    }
}
