//! Sessions: their ids and passwords, and when they expire
//! (spec: client protocol, section 2.1; server semantics, section 2).

mod tracker;

use std::sync::atomic::{AtomicI64, Ordering};

pub use tracker::{Session, Tracker};

/// Bytes of a session's password.
pub const PASSWORD_SIZE: usize = 16;

/// Gives out session ids: the server's id in the top byte, the time of the start in the middle, a
/// counter at the end.
#[derive(Debug)]
pub struct SessionIds {
    next: AtomicI64,
}

impl SessionIds {
    /// Starts counting for the server `server_id` at `millis`, from any clock that does not go back
    /// between two starts of the server.
    pub fn new(server_id: i64, millis: u64) -> Self {
        let first = ((millis << 24) >> 8) | (server_id.cast_unsigned() << 56);
        // This one number is the mark of a container.
        let first = if first == 1 << 63 { first + 1 } else { first };
        SessionIds {
            next: AtomicI64::new(first.cast_signed()),
        }
    }

    /// A number that was not given out before.
    pub fn next(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// The password of a session: four words of `java.util.Random` seeded with the id, which every
/// server of an ensemble computes alike. It is a checksum, not a secret.
pub fn password(session: i64) -> [u8; PASSWORD_SIZE] {
    const SALT: u64 = 0xb341_5c00;
    const MULTIPLIER: u64 = 0x5_deec_e66d;
    const MASK: u64 = (1 << 48) - 1;
    let mut state = ((session.cast_unsigned() ^ SALT) ^ MULTIPLIER) & MASK;
    let mut password = [0; PASSWORD_SIZE];
    for word in password.chunks_exact_mut(4) {
        state = state.wrapping_mul(MULTIPLIER).wrapping_add(0xb) & MASK;
        word.copy_from_slice(&((state >> 16) as u32).to_le_bytes());
    }
    password
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_the_server_and_the_time() {
        let ids = SessionIds::new(1, 0x20_5f93);
        assert_eq!(ids.next(), 0x0100_0020_5f93_0000);
        assert_eq!(ids.next(), 0x0100_0020_5f93_0001);
        assert_ne!(SessionIds::new(0x80, 0).next().cast_unsigned(), 1 << 63);
    }

    #[test]
    fn passwords_are_apaches() {
        let expected = 0xaf22_9ad6_1030_b362_a5a2_3ada_d9c6_d534_u128.to_be_bytes();
        assert_eq!(password(0x0100_0020_5f93_0000), expected);
        assert_eq!(
            password(0x0700_0020_5f93_0000),
            expected,
            "the server is not covered"
        );
    }
}
