//! Fast leader election (spec: election, sections 4 to 7 and 9).

mod notification;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

pub use notification::{BadNotification, Notification};

use super::{Membership, Millis, Output, Role, Settings, Sid};
use crate::config::PeerType;

/// Whom a server without a vote votes for: an observer, or one that is in no configuration.
const NOBODY: i64 = i64::MIN;
/// The zxid of a server whose database is missing. It must not vote.
const NO_DATABASE: i64 = -1;
/// Servers without a vote that are told of one search. An ensemble has 255 servers at most.
const MAX_ASKERS: usize = 255;

/// What a server has to offer as a leader. Both are what its disk would say after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The last transaction in its log; -1 for a missing database.
    pub last_zxid: i64,
    /// The epoch whose leader it followed last.
    pub current_epoch: u32,
}

/// What an election has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The search is over.
    Elected {
        /// Who leads: the member itself, or the one to follow.
        leader: Sid,
        /// The round in which it was elected.
        round: i64,
    },
    /// Another server knows of a newer configuration, which is to survive a restart. The search
    /// has begun again under it, and a wake is due.
    Reconfigured(Membership),
}

/// The part of a member that finds a leader, and answers those who search for one.
///
/// Votes that are to be sent are appended as [`Output::Notify`]. A search ends in a quorum's
/// agreement; it waits a little for a better vote ([`Settings::finalize_wait`]) only while a voter
/// that can be reached has not agreed.
#[derive(Debug)]
pub struct Election {
    id: Sid,
    adopts_configs: bool,
    interval: (Millis, Millis),
    finalize_wait: Millis,

    committed: Membership,
    /// The last proposed configuration, if it is newer than the committed one.
    proposed: Option<Membership>,
    /// The texts of the configurations that are the member's own, which each vote carries.
    text: Bytes,
    proposed_text: Bytes,
    /// When it was reported that there is no connection to a voter, or that it says nothing.
    unreachable: BTreeMap<Sid, Millis>,

    /// The number of the round. It never decreases, and starts anew with each process.
    clock: i64,
    role: Role,
    /// Who was elected in the last search, and how.
    elected: Ballot,
    /// Voters that have voted for another since the member was elected.
    deserters: BTreeSet<Sid>,
    search: Option<Search>,
}

/// A vote, as far as one is compared with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ballot {
    leader: Sid,
    zxid: i64,
    round: i64,
    epoch: i64,
}

/// A vote that has come in, and what its sender was.
#[derive(Debug, Clone, Copy)]
struct Cast {
    ballot: Ballot,
    state: Role,
    format: i32,
}

#[derive(Debug)]
struct Search {
    credentials: Credentials,
    /// The vote to begin with. Its round does not count.
    initial: Ballot,
    proposal: Ballot,
    /// The newest vote of each server in this round, the member's own included.
    votes: BTreeMap<Sid, Cast>,
    /// The newest vote of each server that follows or leads, whatever its round.
    settled: BTreeMap<Sid, Cast>,
    /// What those have who vote in the proposed configuration alone, and do not stand.
    offers: BTreeMap<Sid, Ballot>,
    /// The newest configuration that a voter of the committed one says to be proposed. The member's
    /// own history may lack it.
    heard: Option<Membership>,
    /// Who without a vote has asked, and what it was told.
    askers: BTreeMap<Sid, Ballot>,
    /// The pause before the proposal is sent again, doubled each time.
    pause: Millis,
    resend_at: Millis,
    /// Until when a quorum that has agreed waits for something better.
    finalize_at: Option<Millis>,
}

impl Election {
    /// An election that waits for [`Election::start`].
    pub fn new(settings: &Settings, committed: Membership, proposed: Option<Membership>) -> Self {
        let mut election = Election {
            id: settings.id,
            adopts_configs: settings.reconfig,
            interval: settings.notification_interval,
            finalize_wait: settings.finalize_wait,
            committed: Membership::default(),
            proposed: None,
            text: Bytes::new(),
            proposed_text: Bytes::new(),
            unreachable: BTreeMap::new(),
            clock: 0,
            role: Role::Looking,
            elected: Ballot::NONE,
            deserters: BTreeSet::new(),
            search: None,
        };
        election.set_membership(committed, proposed);
        election
    }

    /// Goes by these configurations from now on.
    pub fn set_membership(&mut self, committed: Membership, proposed: Option<Membership>) {
        self.proposed = proposed.filter(|proposed| proposed.version > committed.version);
        self.text = Bytes::from(committed.to_string());
        let proposed = self.proposed.as_ref().map(Membership::to_string);
        self.proposed_text = Bytes::from(proposed.unwrap_or_default());
        self.committed = committed;
    }

    /// Searches for a leader.
    pub fn start(
        &mut self,
        now: Millis,
        credentials: Credentials,
        out: &mut Vec<Output>,
    ) -> Option<Decision> {
        self.begin(now, credentials);
        self.wake(now, out)
    }

    /// Neither searches nor votes until [`Election::start`].
    pub fn stop(&mut self) {
        self.role = Role::Looking;
        self.search = None;
    }

    /// Takes a leader that was named and not elected.
    pub fn appoint(&mut self, leader: Sid, last_zxid: i64, out: &mut Vec<Output>) {
        let ballot = Ballot {
            leader,
            zxid: last_zxid,
            round: self.clock,
            epoch: self.elected.epoch,
        };
        self.end(ballot, out);
    }

    /// Leads or follows in this epoch: all who report so agree, whatever they were elected with.
    pub fn settled(&mut self, epoch: u32) {
        self.elected.epoch = i64::from(epoch);
    }

    /// Have so many voters gone to another since the member was elected that no quorum is left to
    /// follow it? They may still come back.
    pub fn is_deserted(&self) -> bool {
        let loyal = |sid| !self.deserters.contains(&sid);
        self.role == Role::Leading && !self.is_quorum(loyal)
    }

    /// Takes in whether a server can be reached, which is believed for as long as a search waits
    /// for it. One that was not heard of since may have come back.
    pub fn reachable(
        &mut self,
        now: Millis,
        sid: Sid,
        reachable: bool,
        out: &mut Vec<Output>,
    ) -> Option<Decision> {
        if !self.is_voter(sid) {
            return None;
        }
        match reachable {
            true => self.unreachable.remove(&sid),
            false => self.unreachable.insert(sid, now),
        };
        let search = self.search.as_ref()?;
        if reachable {
            out.push(self.notify(sid, search.proposal));
        }
        self.conclude(now, out)
    }

    /// A leader has not been heard of for too long: the search that begins now does not wait for its
    /// vote.
    pub fn unheard(&mut self, now: Millis, leader: Sid) {
        if self.is_voter(leader) {
            self.unreachable.insert(leader, now);
        }
    }

    /// When [`Election::wake`] is due.
    pub fn deadline(&self) -> Option<Millis> {
        let search = self.search.as_ref()?;
        let finalize_at = search.finalize_at.unwrap_or(Millis::MAX);
        Some(search.resend_at.min(finalize_at))
    }

    /// The time that [`Election::deadline`] named has come.
    pub fn wake(&mut self, now: Millis, out: &mut Vec<Output>) -> Option<Decision> {
        let search = self.search.as_mut()?;
        if search.resend_at <= now {
            search.resend_at = now + search.pause;
            search.pause = (search.pause * 2).min(self.interval.1);
            self.send_proposal(out);
        }
        self.conclude(now, out)
    }

    /// Takes in a vote.
    pub fn receive(
        &mut self,
        now: Millis,
        from: Sid,
        notification: &Notification,
        out: &mut Vec<Output>,
    ) -> Option<Decision> {
        if let Some(newer) = self.newer_config(from, &notification.config) {
            return Some(self.adopt(now, newer));
        }
        self.hear_of(from, &notification.proposed, out);
        if !self.is_voter(from) {
            if notification.state == Role::Looking {
                self.answer_stranger(from, out);
            }
            return None;
        }
        if self.search.is_some() {
            return self.count(now, from, Cast::from(notification), out);
        }
        if self.role != Role::Looking && notification.state == Role::Looking {
            out.push(self.notify(from, self.elected));
        }
        if notification.round >= self.elected.round {
            match notification.leader == self.id {
                true => self.deserters.remove(&from),
                false => self.deserters.insert(from),
            };
        }
        None
    }

    /// Begins a search, of which nobody hears before the next wake, which is due.
    fn begin(&mut self, now: Millis, credentials: Credentials) {
        self.clock += 1;
        self.role = Role::Looking;
        let initial = self.initial_ballot(credentials);
        self.search = Some(Search {
            credentials,
            initial,
            proposal: initial,
            votes: BTreeMap::new(),
            settled: BTreeMap::new(),
            offers: BTreeMap::new(),
            heard: None,
            askers: BTreeMap::new(),
            pause: self.interval.0,
            resend_at: now,
            finalize_at: None,
        });
        self.propose(initial);
    }

    /// The vote for itself, of a member that votes; of one that is to vote only once the proposed
    /// configuration is committed, what it has to offer.
    fn initial_ballot(&self, credentials: Credentials) -> Ballot {
        if self.observes() && !self.is_voter(self.id) {
            return Ballot::NONE;
        }
        Ballot {
            leader: if self.stands(self.id) {
                self.id
            } else {
                NOBODY
            },
            zxid: credentials.last_zxid,
            round: 0,
            epoch: i64::from(credentials.current_epoch),
        }
    }

    /// The configuration of another server, if it is newer than the committed one and counts.
    fn newer_config(&self, from: Sid, text: &Bytes) -> Option<Membership> {
        let known = text.is_empty() || *text == self.text;
        if self.search.is_none() || !self.adopts_configs || known {
            return None;
        }
        match String::from_utf8_lossy(text).parse::<Membership>() {
            Ok(config) => (config.version > self.committed.version).then_some(config),
            Err(error) => {
                tracing::warn!("server {from} has a configuration that cannot be read: {error}");
                None
            }
        }
    }

    fn adopt(&mut self, now: Millis, newer: Membership) -> Decision {
        let proposed = self.proposed.take();
        self.set_membership(newer.clone(), proposed);
        if let Some(search) = &self.search {
            self.begin(now, search.credentials);
        }
        Decision::Reconfigured(newer)
    }

    /// Takes note of what another voter goes by beside the committed configuration: one that lacks
    /// this in its own history may be needed to elect a leader that has it.
    fn hear_of(&mut self, from: Sid, text: &Bytes, out: &mut Vec<Output>) {
        let Some(newer) = self.newer_config(from, text).filter(|_| self.stands(from)) else {
            return;
        };
        let Some(search) = &mut self.search else {
            return;
        };
        let version = |known: &Option<Membership>| known.as_ref().map(|known| known.version);
        let is_own = version(&self.proposed) == Some(newer.version);
        if is_own || version(&search.heard) >= Some(newer.version) {
            return;
        }
        search.heard = Some(newer.clone());
        out.push(Output::Heard { config: newer });
        self.stand_anew(out);
    }

    /// The member may have a vote by what it has heard: nobody is to be voted for, not even itself,
    /// who has less than it has.
    fn stand_anew(&mut self, out: &mut Vec<Output>) {
        let Some(search) = &self.search else {
            return;
        };
        let (initial, proposal) = (self.initial_ballot(search.credentials), search.proposal);
        if let Some(search) = &mut self.search {
            search.initial = initial;
        }
        if initial.beats(&proposal, &self.committed) {
            self.propose(initial);
            self.send_proposal(out);
        }
    }

    /// Tells a server without a vote, which searches, how things stand. While the member searches
    /// itself it says nothing twice, or two that do not vote for each other would talk for ever.
    fn answer_stranger(&mut self, to: Sid, out: &mut Vec<Output>) {
        let clock = self.clock;
        let ballot = match &mut self.search {
            None if self.role == Role::Looking => return,
            None => Ballot {
                round: clock,
                ..self.elected
            },
            Some(search) => {
                let room = search.askers.len() < MAX_ASKERS || search.askers.contains_key(&to);
                if !room || search.askers.insert(to, search.proposal) == Some(search.proposal) {
                    return;
                }
                search.proposal
            }
        };
        out.push(self.notify(to, ballot));
    }

    /// Counts a voter's vote in the search.
    fn count(
        &mut self,
        now: Millis,
        from: Sid,
        cast: Cast,
        out: &mut Vec<Output>,
    ) -> Option<Decision> {
        let leader = cast.ballot.leader;
        if cast.state == Role::Looking && !self.stands(from) && (leader == NOBODY || leader == from)
        {
            self.take_offer(from, cast.ballot, out);
        }
        if !self.is_voter(leader) {
            tracing::debug!("server {from} votes for {leader}, who is no voter");
            return None;
        }
        match cast.state {
            Role::Looking => self.count_searching(now, from, cast, out),
            Role::Observing => None,
            Role::Following | Role::Leading => self.count_settled(from, cast, out),
        }
    }

    /// Takes in what a voter has that does not stand.
    fn take_offer(&mut self, from: Sid, offer: Ballot, out: &mut Vec<Output>) {
        let Some(search) = &mut self.search else {
            return;
        };
        search.offers.insert(from, offer);
        let proposal = search.proposal;
        if self.nominee(&proposal).is_some() {
            self.propose(proposal);
            self.send_proposal(out);
        }
    }

    /// Whom to vote for instead of the leader of `ballot`, if so many of the proposed configuration
    /// are ahead of that one that no quorum of it would follow. The newest of them has to lead, and
    /// does not stand before a voter of the committed configuration votes for it.
    fn nominee(&self, ballot: &Ballot) -> Option<Ballot> {
        let search = self.search.as_ref()?;
        if !self.stands(self.id) || search.initial.zxid == NO_DATABASE {
            return None;
        }
        let mut pending = self.pending();
        pending.find_map(|proposed| search.nominee(proposed, ballot))
    }

    /// The vote of a server that searches, too.
    fn count_searching(
        &mut self,
        now: Millis,
        from: Sid,
        cast: Cast,
        out: &mut Vec<Output>,
    ) -> Option<Decision> {
        let ballot = cast.ballot;
        let search = self.search.as_mut()?;
        if ballot.round < self.clock {
            out.push(self.notify(from, self.search.as_ref()?.proposal));
            return None;
        }
        if search.initial.zxid == NO_DATABASE || ballot.zxid == NO_DATABASE {
            return None;
        }
        if ballot.round > self.clock {
            self.clock = ballot.round;
            search.votes.clear();
            let better = match ballot.beats(&search.initial, &self.committed) {
                true => ballot,
                false => search.initial,
            };
            self.propose(better);
            self.send_proposal(out);
        } else if ballot.beats(&search.proposal, &self.committed) {
            self.propose(ballot);
            self.send_proposal(out);
        }
        let search = self.search.as_mut()?;
        search.votes.insert(from, cast);
        // The sender may have voted before this member began to search, and would not say it
        // again until its pause is over.
        if search.proposal.beats(&ballot, &self.committed) {
            let proposal = search.proposal;
            out.push(self.notify(from, proposal));
        }
        self.conclude(now, out)
    }

    /// The vote of a server that follows or leads already.
    fn count_settled(&mut self, from: Sid, cast: Cast, out: &mut Vec<Output>) -> Option<Decision> {
        let clock = self.clock;
        let search = self.search.as_mut()?;
        if cast.ballot.round == clock {
            // Without a format, so that within a round only the leader is compared.
            search.votes.insert(from, Cast { format: 0, ..cast });
        }
        search.settled.insert(from, cast);
        let search = self.search.as_ref()?;
        let in_round = cast.ballot.round == clock && self.is_led(&search.votes, cast);
        if in_round || self.is_led(&search.settled, cast) {
            return Some(self.end(cast.ballot, out));
        }
        None
    }

    /// Does a quorum of `votes` follow the leader of `cast`, who leads?
    ///
    /// One that has lost its database meanwhile leads nobody, however many still follow it.
    fn is_led(&self, votes: &BTreeMap<Sid, Cast>, cast: Cast) -> bool {
        let leader = cast.ballot.leader;
        let search = self.search.as_ref();
        let has_data = search.is_some_and(|search| search.initial.zxid != NO_DATABASE);
        let leads = match leader == self.id {
            true => cast.ballot.round == self.clock && has_data,
            false => votes
                .get(&leader)
                .is_some_and(|vote| vote.state == Role::Leading),
        };
        let agrees = |sid| votes.get(&sid).is_some_and(|vote| vote.agrees(&cast));
        leads && self.is_quorum(agrees)
    }

    /// Ends the search if a quorum has agreed, and everybody else too or the time is up.
    fn conclude(&mut self, now: Millis, out: &mut Vec<Output>) -> Option<Decision> {
        let search = self.search.as_ref()?;
        let proposal = Cast {
            ballot: search.proposal,
            state: Role::Looking,
            format: 0,
        };
        let agrees = |sid| search.votes.get(&sid).is_some_and(|v| v.agrees(&proposal));
        let elected = self.is_voter(search.proposal.leader) && self.is_quorum(agrees);
        let gone = |sid| {
            let reported = self.unreachable.get(&sid);
            reported.is_some_and(|at| now < at + self.finalize_wait)
        };
        let all = self
            .voters()
            .into_iter()
            .all(|sid| agrees(sid) || gone(sid));
        let finalize_at = search.finalize_at.unwrap_or(now + self.finalize_wait);
        if elected && (all || finalize_at <= now) {
            let proposal = search.proposal;
            return Some(self.end(proposal, out));
        }
        self.search.as_mut()?.finalize_at = elected.then_some(finalize_at);
        None
    }

    /// Ends the search, and tells those who have asked and do not vote.
    fn end(&mut self, ballot: Ballot, out: &mut Vec<Output>) -> Decision {
        let search = self.search.take();
        self.role = match ballot.leader == self.id {
            true => Role::Leading,
            false if self.observes() => Role::Observing,
            false => Role::Following,
        };
        self.clock = self.clock.max(ballot.round);
        self.elected = ballot;
        self.deserters.clear();
        for asker in search.iter().flat_map(|search| search.askers.keys()) {
            self.answer_stranger(*asker, out);
        }
        Decision::Elected {
            leader: ballot.leader,
            round: ballot.round,
        }
    }

    /// Votes for `ballot` in the present round, or for whom that has to be instead.
    fn propose(&mut self, ballot: Ballot) {
        let nominee = self.nominee(&ballot);
        let round = nominee.map_or(self.clock, |nominee| nominee.round.max(self.clock));
        let proposal = Ballot {
            round,
            ..nominee.unwrap_or(ballot)
        };
        let votes_itself = self.is_voter(self.id) && self.is_voter(proposal.leader);
        let Some(search) = &mut self.search else {
            return;
        };
        if round > std::mem::replace(&mut self.clock, round) {
            search.votes.clear();
        }
        search.proposal = proposal;
        search.finalize_at = None;
        if votes_itself && search.initial.zxid != NO_DATABASE {
            let own = Cast {
                ballot: proposal,
                state: Role::Looking,
                format: 0,
            };
            search.votes.insert(self.id, own);
        }
    }

    fn send_proposal(&self, out: &mut Vec<Output>) {
        let Some(search) = &self.search else {
            return;
        };
        let others = self.voters().into_iter().filter(|sid| *sid != self.id);
        out.extend(others.map(|sid| self.notify(sid, search.proposal)));
    }

    fn notify(&self, to: Sid, ballot: Ballot) -> Output {
        Output::Notify {
            to,
            notification: Notification {
                state: self.role,
                leader: ballot.leader,
                zxid: ballot.zxid,
                round: ballot.round,
                epoch: ballot.epoch,
                format: 2,
                config: self.text.clone(),
                proposed: self.proposed_text.clone(),
            },
        }
    }

    /// The configurations that count.
    fn configs(&self) -> impl Iterator<Item = &Membership> {
        [&self.committed].into_iter().chain(self.pending())
    }

    /// Those that are only proposed.
    fn pending(&self) -> impl Iterator<Item = &Membership> {
        let heard = self.search.iter().flat_map(|search| &search.heard);
        self.proposed.iter().chain(heard)
    }

    fn voters(&self) -> BTreeSet<Sid> {
        self.configs()
            .flat_map(|config| config.members.voters())
            .map(|(sid, _)| sid)
            .collect()
    }

    /// Does the member only observe? One that is in no configuration takes part without a vote.
    fn observes(&self) -> bool {
        let own = self.committed.members.servers.get(&self.id);
        own.is_some_and(|member| member.role == PeerType::Observer)
    }

    fn is_voter(&self, sid: Sid) -> bool {
        self.configs().any(|config| config.is_voter(sid))
    }

    /// Does a server vote for itself? One of the proposed configuration alone does not: members that
    /// do not know of that would not follow it, and may be needed.
    fn stands(&self, sid: Sid) -> bool {
        self.committed.is_voter(sid)
    }

    /// Do enough voters agree? Only those of the committed configuration are asked: who votes in the
    /// proposed one may not know of that yet, and not vote. Whoever is elected needs both to lead.
    fn is_quorum(&self, acks: impl Fn(Sid) -> bool) -> bool {
        self.committed.is_quorum(acks)
    }
}

impl Search {
    /// See [`Election::nominee`], for one configuration that is proposed.
    fn nominee(&self, proposed: &Membership, ballot: &Ballot) -> Option<Ballot> {
        let rank = |ballot: &Ballot| (ballot.epoch, ballot.zxid);
        let offer = |sid| self.offers.get(&sid);
        let is_ahead = |sid| offer(sid).is_some_and(|offer| rank(offer) > rank(ballot));
        if proposed.is_quorum(|sid| !is_ahead(sid)) {
            return None;
        }
        let able = self.offers.iter();
        let able = able.filter(|(sid, _)| proposed.members.weight(**sid) != 0);
        let (leader, newest) = able.max_by_key(|(sid, offer)| (rank(offer), **sid))?;
        Some(Ballot {
            leader: *leader,
            // None of them goes back to a round that is over.
            round: self.offers.values().map(|offer| offer.round).max()?,
            ..*newest
        })
    }
}

impl Ballot {
    /// The vote of an observer.
    const NONE: Ballot = Ballot {
        leader: NOBODY,
        zxid: NOBODY,
        round: 0,
        epoch: NOBODY,
    };

    /// Is it the better vote of two? A server of no weight is no leader.
    fn beats(&self, other: &Ballot, config: &Membership) -> bool {
        let rank = |ballot: &Ballot| (ballot.epoch, ballot.zxid, ballot.leader);
        config.members.weight(self.leader) != 0 && rank(self) > rank(other)
    }
}

impl Cast {
    /// Do two votes count as one? Those who have found their leader agree on it and its epoch,
    /// however they came to it.
    fn agrees(&self, other: &Cast) -> bool {
        if self.state == Role::Looking || other.state == Role::Looking {
            return self.ballot == other.ballot;
        }
        let same_leader = self.ballot.leader == other.ballot.leader;
        let comparable = (self.format > 0) == (other.format > 0);
        same_leader && (!comparable || self.ballot.epoch == other.ballot.epoch)
    }
}

impl From<&Notification> for Cast {
    fn from(notification: &Notification) -> Cast {
        Cast {
            ballot: Ballot {
                leader: notification.leader,
                zxid: notification.zxid,
                round: notification.round,
                epoch: notification.epoch,
            },
            state: notification.state,
            format: notification.format,
        }
    }
}
