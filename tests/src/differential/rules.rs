//! Differences that have a reason.
//!
//! The table is short on purpose: whatever is not in it, and not masked in
//! [`observe`](super::observe), fails the test.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use quorate_proto::{ErrorCode, OpCode};

use super::observe::{Seen, What};

/// The version of a server, as `srvr` states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl FromStr for Version {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let mut numbers = text.split('.').map(str::parse);
        let mut next = || numbers.next().unwrap_or(Ok(0));
        Ok(Version(next()?, next()?, next()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Both servers' versions: the reference and the one that is compared with it.
pub type Versions = [Version; 2];

/// A difference with a reason.
pub struct Rule {
    /// What differs and why.
    pub why: &'static str,
    /// Where the specification says so.
    pub spec: &'static str,
    accepts: fn(&Versions, &What, &What) -> bool,
}

/// Every rule.
pub static RULES: &[Rule] = &[BEHIND_AN_ERROR, OLD_EVENTS];

/// How much of a failed multiRead was worked on before it failed shows behind the header.
const BEHIND_AN_ERROR: Rule = Rule {
    why: "bytes behind the header of a failed multiRead, which clients ignore",
    spec: "client protocol, section 3",
    accepts: |_, left, right| {
        let (What::Reply { op, err, .. }, What::Reply { .. }) = (left, right) else {
            return false;
        };
        *op == OpCode::MultiRead.number()
            && *err != ErrorCode::OK
            && left.without_body() == right.without_body()
    },
};

const OLD_EVENTS: Rule = Rule {
    why: "servers before 3.9 send events with zxid -1",
    spec: "client protocol, section 10.2",
    accepts: |versions, left, right| {
        let (
            What::Event {
                zxid: left_zxid,
                kind,
                path,
            },
            What::Event {
                zxid: right_zxid,
                kind: right_kind,
                path: right_path,
            },
        ) = (left, right)
        else {
            return false;
        };
        let old = |version: Version, zxid: i64| version < Version(3, 9, 0) && zxid == -1;
        kind == right_kind
            && path == right_path
            && (old(versions[0], *left_zxid) || old(versions[1], *right_zxid))
    },
};

/// Are the two the same, or different for a reason? `None` if neither.
pub fn judge(versions: &Versions, left: &Seen, right: &Seen) -> Option<Verdict> {
    if left == right {
        return Some(Verdict::Same);
    }
    if left.slot != right.slot {
        return None;
    }
    RULES
        .iter()
        .find(|rule| (rule.accepts)(versions, &left.what, &right.what))
        .map(Verdict::Explained)
}

/// Why two answers count as equal.
pub enum Verdict {
    /// They are.
    Same,
    /// They differ for a reason.
    Explained(&'static Rule),
}
