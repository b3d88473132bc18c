//! What recipes take from outside: numbers that nobody else has, and the time of day.

use std::time::SystemTime;

use quorate_client::Client;
use uuid::Uuid;

/// A number that nobody else has.
pub(crate) fn unique(client: &Client) -> Uuid {
    #[cfg(feature = "simulation")]
    if let Some(world) = client.world() {
        return Uuid::from_u128(world.unique());
    }
    let _ = client;
    Uuid::new_v4()
}

/// The time of day.
pub(crate) fn now(client: &Client) -> SystemTime {
    #[cfg(feature = "simulation")]
    if let Some(world) = client.world() {
        return world.now();
    }
    let _ = client;
    SystemTime::now()
}
