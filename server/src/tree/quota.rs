//! Quotas: limits on the number of znodes and the bytes of a subtree, kept in znodes of their own
//! (spec: client protocol, section 12.2).

use std::fmt;

use hashbrown::HashSet;

/// Below it lie the limits and the usage of each quota.
pub(crate) const ROOT: &str = "/zookeeper/quota";
const LIMITS: &str = "/zookeeper_limits";
const USAGE: &str = "/zookeeper_stats";

/// What a znode below [`ROOT`] is to a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuotaNode<'a> {
    /// The limits of the quota on this path.
    Limits(&'a str),
    /// The usage of the quota on this path.
    Usage(&'a str),
}

impl<'a> QuotaNode<'a> {
    /// Tells what `path` is to a quota, if anything.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        let below = path.strip_prefix(ROOT)?;
        if let Some(target) = below.strip_suffix(LIMITS) {
            Some(QuotaNode::Limits(target))
        } else {
            below.strip_suffix(USAGE).map(QuotaNode::Usage)
        }
    }
}

pub(crate) fn limits_path(target: &str) -> String {
    format!("{ROOT}{target}{LIMITS}")
}

pub(crate) fn usage_path(target: &str) -> String {
    format!("{ROOT}{target}{USAGE}")
}

/// Numbers of a quota: limits, or usage. -1 stands for unset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaNumbers {
    /// Znodes: the soft limit, or the usage.
    pub count: i64,
    /// Bytes: the soft limit, or the usage.
    pub bytes: i64,
    /// Hard limits by name, in the order in which they are printed.
    others: Vec<(String, i64)>,
}

impl QuotaNumbers {
    /// Usage as the server first writes it.
    pub fn usage(count: i64, bytes: i64) -> Self {
        QuotaNumbers {
            count,
            bytes,
            others: Vec::new(),
        }
    }

    /// Reads the text of a znode; what makes no sense counts as unset.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mut numbers = QuotaNumbers {
            count: -1,
            bytes: -1,
            others: Vec::new(),
        };
        for pair in text.split([',', ';']) {
            let mut parts = pair.split('=');
            let (Some(key), value) = (parts.next(), parts.next()) else {
                continue;
            };
            let value = value
                .and_then(|value| value.trim().parse().ok())
                .unwrap_or(-1);
            match key.trim() {
                "" => {}
                "count" => numbers.count = value,
                "bytes" => numbers.bytes = value,
                other => numbers.others.push((other.to_owned(), value)),
            }
        }
        numbers.others.sort();
        numbers
    }

    fn other(&self, name: &str) -> Option<i64> {
        self.others
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| *value)
            .filter(|v| *v > -1)
    }

    /// The limit on the number of znodes, if there is one.
    pub fn count_limit(&self) -> Option<Limit> {
        Limit::of(self.other("countHardLimit"), self.count)
    }

    /// The limit on the number of bytes, if there is one.
    pub fn bytes_limit(&self) -> Option<Limit> {
        Limit::of(self.other("byteHardLimit"), self.bytes)
    }
}

/// A limit of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Going over it is logged.
    Soft(i64),
    /// Going over it is refused.
    Hard(i64),
}

impl Limit {
    /// Where a hard limit is set, the soft one is not looked at.
    fn of(hard: Option<i64>, soft: i64) -> Option<Self> {
        hard.map(Limit::Hard)
            .or((soft > -1).then_some(Limit::Soft(soft)))
    }
}

/// The text of the znode.
impl fmt::Display for QuotaNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "count={},bytes={}", self.count, self.bytes)?;
        if !self.others.is_empty() {
            f.write_str("=")?;
        }
        self.others
            .iter()
            .try_for_each(|(key, value)| write!(f, ";{key}={value}"))
    }
}

/// The paths that have a quota.
#[derive(Debug, Default)]
pub(crate) struct QuotaIndex {
    targets: HashSet<Box<str>>,
}

impl QuotaIndex {
    pub(crate) fn add(&mut self, target: &str) {
        if !target.is_empty() {
            self.targets.insert(target.into());
        }
    }

    pub(crate) fn remove(&mut self, target: &str) {
        self.targets.remove(target);
    }

    /// The deepest path with a quota at or above `path`.
    pub(crate) fn covering<'a>(&self, path: &'a str) -> Option<&'a str> {
        if self.targets.is_empty() {
            return None;
        }
        let ends = path.rmatch_indices('/').map(|(at, _)| at);
        std::iter::once(path.len())
            .chain(ends)
            .map(|end| &path[..end])
            .find(|prefix| self.targets.contains(*prefix))
            .filter(|prefix| *prefix != "/zookeeper")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_written_as_apache_does() {
        let text = "count=5,bytes=-1=;byteHardLimit=9;countHardLimit=7";
        let numbers = QuotaNumbers::parse(text.as_bytes());
        assert_eq!(numbers.to_string(), text);
        assert_eq!(numbers.count_limit(), Some(Limit::Hard(7)));
        assert_eq!(numbers.bytes_limit(), Some(Limit::Hard(9)));
        assert_eq!(
            QuotaNumbers::parse(b"count=3,bytes=4").count_limit(),
            Some(Limit::Soft(3))
        );
        assert_eq!(QuotaNumbers::parse(b"\xff;;=,count=x").count_limit(), None);
    }

    #[test]
    fn the_deepest_quota_covers() {
        let mut index = QuotaIndex::default();
        index.add("/a");
        index.add("/a/b");
        assert_eq!(index.covering("/a/b/c"), Some("/a/b"));
        assert_eq!(index.covering("/a/bc"), Some("/a"));
        assert_eq!(index.covering("/a"), Some("/a"));
        assert_eq!(index.covering("/x/a"), None);
        index.remove("/a/b");
        assert_eq!(index.covering("/a/b/c"), Some("/a"));
    }

    #[test]
    fn quota_nodes_are_told_by_their_names() {
        assert_eq!(
            QuotaNode::of(&limits_path("/a/b")),
            Some(QuotaNode::Limits("/a/b"))
        );
        assert_eq!(
            QuotaNode::of(&usage_path("/a")),
            Some(QuotaNode::Usage("/a"))
        );
        assert_eq!(QuotaNode::of("/zookeeper/quota/a"), None);
        assert_eq!(QuotaNode::of("/a/zookeeper_limits"), None);
    }
}
