//! The texts in which servers keep quotas and what is used of them (spec: client protocol,
//! section 12.2).

use std::collections::BTreeMap;
use std::fmt;

/// The parent of all quotas.
pub(crate) const QUOTA_ROOT: &str = "/zookeeper/quota";
/// The znode with the limits of a path, below its quota znode.
pub(crate) const LIMITS: &str = "zookeeper_limits";
/// The znode with what is used of them.
pub(crate) const USAGE: &str = "zookeeper_stats";

/// Where the quota of `path` is kept.
pub(crate) fn quota_path(path: &str) -> String {
    format!("{QUOTA_ROOT}{path}")
}

/// Says that there is no limit.
pub(crate) const UNLIMITED: i64 = -1;

/// Limits, or usage: a count of znodes, bytes of data, and limits that are enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) count: i64,
    pub(crate) bytes: i64,
    /// The hard limits, by name. Usage has none.
    hard: BTreeMap<String, i64>,
}

/// The names of the hard limits.
pub(crate) const HARD_COUNT: &str = "countHardLimit";
pub(crate) const HARD_BYTES: &str = "byteHardLimit";

impl Quota {
    /// No limits.
    pub(crate) fn unlimited() -> Self {
        Quota {
            count: UNLIMITED,
            bytes: UNLIMITED,
            hard: [HARD_COUNT, HARD_BYTES]
                .map(|name| (name.to_owned(), UNLIMITED))
                .into(),
        }
    }

    /// Nothing used.
    pub(crate) fn unused() -> Self {
        Quota {
            count: 0,
            bytes: 0,
            hard: BTreeMap::new(),
        }
    }

    /// Reads the text of a server. What is not a number is no limit, as servers have it.
    pub(crate) fn parse(text: &str) -> Self {
        let mut quota = Quota {
            count: UNLIMITED,
            bytes: UNLIMITED,
            hard: BTreeMap::new(),
        };
        for field in text.split([',', ';']) {
            let mut parts = field.split('=');
            let (Some(name), value) = (parts.next(), parts.next()) else {
                continue;
            };
            let value = value
                .and_then(|text| text.parse().ok())
                .unwrap_or(UNLIMITED);
            match name {
                "" => {}
                "count" => quota.count = value,
                "bytes" => quota.bytes = value,
                name => {
                    quota.hard.insert(name.to_owned(), value);
                }
            }
        }
        quota
    }

    /// A hard limit.
    pub(crate) fn hard(&self, name: &str) -> i64 {
        self.hard.get(name).copied().unwrap_or(UNLIMITED)
    }

    /// Sets a hard limit.
    pub(crate) fn set_hard(&mut self, name: &str, limit: i64) {
        self.hard.insert(name.to_owned(), limit);
    }

    /// Is more used than these limits, soft or hard, allow?
    pub(crate) fn is_exceeded_by(&self, used: &Quota) -> bool {
        let exceeds = |used: i64, limit: i64| limit != UNLIMITED && used > limit;
        exceeds(used.count, self.count)
            || exceeds(used.count, self.hard(HARD_COUNT))
            || exceeds(used.bytes, self.bytes)
            || exceeds(used.bytes, self.hard(HARD_BYTES))
    }
}

/// The `=` in front of the hard limits keeps servers that do not know them from reading on.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "count={},bytes={}", self.count, self.bytes)?;
        if !self.hard.is_empty() {
            f.write_str("=")?;
        }
        for (name, limit) in &self.hard {
            write!(f, ";{name}={limit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_servers() {
        let mut limits = Quota::unlimited();
        limits.count = 5;
        let text = "count=5,bytes=-1=;byteHardLimit=-1;countHardLimit=-1";
        assert_eq!(limits.to_string(), text);
        assert_eq!(Quota::parse(text), limits);
        assert_eq!(Quota::unused().to_string(), "count=0,bytes=0");
        assert_eq!(Quota::parse("count=0,bytes=0"), Quota::unused());
        assert_eq!(Quota::parse("count=,bytes=x").count, UNLIMITED);
    }

    #[test]
    fn limits_are_compared_with_usage() {
        let mut limits = Quota::unlimited();
        let used = Quota::parse("count=3,bytes=11");
        assert!(!limits.is_exceeded_by(&used));
        limits.count = 3;
        assert!(!limits.is_exceeded_by(&used));
        limits.set_hard(HARD_BYTES, 10);
        assert!(limits.is_exceeded_by(&used));
    }
}
