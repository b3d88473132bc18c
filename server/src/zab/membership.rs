//! Who belongs to an ensemble, and who of them make a quorum (spec: election, section 8).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{Sid, counter_of};
use crate::config::{Ensemble, Members, PeerType};
use crate::tree::{CONFIG_PATH, Tree};

/// A configuration of the ensemble.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// The zxid of the transaction that made it; 0 for one that was never agreed on.
    pub version: u64,
    /// The servers.
    pub members: Members,
}

impl Membership {
    /// Does `sid` vote?
    pub fn is_voter(&self, sid: Sid) -> bool {
        self.members
            .servers
            .get(&sid)
            .is_some_and(|member| member.role == PeerType::Participant)
    }

    /// Was it made by a change of the members? Any other is the one that a leader gave the number of
    /// its epoch to, or was never agreed on.
    pub fn is_change(&self) -> bool {
        counter_of(self.version.cast_signed()) != 0
    }

    /// The configuration that a tree shows, if it shows one.
    pub fn shown_by(tree: &Tree) -> Option<Membership> {
        let text = tree.get(CONFIG_PATH)?.data()?;
        std::str::from_utf8(text).ok()?.parse().ok()
    }

    /// Do two mean the same ensemble? Those of one version do, and those with the same servers
    /// whose votes are counted in the same way.
    pub fn is_same(&self, other: &Membership) -> bool {
        let (ours, theirs) = (&self.members, &other.members);
        let mut voters = ours.voters();
        self.version == other.version
            || ours.servers == theirs.servers
                && ours.groups == theirs.groups
                && voters.all(|(sid, _)| ours.weight(sid) == theirs.weight(sid))
    }

    /// Do the voters that `acks` holds of make a quorum: a majority, or a majority of the weight
    /// in a majority of the groups? Servers that do not vote here do not count.
    pub fn is_quorum(&self, acks: impl Fn(Sid) -> bool) -> bool {
        if !self.members.hierarchical {
            let (mut voters, mut acking) = (0, 0);
            for (sid, _) in self.members.voters() {
                voters += 1;
                acking += usize::from(acks(sid));
            }
            return acking > voters / 2;
        }
        let mut weights: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
        for (group, sids) in &self.members.groups {
            for sid in sids.iter().copied().filter(|sid| self.is_voter(*sid)) {
                let weight = self.members.weight(sid);
                let (all, acking) = weights.entry(*group).or_default();
                *all += weight;
                *acking += if acks(sid) { weight } else { 0 };
            }
        }
        let counted = weights.values().filter(|(all, _)| *all > 0);
        let won = counted.clone().filter(|(all, acking)| *acking > all / 2);
        won.count() > counted.count() / 2
    }
}

impl From<&Ensemble> for Membership {
    fn from(ensemble: &Ensemble) -> Membership {
        Membership {
            version: ensemble.version,
            members: ensemble.members.clone(),
        }
    }
}

impl FromStr for Membership {
    type Err = String;

    /// Reads the text of a dynamic configuration.
    fn from_str(text: &str) -> Result<Membership, String> {
        let (members, version) = Members::read(text)?;
        Ok(Membership { version, members })
    }
}

impl fmt::Display for Membership {
    /// The text that goes over the wire and into `/zookeeper/config`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nversion={:x}", self.members, self.version)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Apache ZooKeeper 3.9 writes it into `zoo.cfg.dynamic.200000122`.
    const WRITTEN: &str = "server.1=127.0.0.1:25201:25301:participant;127.0.0.1:25101
server.2=127.0.0.1:25202:25302:participant;127.0.0.1:25102
server.3=127.0.0.1:25203:25303:participant;127.0.0.1:25103";

    fn parse(text: &str) -> Membership {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_written_alike() {
        let unversioned = parse(WRITTEN);
        assert_eq!(unversioned.version, 0);
        assert_eq!(unversioned.to_string(), format!("{WRITTEN}\nversion=0"));
        let text = format!("{WRITTEN}\nversion=200000122");
        let versioned = parse(&text);
        assert_eq!(versioned.version, 0x2_0000_0122);
        assert_eq!(versioned.to_string(), text);
        let ipv6 = "server.1=[::1]:2888:3888:observer;[::]:2181\nserver.4=h:1:2:participant";
        assert_eq!(parse(ipv6).to_string(), format!("{ipv6}\nversion=0"));
    }

    #[test]
    fn order_blanks_comments_and_escapes_do_not_matter() {
        let text = "# by hand\r\n version : 10\n\nserver.3 = h3:1:2:OBSERVER\n! weights\n\
             weight.2: 3\nserver.1=h1\\:1:2;2181\nserver.2 h2:1:\\\n    2\ngroup.7=1:2\n";
        let read = parse(text);
        assert_eq!(
            read.to_string(),
            "group.7=1:2\nserver.1=h1:1:2:participant;0.0.0.0:2181\nserver.2=h2:1:2:participant\n\
             server.3=h3:1:2:observer\nweight.1=1\nweight.2=3\nversion=10"
        );
        assert_eq!(parse(&read.to_string()), read);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, what) in [
            ("", "no participant is among the servers"),
            ("server.1=h:1:2:observer\n", "no participant"),
            (
                "server.1=h:1:2\nclientPort=2181",
                "line 2: clientPort needs a number",
            ),
            ("server.1=h:1:2\npeers.1=2", "line 2: peers.1 is not known"),
            (
                "server.1=h:1:2\nversion=xyz",
                "line 2: \"xyz\" is not a hexadecimal number",
            ),
            ("server.1=h:1:2\nversion=-1", "line 2: \"-1\" is not"),
            (
                "version=8000000000000000",
                "line 1: \"8000000000000000\" is not",
            ),
            ("server.1=h:1", "line 1: \"h:1\" does not have the form"),
            ("server.one=h:1:2", "line 1: \"one\" is not a whole number"),
            (
                "server.1=h:1:2\ngroup.1=1\ngroup.2=1",
                "line 3: server 1 is in multiple groups",
            ),
            (
                "server.1=h:1:2\nserver.2=h:1:2\ngroup.1=1",
                "server 2 is not in a group",
            ),
            (
                "server.1=h:1:2\ngroup.1=1:2",
                "server 2 is in a group and has no server.2 line",
            ),
            ("server.1=\\u00", "line 1: malformed"),
        ] {
            let error = text.parse::<Membership>().unwrap_err();
            assert!(error.starts_with(what), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_version_or_else_the_servers_and_their_votes_tell_two_apart() {
        let read = parse(WRITTEN);
        let other = |from: &str, to: &str| parse(&WRITTEN.replace(from, to));
        let mut newer = read.clone();
        newer.version = 7;
        assert!(newer.is_same(&read));
        for (from, to) in [
            ("25303:participant", "25303:observer"),
            ("25303", "25304"),
            ("25103", "25104"),
            ("server.3", "server.4"),
        ] {
            let changed = other(from, to);
            assert!(changed.is_same(&read), "the version is the same");
            assert!(!changed.is_same(&newer));
        }
        let grouped = parse(&format!("{WRITTEN}\ngroup.1=1:2:3\nversion=1"));
        let weighed = parse(&format!("{WRITTEN}\ngroup.1=1:2:3\nweight.1=1\nversion=2"));
        let heavier = parse(&format!("{WRITTEN}\ngroup.1=1:2:3\nweight.1=2\nversion=3"));
        assert!(
            grouped.is_same(&weighed) && !heavier.is_same(&weighed) && !grouped.is_same(&newer)
        );
    }

    #[test]
    fn quorums() {
        let quorum =
            |config: &Membership, sids: &[Sid]| config.is_quorum(|sid| sids.contains(&sid));
        let majority = parse(&format!("{WRITTEN}\nserver.4=h:1:2:observer"));
        assert!(quorum(&majority, &[1, 3]));
        assert!(!quorum(&majority, &[1, 4, 9]));
        let groups = "group.1=1:2\ngroup.2=3\ngroup.3=4\n";
        let servers: String = (1..=4).map(|sid| format!("server.{sid}=h:1:2\n")).collect();
        let weighed = parse(&format!("{servers}{groups}weight.1=3\nweight.4=0"));
        assert!(quorum(&weighed, &[1, 3]), "both groups that count");
        assert!(!quorum(&weighed, &[2, 3, 4]), "group 1 needs server 1");
        assert!(!quorum(&weighed, &[1, 2, 4]), "one group of two");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*|(server|group|weight|version|[.=:;|\n1-3])*") {
            if let Ok(read) = text.parse::<Membership>() {
                let written = read.to_string();
                prop_assert_eq!(parse(&written).to_string(), written);
            }
        }
    }
}
