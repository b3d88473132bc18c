//! What was said of strangers: each is told once why it is refused, however often it comes back.

use std::collections::HashSet;
use std::net::IpAddr;

use parking_lot::Mutex;

/// Refusals that are remembered.
const MAX_TOLD: usize = 1024;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashSet<(IpAddr, &'static str)>>);

impl Told {
    /// Is this reason to be told of an address, which it was not yet?
    pub(super) fn is_news(&self, address: IpAddr, reason: &'static str) -> bool {
        let mut told = self.0.lock();
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        told.insert((address, reason))
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }
}
