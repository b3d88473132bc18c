//! Changes of the ensemble's members (spec: quorum protocol, section 9).

use std::collections::BTreeMap;
use std::net::IpAddr;

use parking_lot::Mutex;
use quorate_proto::{ErrorCode, ReconfigRequest};

use crate::config::{Member, Members, PeerType};
use crate::zab::{Link, Membership, Sid};

/// What a leader knows of its ensemble.
#[derive(Debug)]
pub struct Roster {
    me: Sid,
    /// May one voter be an ensemble?
    one_suffices: bool,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    committed: Membership,
    proposed: Option<Membership>,
    /// Who has everything, and whether it only observes.
    learners: BTreeMap<Link, (Sid, bool)>,
}

impl Roster {
    /// The roster of the server `me`, which follows or leads nobody yet.
    pub fn new(me: Sid, committed: Membership, one_suffices: bool) -> Self {
        let now = Now {
            committed,
            proposed: None,
            learners: BTreeMap::new(),
        };
        Roster {
            me,
            one_suffices,
            now: Mutex::new(now),
        }
    }

    /// The server that this is.
    pub fn me(&self) -> Sid {
        self.me
    }

    /// The configuration in force.
    pub fn committed(&self) -> Membership {
        self.now.lock().committed.clone()
    }

    /// The configuration that a history up to `zxid` ends with, as far as is known here. After a
    /// restart it may be one that is only proposed.
    pub fn upto(&self, zxid: i64) -> Membership {
        let now = self.now.lock();
        let part = |config: &&Membership| {
            config.version > now.committed.version && config.version.cast_signed() <= zxid
        };
        let proposed = now.proposed.as_ref().filter(part);
        proposed.unwrap_or(&now.committed).clone()
    }

    /// A configuration is in force now.
    pub fn activate(&self, committed: Membership) {
        self.now.lock().committed = committed;
    }

    /// A configuration is proposed.
    pub fn propound(&self, proposed: Membership) {
        self.now.lock().proposed = Some(proposed);
    }

    /// No configuration is proposed any more.
    pub fn settle(&self) {
        self.now.lock().proposed = None;
    }

    /// A learner has everything.
    pub fn join(&self, link: Link, sid: Sid, observer: bool) {
        self.now.lock().learners.insert(link, (sid, observer));
    }

    /// A learner is gone.
    pub fn leave(&self, link: Link) {
        self.now.lock().learners.remove(&link);
    }

    /// All learners are gone.
    pub fn clear(&self) {
        self.now.lock().learners.clear();
    }

    /// The learner at the other end of a link.
    pub fn learner(&self, link: Link) -> Option<Sid> {
        self.now.lock().learners.get(&link).map(|(sid, _)| *sid)
    }

    /// How many learners there are that vote, and that do not.
    pub fn learners(&self) -> (usize, usize) {
        let now = self.now.lock();
        let voters = now
            .learners
            .values()
            .filter(|(sid, _)| now.committed.is_voter(*sid));
        let voters = voters.count();
        (voters, now.learners.len() - voters)
    }

    /// The configuration that a request asks for, if nothing speaks against it. It has no version
    /// yet. `under_way` is the version of the one that was proposed last.
    pub(super) fn change(
        &self,
        request: &ReconfigRequest<'_>,
        under_way: Option<u64>,
    ) -> Result<Members, ErrorCode> {
        let now = self.now.lock();
        let committed = &now.committed;
        let proposed = now.proposed.as_ref().map(|proposed| proposed.version);
        if proposed.max(under_way) > Some(committed.version) {
            return Err(ErrorCode::RECONFIG_IN_PROGRESS);
        }
        let expected = request.config_id;
        if expected != -1 && expected.cast_unsigned() != committed.version {
            return Err(ErrorCode::BAD_VERSION);
        }
        let members = match request.new_members {
            Some(members) => whole(members)?,
            None => changed(&committed.members, request)?,
        };
        let voters = members.voters().count();
        if voters < if self.one_suffices { 1 } else { 2 } {
            return Err(ErrorCode::BAD_ARGUMENTS);
        }
        let next = Membership {
            version: 0,
            members,
        };
        // Whoever observes acknowledges nothing before the new members are in force; and whoever is
        // to observe by now comes back as one that does.
        let observes = |sid| {
            let member = committed.members.servers.get(&sid);
            member.is_some_and(|member| member.role == PeerType::Observer)
        };
        let acknowledges =
            |sid| !observes(sid) && now.learners.values().any(|at| *at == (sid, false));
        let here = |sid| sid == self.me || acknowledges(sid);
        if !next.is_quorum(here) {
            return Err(ErrorCode::NEW_CONFIG_NO_QUORUM);
        }
        Ok(next.members)
    }
}

/// All members, in lines or separated by commas.
fn whole(text: &str) -> Result<Members, ErrorCode> {
    match Members::read(&text.replace(',', "\n")) {
        Ok((members, 0)) => Ok(members),
        _ => Err(ErrorCode::BAD_ARGUMENTS),
    }
}

/// The members with some added or replaced, and others removed.
fn changed(members: &Members, request: &ReconfigRequest<'_>) -> Result<Members, ErrorCode> {
    if members.hierarchical {
        // Nobody says which group they would be in.
        return Err(ErrorCode::BAD_ARGUMENTS);
    }
    let mut members = members.clone();
    for sid in list(request.leaving) {
        let sid: Sid = sid.parse().map_err(|_| ErrorCode::BAD_ARGUMENTS)?;
        members.servers.remove(&sid);
    }
    for joining in list(request.joining) {
        let (sid, member) = joiner(joining).ok_or(ErrorCode::BAD_ARGUMENTS)?;
        let mut others = members.servers.iter().filter(|(other, _)| **other != sid);
        if others.any(|(_, other)| shares_an_address(&member, other)) {
            return Err(ErrorCode::BAD_ARGUMENTS);
        }
        members.servers.insert(sid, member);
    }
    Ok(members)
}

fn list(text: Option<&str>) -> impl Iterator<Item = &str> {
    let items = text.unwrap_or_default().split(',').map(str::trim);
    items.filter(|item| !item.is_empty())
}

/// Reads `server.N=…`, or just `N=…` as `zkCli.sh` explains it. It has to say where clients are
/// served.
fn joiner(text: &str) -> Option<(Sid, Member)> {
    let (server, member) = text.split_once('=')?;
    let server = server.trim();
    let sid = server.strip_prefix("server.").unwrap_or(server);
    let sid = sid.parse().ok()?;
    let member: Member = member.trim().parse().ok()?;
    member.client.is_some().then_some((sid, member))
}

/// Addresses that mean something else on every host may be shared.
fn shares_an_address(one: &Member, other: &Member) -> bool {
    let taken: Vec<_> = addresses(other).collect();
    addresses(one).any(|address| taken.contains(&address))
}

fn addresses(member: &Member) -> impl Iterator<Item = (&str, u16)> {
    let peers = member.addresses.iter().flat_map(|address| {
        [address.quorum_port, address.election_port].map(|port| (address.host.as_str(), port))
    });
    let client = member.client.as_ref();
    let client = client.map(|client| (client.host.as_str(), client.port));
    peers.chain(client).filter(|(host, _)| {
        let address = host.parse::<IpAddr>();
        let local = address.map_or(*host == "localhost", |ip| {
            ip.is_loopback() || ip.is_unspecified()
        });
        !local
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "server.1=a:1:2;3\nserver.2=b:1:2;3\nserver.3=c:1:2;3";

    fn roster(learners: &[Sid]) -> Roster {
        let (members, version) = Members::read(&format!("{THREE}\nversion=100000000")).unwrap();
        let roster = Roster::new(1, Membership { version, members }, false);
        for sid in learners {
            roster.join(Link(sid.cast_unsigned()), *sid, false);
        }
        roster
    }

    fn request<'a>(joining: &'a str, leaving: &'a str) -> ReconfigRequest<'a> {
        ReconfigRequest {
            joining: Some(joining),
            leaving: Some(leaving),
            new_members: None,
            config_id: -1,
        }
    }

    #[test]
    fn members_are_added_replaced_and_removed() {
        let roster = roster(&[2, 4]);
        let request = request("server.4=d:1:2:observer;3,2=b:5:6;7", "3,99");
        let members = roster.change(&request, None).unwrap();
        let expected = "server.1=a:1:2:participant;0.0.0.0:3\n\
                        server.2=b:5:6:participant;0.0.0.0:7\n\
                        server.4=d:1:2:observer;0.0.0.0:3";
        assert_eq!(members.to_string(), expected);
        let (joining, leaving) = (None, None);
        let whole = ReconfigRequest {
            joining,
            leaving,
            new_members: Some("server.1=a:1:2;3,server.4=d:1:2;3"),
            config_id: 1 << 32,
        };
        assert_eq!(roster.change(&whole, None).unwrap().servers.len(), 2);
    }

    #[test]
    fn one_change_after_the_other_and_of_what_is_in_force() {
        let roster = roster(&[2, 3]);
        let mut asked = request("", "3");
        asked.config_id = 7;
        assert_eq!(roster.change(&asked, None), Err(ErrorCode::BAD_VERSION));
        asked.config_id = -1;
        let busy = Err(ErrorCode::RECONFIG_IN_PROGRESS);
        assert_eq!(roster.change(&asked, Some((1 << 32) + 1)), busy);
        assert!(
            roster.change(&asked, Some(1 << 32)).is_ok(),
            "it is in force"
        );
        let mut proposed = roster.committed();
        proposed.version += 5;
        roster.propound(proposed.clone());
        assert_eq!(roster.change(&asked, None), busy);
        roster.activate(proposed);
        assert!(roster.change(&asked, None).is_ok());
    }

    #[test]
    fn what_makes_no_ensemble_is_refused() {
        let wrong = Err(ErrorCode::BAD_ARGUMENTS);
        for (joining, leaving) in [
            ("", "2,3"),
            ("", "x"),
            ("server.4", ""),
            ("server.4=d:1:2", ""),
            ("server.4=d:1:1;3", ""),
            ("server.x=d:1:2;3", ""),
            ("server.4=a:1:9;3", ""),
        ] {
            let asked = request(joining, leaving);
            assert_eq!(roster(&[2, 3]).change(&asked, None), wrong, "{asked:?}");
        }
        for new_members in [
            "",
            "server.1=a:1:2",
            "server.1",
            "x=y",
            "server.1=a:1:2:observer",
        ] {
            let asked = ReconfigRequest {
                new_members: Some(new_members),
                ..request("", "")
            };
            assert_eq!(roster(&[2, 3]).change(&asked, None), wrong, "{asked:?}");
        }
    }

    #[test]
    fn a_quorum_of_the_new_members_has_to_be_here() {
        let asked = request("server.4=d:1:2;3,server.5=e:1:2;3", "");
        let absent = Err(ErrorCode::NEW_CONFIG_NO_QUORUM);
        assert_eq!(roster(&[2]).change(&asked, None), absent);
        assert!(roster(&[2, 5]).change(&asked, None).is_ok());
        let roster = roster(&[2]);
        roster.join(Link(5), 5, true);
        assert_eq!(roster.change(&asked, None), absent, "5 only observes");
    }

    #[test]
    fn who_is_to_observe_does_not_count_although_it_still_follows() {
        let text = format!("{THREE}\nserver.4=d:1:2:observer;3\nversion=100000000");
        let (members, version) = Members::read(&text).unwrap();
        let roster = Roster::new(1, Membership { version, members }, false);
        roster.join(Link(4), 4, false);
        let asked = request("server.4=d:1:2;3", "2");
        let absent = Err(ErrorCode::NEW_CONFIG_NO_QUORUM);
        assert_eq!(roster.change(&asked, None), absent);
        roster.join(Link(3), 3, false);
        assert!(roster.change(&asked, None).is_ok());
    }
}
