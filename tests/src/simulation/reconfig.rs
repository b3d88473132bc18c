//! Changes of the members, as administrators ask for them.

use quorate_server::config::{Member, Members, PeerType};
use quorate_server::zab::Sid;

use super::checker::{index, sid};
use super::model::Op;
use super::plan::{Change, Whom};
use super::world::World;

/// A member as configurations have it, at its first or its second address.
pub(super) fn member(index: usize, votes: bool, moved: bool) -> Member {
    let role = if votes { "participant" } else { "observer" };
    let port = if moved { 2889 } else { 2888 };
    let member = format!("m{0}:{port}:3888:{role};m{0}:2181", index + 1).parse();
    member.expect("a member of ours can be read")
}

fn is_moved(member: &Member) -> bool {
    let mut addresses = member.addresses.iter();
    addresses.any(|address| address.quorum_port == 2889)
}

impl World {
    /// What to ask for, so that the configuration in force is changed; nothing if there is no room
    /// for the change.
    pub(super) fn draw_reconfig(&mut self, change: Change) -> Option<Op> {
        let old = self.checker.config().members.clone();
        let mut new = old.clone();
        let mut voters: Vec<Sid> = old.voters().map(|(sid, _)| sid).collect();
        let mut others: Vec<Sid> = (0..self.members.len()).map(sid).collect();
        others.retain(|sid| !voters.contains(sid));
        self.rng.shuffle(&mut voters);
        self.rng.shuffle(&mut others);
        let leader = self.leader().map(sid);
        match change {
            Change::Grow(count) => {
                for sid in others.into_iter().take(count) {
                    let moved = old.servers.get(&sid).is_some_and(is_moved);
                    let joining = member(index(sid), true, moved);
                    new.servers.insert(sid, joining);
                }
            }
            Change::Shrink(count, leave) => {
                let count = count.min(voters.len() - 1);
                for sid in &voters[..count] {
                    remove(&mut new, *sid, leave);
                }
            }
            Change::Depose(leave) => {
                let leader = leader.filter(|leader| voters.len() > 1 && voters.contains(leader));
                remove(&mut new, leader?, leave);
            }
            Change::Move(whom) => {
                let moving = match whom {
                    Whom::Leader => leader.filter(|leader| voters.contains(leader))?,
                    _ => voters[0],
                };
                let moved = old.servers.get(&moving).is_some_and(is_moved);
                new.servers
                    .insert(moving, member(index(moving), true, !moved));
            }
            Change::Replace => {
                new.servers.clear();
                for sid in voters.into_iter().chain(others) {
                    let votes = new.servers.is_empty() || self.rng.u8(..4) > 0;
                    if votes || self.rng.bool() {
                        new.servers.insert(sid, member(index(sid), votes, false));
                    }
                }
            }
        }
        (new != old).then(|| self.request(&old, &new))
    }

    /// Asks for new members by what is to change, or names all of them.
    fn request(&mut self, old: &Members, new: &Members) -> Op {
        let list = |items: Vec<String>| (!items.is_empty()).then(|| items.join(","));
        let line = |(sid, member): (&Sid, &Member)| format!("server.{sid}={member}");
        if self.rng.u8(..4) == 0 {
            return Op::Reconfig {
                joining: None,
                leaving: None,
                members: list(new.servers.iter().map(line).collect()),
            };
        }
        let joining = new.servers.iter();
        let joining = joining.filter(|(sid, member)| old.servers.get(sid) != Some(*member));
        let leaving = old.servers.keys();
        let leaving = leaving.filter(|sid| !new.servers.contains_key(sid));
        Op::Reconfig {
            joining: list(joining.map(line).collect()),
            leaving: list(leaving.map(Sid::to_string).collect()),
            members: None,
        }
    }
}

/// A voter votes no more, or leaves altogether.
fn remove(members: &mut Members, sid: Sid, leave: bool) {
    match members.servers.get_mut(&sid) {
        Some(member) if !leave => member.role = PeerType::Observer,
        _ => {
            members.servers.remove(&sid);
        }
    }
}
