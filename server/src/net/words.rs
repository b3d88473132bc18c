//! Four-letter words: questions of operators and their scripts
//! (spec: client protocol, section 14).

use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

use crate::service::Service;

/// What servers of the family say of their version, with ours behind it.
const VERSION: &str = concat!("3.9.5-quorate-", env!("CARGO_PKG_VERSION"));

/// The word that a connection begins with, if it is one.
pub(super) fn word(input: &[u8]) -> Option<&'static str> {
    const WORDS: [&str; 2] = ["ruok", "srvr"];
    WORDS
        .into_iter()
        .find(|word| input.starts_with(word.as_bytes()))
}

/// The answer to a word.
pub(super) fn answer(word: &str, _argument: &[u8], service: &Service) -> Option<String> {
    if !service.config.four_letter_words.allows(word) {
        return Some(format!(
            "{word} is not executed because it is not in the whitelist.\n"
        ));
    }
    match word {
        "ruok" => Some("imok".to_owned()),
        "srvr" => Some(srvr(service)),
        _ => None,
    }
}

fn srvr(service: &Service) -> String {
    let stats = &service.stats;
    let tree = service.tree();
    let mut text = String::new();
    let _ = write!(
        text,
        "Zookeeper version: {VERSION}, built on 2026-11-20 00:00 UTC\n\
         Latency min/avg/max: {}/{}/{}\n\
         Received: {}\nSent: {}\nConnections: {}\nOutstanding: {}\nZxid: {:#x}\n\
         Mode: standalone\nNode count: {}\n",
        stats.latency.min(),
        stats.latency.average(),
        stats.latency.max(),
        stats.received.load(Relaxed),
        stats.sent.load(Relaxed),
        service.connections.len(),
        stats.outstanding.load(Relaxed),
        tree.last_zxid(),
        tree.len() + 1,
    );
    text
}
