//! Credentials (spec: client protocol, section 11.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quorate_proto::{AuthPacket, Id};
use sha1::{Digest, Sha1};

use super::Connection;
use crate::config::Config;

/// Adds the identities that a credential proves to the connection; false if it proves nothing, or
/// if the connection has too many of them already.
pub(super) fn authenticate(
    config: &Config,
    connection: &Connection,
    packet: &AuthPacket<'_>,
) -> bool {
    match packet.scheme {
        "ip" => connection.add_id(Id::new("ip", connection.address().ip().to_string())),
        "digest" if config.digest_auth_enabled => {
            let digest = digest(packet.auth.unwrap_or_default());
            let is_super = config
                .super_digest
                .as_ref()
                .is_some_and(|expected| expected.expose() == digest);
            (!is_super || connection.add_id(Id::new("super", "")))
                && connection.add_id(Id::new("digest", digest))
        }
        _ => false,
    }
}

/// The identity of `user:password`: the user, and a hash of the whole.
pub(super) fn digest(credential: &[u8]) -> String {
    let text = String::from_utf8_lossy(credential);
    let user = text.split_once(':').map_or(&*text, |(user, _)| user);
    format!("{user}:{}", STANDARD.encode(Sha1::digest(text.as_bytes())))
}

/// An identity without what is secret about it, as `whoAmI` shows it.
pub(super) fn user<'a>(id: &'a Id<'_>) -> &'a str {
    match &*id.scheme {
        "digest" => id.id.split(':').next().unwrap_or_default(),
        _ => &id.id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_match_the_published_vector() {
        assert_eq!(digest(b"user1:12345"), "user1:+owfoSBn/am19roBPzR1/MfCblE=");
        assert_eq!(user(&Id::new("digest", digest(b"user1:12345"))), "user1");
    }
}
