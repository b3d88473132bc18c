//! The types of those settings that are neither numbers, times, sizes nor paths.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

/// Which four-letter words a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FourLetterWords {
    /// Every word.
    All,
    /// These words and no other.
    Only(BTreeSet<String>),
}

impl FourLetterWords {
    /// Reads the value of `4lw.commands.whitelist`: words separated by commas, or `*` among them for
    /// all. The word `srvr` is always answered, because `zkServer.sh status` and its like need it.
    ///
    /// ```
    /// use quorate_server::config::FourLetterWords;
    ///
    /// let words = FourLetterWords::from_list("ruok, stat");
    /// assert!(words.allows("stat") && words.allows("srvr"));
    /// assert!(!words.allows("mntr"));
    /// assert!(FourLetterWords::from_list("*").allows("mntr"));
    /// ```
    pub fn from_list(list: &str) -> FourLetterWords {
        let words = list
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        let words: BTreeSet<String> = words.chain(["srvr"]).map(str::to_owned).collect();
        match words.contains("*") {
            true => FourLetterWords::All,
            false => FourLetterWords::Only(words),
        }
    }

    /// Says whether `word` is answered.
    pub fn allows(&self, word: &str) -> bool {
        match self {
            FourLetterWords::All => true,
            FourLetterWords::Only(words) => words.contains(word),
        }
    }
}

impl fmt::Display for FourLetterWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FourLetterWords::All => f.write_str("*"),
            FourLetterWords::Only(words) => f.write_str(
                &words
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
        }
    }
}

/// What a server is in its ensemble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PeerType {
    /// Votes in elections and acknowledges proposals.
    #[default]
    Participant,
    /// Follows without a vote.
    Observer,
}

impl FromStr for PeerType {
    type Err = String;

    fn from_str(text: &str) -> Result<PeerType, String> {
        match text.trim().to_ascii_lowercase().as_str() {
            "participant" => Ok(PeerType::Participant),
            "observer" => Ok(PeerType::Observer),
            _ => Err(format!(
                "unrecognised peertype {text:?}; participant and observer are known"
            )),
        }
    }
}

impl fmt::Display for PeerType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PeerType::Participant => "participant",
            PeerType::Observer => "observer",
        })
    }
}

/// How snapshots are compressed on disk. Snapshots of every kind are read whatever is set here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SnapshotCompression {
    /// As they are, with a checksum.
    #[default]
    None,
    /// gzip; the file name ends in `.gz`.
    Gzip,
    /// Snappy; the file name ends in `.snappy`.
    Snappy,
}

impl FromStr for SnapshotCompression {
    type Err = String;

    fn from_str(text: &str) -> Result<SnapshotCompression, String> {
        match text.to_ascii_lowercase().as_str() {
            "" | "none" | "checked" => Ok(SnapshotCompression::None),
            "gz" => Ok(SnapshotCompression::Gzip),
            "snappy" => Ok(SnapshotCompression::Snappy),
            _ => Err(format!(
                "{text:?} is no known compression; none, gz and snappy are"
            )),
        }
    }
}

impl fmt::Display for SnapshotCompression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SnapshotCompression::None => "none",
            SnapshotCompression::Gzip => "gz",
            SnapshotCompression::Snappy => "snappy",
        })
    }
}

/// A text that logs and `Debug` must not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: &str) -> Secret {
        Secret(Arc::from(text))
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}
