use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::zab::zxid_of;

const WAIT: Millis = 200;

fn membership(text: &str) -> Membership {
    text.parse().unwrap()
}

/// A configuration of voters 1 to `count`, and these observers behind them.
fn ensemble(count: i64, observers: &[i64]) -> Membership {
    let voters = (1..=count).map(|sid| format!("server.{sid}=h{sid}:1:2:participant\n"));
    let observers = observers
        .iter()
        .map(|sid| format!("server.{sid}=h{sid}:1:2:observer\n"));
    membership(&voters.chain(observers).collect::<String>())
}

fn settings(id: Sid) -> Settings {
    Settings {
        id,
        tick: 100,
        init_limit: 1000,
        sync_limit: 500,
        connect_limit: 1000,
        disk_limit: 1000,
        notification_interval: (200, 60_000),
        finalize_wait: WAIT,
        commit_log_count: 10,
        commit_log_bytes: 1000,
        force_snapshot: false,
        observer: false,
        reconfig: true,
    }
}

fn having(last_zxid: i64, current_epoch: u32) -> Credentials {
    Credentials {
        last_zxid,
        current_epoch,
    }
}

/// Elections of several members, and the network between them.
struct Net {
    now: Millis,
    members: BTreeMap<Sid, Election>,
    /// What each has come to.
    decided: BTreeMap<Sid, Decision>,
    /// What is under way: from, to, what.
    queue: VecDeque<(Sid, Sid, Notification)>,
    /// Who was to be able to reach the servers of another configuration.
    heard: Vec<(Sid, u64)>,
    /// Votes delivered.
    delivered: usize,
}

impl Net {
    fn new() -> Net {
        Net {
            now: 0,
            members: BTreeMap::new(),
            decided: BTreeMap::new(),
            queue: VecDeque::new(),
            heard: Vec::new(),
            delivered: 0,
        }
    }

    /// All these members, none of them started.
    fn of(config: &Membership, sids: impl IntoIterator<Item = Sid>) -> Net {
        let mut net = Net::new();
        for sid in sids {
            net.add(sid, config);
        }
        net
    }

    fn add(&mut self, sid: Sid, config: &Membership) {
        let election = Election::new(&settings(sid), config.clone(), None);
        self.members.insert(sid, election);
    }

    fn step(
        &mut self,
        sid: Sid,
        act: impl FnOnce(&mut Election, Millis, &mut Vec<Output>) -> Option<Decision>,
    ) {
        let mut out = Vec::new();
        let member = self.members.get_mut(&sid).unwrap();
        if let Some(decision) = act(member, self.now, &mut out) {
            self.decided.insert(sid, decision);
        }
        for output in out {
            match output {
                Output::Notify { to, notification } => {
                    self.queue.push_back((sid, to, notification));
                }
                Output::Heard { config } => self.heard.push((sid, config.version)),
                other => panic!("an election has no business with {other:?}"),
            }
        }
    }

    fn start(&mut self, sid: Sid, credentials: Credentials) {
        self.decided.remove(&sid);
        self.step(sid, |member, now, out| member.start(now, credentials, out));
    }

    fn give(&mut self, to: Sid, from: Sid, notification: &Notification) {
        // Over the wire, so that what is decided is decided by what is sent.
        let notification = Notification::decode(notification.encode()).unwrap();
        self.step(to, |member, now, out| {
            member.receive(now, from, &notification, out)
        });
    }

    /// Delivers until nothing is under way. What is for servers that do not run is reported as
    /// unreachable.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let Some((from, to, notification)) = self.queue.pop_front() else {
                return;
            };
            if self.members.contains_key(&to) {
                self.delivered += 1;
                self.give(to, from, &notification);
            } else if self.members.contains_key(&from) {
                self.step(from, |member, now, out| {
                    member.reachable(now, to, false, out)
                });
            }
        }
        panic!("they talk for ever");
    }

    /// Lets time pass.
    fn pass(&mut self, time: Millis) {
        let end = self.now + time;
        loop {
            self.settle();
            let due = |(sid, member): (&Sid, &Election)| member.deadline().map(|at| (at, *sid));
            let next = self.members.iter().filter_map(due).min();
            let Some((at, sid)) = next.filter(|(at, _)| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            self.step(sid, Election::wake);
        }
        self.now = end;
    }

    fn leader(&self, sid: Sid) -> Option<Sid> {
        match self.decided.get(&sid)? {
            Decision::Elected { leader, .. } => Some(*leader),
            Decision::Reconfigured(_) => None,
        }
    }

    fn role(&self, sid: Sid) -> Role {
        self.members[&sid].role
    }

    fn leaders(&self) -> Vec<(Sid, Option<Sid>)> {
        let sids = self.members.keys();
        sids.map(|sid| (*sid, self.leader(*sid))).collect()
    }

    /// The vote that a member would give a server that asks.
    fn vote_of(&mut self, sid: Sid) -> Notification {
        let mut out = Vec::new();
        let asking = vote(Role::Looking, NOBODY, NOBODY, 0, NOBODY);
        self.members
            .get_mut(&sid)
            .unwrap()
            .receive(self.now, 99, &asking, &mut out);
        match out.pop() {
            Some(Output::Notify {
                to: 99,
                notification,
            }) => notification,
            other => panic!("no answer but {other:?}"),
        }
    }
}

fn vote(state: Role, leader: Sid, zxid: i64, round: i64, epoch: i64) -> Notification {
    Notification {
        state,
        leader,
        zxid,
        round,
        epoch,
        format: 2,
        config: Bytes::new(),
        proposed: Bytes::new(),
    }
}

fn all(sids: impl IntoIterator<Item = Sid>, leader: Sid) -> Vec<(Sid, Option<Sid>)> {
    sids.into_iter().map(|sid| (sid, Some(leader))).collect()
}

#[test]
fn a_voter_alone_leads_at_once() {
    let mut net = Net::of(&ensemble(1, &[]), [1]);
    net.start(1, having(0, 0));
    assert_eq!(net.leaders(), all([1], 1));
    assert_eq!(net.role(1), Role::Leading);
    assert_eq!(net.members[&1].deadline(), None);
}

#[test]
fn three_that_agree_do_not_wait() {
    let mut net = Net::of(&ensemble(3, &[]), 1..=3);
    for sid in 1..=3 {
        net.start(sid, having(7, 1));
    }
    net.settle();
    assert_eq!(net.leaders(), all(1..=3, 3));
    assert_eq!(
        (net.role(1), net.role(2), net.role(3)),
        (Role::Following, Role::Following, Role::Leading)
    );
}

#[test]
fn five_started_in_order_elect_the_third() {
    let config = ensemble(5, &[]);
    let mut net = Net::new();
    for sid in 1..=5 {
        net.add(sid, &config);
        net.start(sid, having(0, 0));
        for other in 1..sid {
            net.step(other, |member, now, out| {
                member.reachable(now, sid, true, out)
            });
        }
        net.settle();
        let elected = if sid < 3 { None } else { Some(3) };
        assert!(net.leaders().iter().all(|(_, leader)| *leader == elected));
    }
}

#[test]
fn the_newest_epoch_then_the_longest_log_then_the_largest_id_wins() {
    for (credentials, winner) in [
        ([having(9, 1), having(1, 2), having(5, 1)], 2),
        ([having(9, 1), having(8, 1), having(8, 1)], 1),
        ([having(9, 1), having(9, 1), having(8, 1)], 2),
    ] {
        let mut net = Net::of(&ensemble(3, &[]), 1..=3);
        for (sid, credentials) in (1..).zip(credentials) {
            net.start(sid, credentials);
        }
        net.settle();
        assert_eq!(net.leaders(), all(1..=3, winner));
    }
}

#[test]
fn a_quorum_waits_for_a_voter_that_may_be_there() {
    let mut net = Net::of(&ensemble(3, &[]), 1..=2);
    net.start(1, having(0, 0));
    net.start(2, having(0, 0));
    net.queue.retain(|(_, to, _)| *to != 3);
    while let Some((from, to, notification)) = net.queue.pop_front() {
        if to != 3 {
            net.give(to, from, &notification);
        }
    }
    assert_eq!(net.leaders(), [(1, None), (2, None)]);
    assert_eq!(net.members[&2].deadline(), Some(WAIT));
    // It is there, and better.
    net.give(1, 3, &vote(Role::Looking, 3, 5, 1, 0));
    assert_eq!(net.leader(1), None);
    assert_eq!(net.members[&1].search.as_ref().unwrap().proposal.leader, 3);
    // Or it is not.
    net.now = WAIT;
    net.step(2, Election::wake);
    assert_eq!(net.leader(2), Some(2));
}

#[test]
fn a_voter_found_gone_is_not_waited_for() {
    let mut net = Net::of(&ensemble(3, &[]), [2]);
    net.start(2, having(0, 0));
    net.give(2, 1, &vote(Role::Looking, 2, 0, 1, 0));
    assert_eq!(net.leader(2), None);
    net.step(2, |member, now, out| member.reachable(now, 3, false, out));
    assert_eq!(net.leader(2), Some(2));

    // It may be back where that was found out long ago.
    let mut net = Net::of(&ensemble(3, &[]), [2]);
    net.start(2, having(0, 0));
    net.step(2, |member, now, out| member.reachable(now, 3, false, out));
    net.now = WAIT;
    net.give(2, 1, &vote(Role::Looking, 2, 0, 1, 0));
    assert_eq!(net.leader(2), None);
    net.step(2, |member, now, out| member.reachable(now, 3, false, out));
    assert_eq!(net.leader(2), Some(2));
}

#[test]
fn a_leader_that_has_fallen_silent_is_not_waited_for() {
    let mut net = Net::of(&ensemble(3, &[]), 1..=3);
    for sid in 1..=2 {
        net.members.get_mut(&sid).unwrap().unheard(0, 3);
        net.start(sid, having(0, 0));
    }
    net.settle();
    assert_eq!((net.now, &net.leaders()[..2]), (0, &all(1..=2, 2)[..]));
}

#[test]
fn whether_others_than_voters_can_be_reached_does_not_matter() {
    let mut net = Net::of(&ensemble(3, &[4]), [2]);
    net.start(2, having(0, 0));
    net.queue.clear();
    for sid in [4, 9] {
        net.step(2, |member, now, out| member.reachable(now, sid, true, out));
        net.step(2, |member, now, out| member.reachable(now, sid, false, out));
    }
    assert!(net.queue.is_empty());
    assert!(net.members[&2].unreachable.is_empty());
}

#[test]
fn a_leader_lost_is_replaced_at_once() {
    let mut net = Net::of(&ensemble(3, &[]), 1..=3);
    for sid in 1..=3 {
        net.start(sid, having(0, 0));
    }
    net.settle();
    net.members.remove(&3);
    // One notices first, and asks the other while that still follows.
    net.start(2, having(zxid_of(1, 4), 1));
    net.settle();
    assert_eq!(net.leader(2), None);
    net.start(1, having(zxid_of(1, 4), 1));
    net.settle();
    assert_eq!((net.leader(1), net.leader(2)), (Some(2), Some(2)));
    assert_eq!(net.now, 0);
}

#[test]
fn a_later_round_wins_and_an_earlier_one_is_told() {
    let mut net = Net::of(&ensemble(3, &[]), 1..=3);
    net.members.get_mut(&1).unwrap().clock = 6;
    for sid in 1..=3 {
        net.start(sid, having(0, 0));
        net.settle();
    }
    assert_eq!(net.leaders(), all(1..=3, 3));
    assert!(net.decided.values().all(|decision| *decision
        == Decision::Elected {
            leader: 3,
            round: 7
        }));
}

#[test]
fn a_newcomer_joins_an_ensemble_that_has_a_leader() {
    let mut net = Net::of(&ensemble(3, &[]), 1..=3);
    net.start(1, having(5, 1));
    net.start(2, having(5, 1));
    net.pass(WAIT);
    assert_eq!(net.leader(2), Some(2));
    for sid in 1..=2 {
        net.members.get_mut(&sid).unwrap().settled(2);
    }
    // However good it would be itself.
    net.members.get_mut(&3).unwrap().clock = 40;
    net.start(3, having(100, 1));
    net.settle();
    assert_eq!((net.leader(3), net.role(3)), (Some(2), Role::Following));
    assert!(net.members[&3].clock >= 41, "the clock never goes back");
}

#[test]
fn one_follower_or_a_leader_that_does_not_say_so_is_not_enough() {
    let config = ensemble(5, &[]);
    let mut net = Net::of(&config, [1]);
    net.start(1, having(0, 0));
    for (from, state) in [
        (2, Role::Following),
        (3, Role::Following),
        (4, Role::Following),
    ] {
        net.give(1, from, &vote(state, 5, 9, 3, 1));
    }
    assert_eq!(net.leader(1), None, "5 itself has not said that it leads");
    net.give(1, 5, &vote(Role::Observing, 5, 9, 3, 1));
    assert_eq!(net.leader(1), None);
    net.give(1, 5, &vote(Role::Leading, 5, 9, 3, 1));
    assert_eq!(net.leader(1), Some(5));

    let mut net = Net::of(&config, [1]);
    net.start(1, having(0, 0));
    net.give(1, 5, &vote(Role::Leading, 5, 9, 3, 1));
    net.give(1, 4, &vote(Role::Following, 5, 9, 3, 1));
    net.give(1, 3, &vote(Role::Following, 5, 9, 3, 0));
    assert_eq!(net.leader(1), None, "3 follows in another epoch");
    net.give(1, 3, &vote(Role::Following, 5, 2, 8, 1));
    assert_eq!(net.leader(1), Some(5), "however it was elected");
}

#[test]
fn within_a_round_followers_count_beside_those_who_search() {
    let mut net = Net::of(&ensemble(5, &[]), [1]);
    net.start(1, having(0, 0));
    net.give(1, 2, &vote(Role::Looking, 5, 9, 1, 0));
    net.give(1, 3, &vote(Role::Following, 5, 9, 1, 0));
    assert_eq!(net.leader(1), None);
    // 1, 2 and 5 itself have 5, and 3, whose epoch is not compared.
    net.give(1, 5, &vote(Role::Leading, 5, 9, 1, 0));
    assert_eq!(net.leader(1), Some(5));
}

#[test]
fn a_leader_that_restarts_is_led_by_no_followers_of_another_round() {
    let mut net = Net::of(&ensemble(3, &[]), [3]);
    net.start(3, having(9, 1));
    for from in 1..=2 {
        net.give(3, from, &vote(Role::Following, 3, 9, 7, 1));
    }
    assert_eq!(net.leader(3), None);
    for from in 1..=2 {
        net.give(3, from, &vote(Role::Following, 3, 9, 1, 1));
    }
    assert_eq!((net.leader(3), net.role(3)), (Some(3), Role::Leading));
}

#[test]
fn votes_of_old_formats_count() {
    let new = vote(Role::Looking, 2, zxid_of(3, 9), 1, 3);
    let bytes = new.encode();
    let of_28 = Notification::decode(bytes.slice(..28)).unwrap();
    assert_eq!((of_28.epoch, of_28.format), (3, 0));
    let of_40 = Notification::decode(bytes.slice(..40)).unwrap();
    assert_eq!((of_40.epoch, of_40.format), (3, 0));

    let mut net = Net::of(&ensemble(3, &[]), [1, 2]);
    net.start(2, having(zxid_of(3, 9), 3));
    net.step(2, |member, now, out| member.receive(now, 1, &of_28, out));
    net.step(2, |member, now, out| member.receive(now, 3, &of_40, out));
    assert_eq!(net.leader(2), Some(2));

    // Beside a vote of an old format only the leaders are compared.
    net.start(1, having(0, 0));
    let mut following = vote(Role::Following, 3, 9, 5, 1);
    following.format = 0;
    net.step(1, |member, now, out| {
        member.receive(now, 2, &following, out)
    });
    net.give(1, 3, &vote(Role::Leading, 3, 9, 5, 2));
    assert_eq!(net.leader(1), Some(3));
}

#[test]
fn votes_sent_again_change_nothing() {
    let mut net = Net::of(&ensemble(3, &[]), 1..=3);
    for sid in 1..=3 {
        net.start(sid, having(0, 0));
    }
    let first: Vec<_> = net.queue.iter().cloned().collect();
    net.settle();
    for (from, to, notification) in first {
        net.give(to, from, &notification);
    }
    net.settle();
    assert_eq!(net.leaders(), all(1..=3, 3));

    // A vote of a round that is over is answered, and does not count in the next.
    net.start(1, having(0, 0));
    net.start(2, having(0, 0));
    net.queue.clear();
    net.give(1, 3, &vote(Role::Looking, 3, 0, 1, 0));
    assert!(
        !net.members[&1]
            .search
            .as_ref()
            .unwrap()
            .votes
            .contains_key(&3)
    );
    assert_eq!(net.queue.len(), 1);
}

#[test]
fn observers_follow_and_are_never_counted() {
    let mut net = Net::of(&ensemble(3, &[4, 5]), 1..=5);
    for sid in 1..=3 {
        net.start(sid, having(0, 0));
    }
    for to in 1..=3 {
        net.give(to, 4, &vote(Role::Looking, NOBODY, NOBODY, 1, NOBODY));
    }
    net.start(4, having(1000, 9));
    net.queue.retain(|(from, ..)| *from != 4);
    // Those who asked while the voters searched are told who leads.
    net.settle();
    assert_eq!(net.leaders()[..4], all(1..=4, 3));
    net.start(5, having(1000, 9));
    net.settle();
    assert_eq!(net.leaders(), all(1..=5, 3));
    assert_eq!(
        (net.role(4), net.role(5)),
        (Role::Observing, Role::Observing)
    );

    let mut net = Net::of(&ensemble(3, &[4, 5]), [1, 4, 5]);
    for sid in [1, 4, 5] {
        net.start(sid, having(0, 0));
    }
    net.pass(100_000);
    assert!(net.leaders().iter().all(|(_, leader)| leader.is_none()));
}

#[test]
fn a_server_in_no_configuration_joins_and_is_never_elected() {
    let mut net = Net::of(&ensemble(3, &[]), [1, 2, 9]);
    net.start(9, having(1000, 9));
    net.pass(1000);
    net.start(1, having(0, 0));
    net.start(2, having(0, 0));
    net.pass(1000);
    assert_eq!(net.leaders(), all([1, 2, 9], 2));
    assert_eq!(net.role(9), Role::Following);
}

#[test]
fn votes_for_servers_that_do_not_vote_are_ignored() {
    let mut net = Net::of(&ensemble(3, &[4]), [1]);
    net.start(1, having(0, 0));
    net.give(1, 2, &vote(Role::Looking, 4, 99, 5, 9));
    net.give(1, 3, &vote(Role::Leading, 9, 99, 1, 9));
    assert_eq!(net.members[&1].clock, 1);
    assert_eq!(net.members[&1].search.as_ref().unwrap().proposal.leader, 1);
}

#[test]
fn strangers_to_each_other_do_not_talk_for_ever() {
    let mut net = Net::new();
    net.add(1, &membership("server.1=h:1:2\nserver.2=h:1:2"));
    net.add(5, &membership("server.5=h:1:2\nserver.6=h:1:2"));
    net.start(1, having(0, 0));
    net.start(5, having(0, 0));
    let asking = vote(Role::Looking, 5, 0, 1, 0);
    net.give(1, 5, &asking);
    net.settle();
}

#[test]
fn a_missing_database_neither_counts_nor_is_counted() {
    let mut net = Net::of(&ensemble(3, &[]), 1..=3);
    net.start(3, having(-1, 0));
    net.start(1, having(0, 0));
    net.pass(1000);
    assert_eq!((net.leader(1), net.leader(3)), (None, None));
    net.start(2, having(0, 0));
    net.pass(1000);
    assert_eq!(net.leader(2), Some(2));
    net.pass(10_000);
    assert_eq!(net.leaders(), all(1..=3, 2));
}

#[test]
fn groups_and_weights_decide() {
    let lines: String = (1..=6).map(|sid| format!("server.{sid}=h:1:2\n")).collect();
    let groups = "group.1=1:2:3\ngroup.2=4:5\ngroup.3=6\n";
    // 6 weighs nothing: its group does not count, and it cannot lead.
    let config = membership(&format!("{lines}{groups}weight.6=0\nweight.1=3\n"));
    let mut net = Net::of(&config, [1, 4, 6]);
    for sid in [1, 4, 6] {
        net.start(sid, having(i64::from(sid == 6), 0));
    }
    net.pass(1000);
    assert!(net.leaders().iter().all(|(_, leader)| leader.is_none()));
    net.add(5, &config);
    net.start(5, having(0, 0));
    net.pass(5000);
    assert_eq!(net.leaders(), all([1, 4, 5, 6], 5));
}

#[test]
fn a_proposed_configuration_keeps_nobody_from_electing() {
    let mut proposed = ensemble(5, &[]);
    proposed.version = 2;
    let mut committed = ensemble(3, &[]);
    committed.version = 1;
    let mut net = Net::of(&committed, [2, 3]);
    for sid in [2, 3] {
        let member = net.members.get_mut(&sid).unwrap();
        member.set_membership(committed.clone(), Some(proposed.clone()));
        net.start(sid, having(0, 0));
    }
    net.pass(1000);
    assert_eq!(net.leaders(), all(2..=3, 3));
    net.add(4, &proposed);
    net.start(4, having(0, 0));
    net.pass(1000);
    assert_eq!(net.leaders()[..2], all(2..=3, 3));
}

#[test]
fn who_is_needed_and_ahead_is_voted_for_without_standing() {
    let mut proposed = ensemble(5, &[]);
    proposed.version = 2;
    let mut committed = ensemble(2, &[]);
    committed.version = 1;
    let both = |net: &mut Net, sid| {
        net.add(sid, &committed);
        let member = net.members.get_mut(&sid).unwrap();
        member.set_membership(committed.clone(), Some(proposed.clone()));
    };
    for (zxids, able) in [
        // 3 and 4 are ahead, and a quorum of the new members does without them.
        ([6, 6, 7, 7, 6], vec![2]),
        // It cannot do without three of them.
        ([6, 6, 7, 8, 7], vec![4]),
        ([6, 6, 7, 7, 7], vec![5]),
        // One of the old members is as new as they are, and may be heard first.
        ([7, 6, 7, 7, 7], vec![1, 5]),
    ] {
        for first in 1..=5 {
            let mut net = Net::new();
            for sid in 1..=5 {
                both(&mut net, sid);
            }
            for sid in (first..=5).chain(1..first) {
                net.start(sid, having(zxids[(sid - 1) as usize], 0));
                if sid >= 3 && first > 2 {
                    // Its round is ahead, too.
                    net.start(sid, having(zxids[(sid - 1) as usize], 0));
                }
            }
            net.pass(1000);
            let leader = net.leader(1).unwrap();
            assert!(able.contains(&leader), "{zxids:?} {first}: {leader}");
            assert_eq!(net.leaders(), all(1..=5, leader), "{zxids:?} {first}");
        }
    }
}

/// The old members are 1 and 2, the new ones are ahead, and one of the old ones has lost the change.
#[test]
fn who_does_not_know_of_a_change_votes_for_whom_another_needs() {
    let mut proposed = ensemble(4, &[]);
    proposed.version = 2;
    let mut committed = ensemble(2, &[]);
    committed.version = 1;
    for ignorant in 1..=2 {
        for first in 1..=4 {
            let mut net = Net::of(&committed, 1..=4);
            for sid in (1..=4).filter(|sid| *sid != ignorant) {
                let member = net.members.get_mut(&sid).unwrap();
                member.set_membership(committed.clone(), Some(proposed.clone()));
            }
            for sid in (first..=4).chain(1..first) {
                let zxid = match sid {
                    3.. => 7,
                    _ if sid == ignorant => 5,
                    _ => 6,
                };
                net.start(sid, having(zxid, 0));
            }
            net.pass(1000);
            assert_eq!(net.leaders(), all(1..=4, 4), "{ignorant} {first}");
            assert_eq!(net.heard, [(ignorant, 2)]);
        }
    }
    // It may be the one that would have a vote, and there may be older votes for it.
    let mut net = Net::of(&ensemble(2, &[3]), [3]);
    net.start(3, having(7, 1));
    let mut carrying = vote(Role::Looking, 3, 5, 1, 0);
    carrying.proposed = Bytes::from(proposed.to_string());
    net.give(3, 2, &carrying);
    let search = net.members[&3].search.as_ref().unwrap();
    assert_eq!((search.proposal.leader, search.proposal.zxid), (NOBODY, 7));
    // What is said by one that does not vote counts for nothing.
    let mut net = Net::of(&committed, [1]);
    net.start(1, having(0, 0));
    let mut carrying = vote(Role::Looking, 3, 9, 1, 0);
    carrying.proposed = Bytes::from(proposed.to_string());
    net.give(1, 3, &carrying);
    assert_eq!(net.heard, []);
    assert_eq!(net.vote_of(1).leader, 1);
}

#[test]
fn a_newer_configuration_is_adopted_and_reported() {
    let mut newer = ensemble(3, &[]);
    newer.version = 0x1_0000_0000;
    let mut net = Net::of(&ensemble(4, &[]), [1]);
    net.start(1, having(0, 0));
    net.queue.clear();
    let mut carrying = vote(Role::Looking, 2, 0, 1, 0);
    carrying.config = Bytes::from("server.2=h:1:2:observer\nversion=5");
    net.give(1, 2, &carrying);
    assert_eq!(net.decided.get(&1), None, "no participant is in it");
    assert_eq!(net.members[&1].search.as_ref().unwrap().proposal.leader, 2);

    // The member may know it already, and not that it is committed.
    let member = net.members.get_mut(&1).unwrap();
    member.set_membership(ensemble(4, &[]), Some(newer.clone()));
    carrying.config = Bytes::from(newer.to_string());
    net.give(1, 2, &carrying);
    assert_eq!(
        net.decided.remove(&1),
        Some(Decision::Reconfigured(newer.clone()))
    );
    assert_eq!(net.members[&1].deadline(), Some(net.now));
    net.pass(0);
    assert_eq!(net.members[&1].clock, 2);
    assert_eq!(net.vote_of(1).config, newer.to_string());

    // Not one that is older, and none while it follows.
    carrying.config = Bytes::from(ensemble(2, &[]).to_string());
    net.give(1, 2, &carrying);
    assert_eq!(net.decided.get(&1), None);
    for from in 2..=3 {
        let state = if from == 3 {
            Role::Leading
        } else {
            Role::Following
        };
        net.give(1, from, &vote(state, 3, 0, 9, 0));
    }
    assert_eq!(net.leader(1), Some(3));
    newer.version += 1;
    carrying.config = Bytes::from(newer.to_string());
    net.give(1, 2, &carrying);
    assert_eq!(net.leader(1), Some(3));
}

#[test]
fn who_has_a_leader_answers_only_those_who_search() {
    let mut net = Net::of(&ensemble(3, &[]), 1..=3);
    for sid in 1..=3 {
        net.start(sid, having(8, 1));
    }
    net.settle();
    net.members.get_mut(&1).unwrap().settled(2);
    net.give(1, 2, &vote(Role::Following, 3, 8, 1, 2));
    assert!(net.queue.is_empty());
    net.give(1, 2, &vote(Role::Looking, 2, 8, 4, 2));
    let (from, to, answer) = net.queue.pop_front().unwrap();
    assert_eq!((from, to), (1, 2));
    assert_eq!(
        (
            answer.state,
            answer.leader,
            answer.zxid,
            answer.round,
            answer.epoch
        ),
        (Role::Following, 3, 8, 1, 2)
    );
    assert_eq!(answer.config, ensemble(3, &[]).to_string());

    // A leader that was named is told of like one that was elected.
    net.step(1, |member, _, out| {
        member.appoint(2, 9, out);
        None
    });
    assert_eq!(net.vote_of(1).leader, 2);
    // One that has stopped says nothing.
    net.members.get_mut(&1).unwrap().stop();
    net.give(1, 2, &vote(Role::Looking, 2, 8, 4, 2));
    net.give(1, 9, &vote(Role::Looking, 2, 8, 4, 2));
    assert!(net.queue.is_empty());
}

#[test]
fn votes_are_sent_again_after_growing_pauses() {
    let mut net = Net::of(&ensemble(3, &[]), [1]);
    net.start(1, having(0, 0));
    let mut sent = Vec::new();
    for _ in 0..11 {
        net.now = net.members[&1].deadline().unwrap();
        sent.push(net.now);
        net.queue.clear();
        net.step(1, Election::wake);
        assert_eq!(net.queue.len(), 2);
    }
    assert_eq!(sent[..4], [200, 600, 1400, 3000]);
    assert_eq!(sent[10] - sent[9], 60_000);
}

#[test]
fn bytes_that_are_no_vote_are_refused() {
    let mut whole = vote(Role::Leading, 1, 2, 3, 4);
    whole.config = Bytes::from_static(b"server.1=h:1:2");
    let bytes = whole.encode();
    assert_eq!(Notification::decode(bytes.clone()).unwrap(), whole);
    let mut longer = bytes.to_vec();
    longer.extend([0; 9]);
    assert_eq!(Notification::decode(longer.into()).unwrap(), whole);
    for length in (0..bytes.len()).filter(|length| ![28, 40].contains(length)) {
        let error = Notification::decode(bytes.slice(..length)).unwrap_err();
        assert!(matches!(error, BadNotification::Short { .. }), "{length}");
    }
    let known = bytes.len();
    whole.proposed = Bytes::from_static(b"server.2=h:1:2");
    let longer = whole.encode();
    assert_eq!(Notification::decode(longer.clone()).unwrap(), whole);
    for length in known..longer.len() {
        let cut = Notification::decode(longer.slice(..length)).unwrap();
        assert_eq!(cut.proposed, Bytes::new(), "{length}");
    }
    let mut claiming = bytes.to_vec();
    for length in [i32::MAX, -1, 15] {
        claiming[40..44].copy_from_slice(&length.to_be_bytes());
        assert!(Notification::decode(claiming.clone().into()).is_err());
    }
    let mut first_format = bytes.to_vec();
    first_format[36..40].copy_from_slice(&1_i32.to_be_bytes());
    let first_format = Notification::decode(first_format.into()).unwrap();
    assert_eq!(
        (first_format.format, first_format.config),
        (1, Bytes::new())
    );
    let mut nobody = bytes.to_vec();
    nobody[3] = 4;
    assert_eq!(
        Notification::decode(nobody.into()),
        Err(BadNotification::State(4))
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = Notification::decode(bytes.into());
    }

    /// Whatever is lost and whatever the order: once nothing is lost, all find one leader.
    #[test]
    fn any_order_and_any_loss_elects_one(
        zxids in proptest::collection::vec(0_i64..3, 5),
        order in proptest::collection::vec((0_usize..20, any::<bool>()), 0..60),
    ) {
        let mut net = Net::of(&ensemble(5, &[]), 1..=5);
        for (sid, zxid) in (1..).zip(&zxids) {
            net.start(sid, having(*zxid, 0));
        }
        for (index, lost) in order {
            let index = index.min(net.queue.len().saturating_sub(1));
            if let Some((from, to, notification)) = net.queue.remove(index) && !lost {
                net.give(to, from, &notification);
            }
        }
        // Who follows one that does not lead, or leads and is not followed, finds out and begins
        // again.
        for _ in 0..10 {
            net.pass(10_000);
            for (sid, leader) in net.leaders() {
                let following = net.leaders().iter().filter(|(_, to)| *to == leader).count();
                if leader.is_some_and(|leader| net.role(leader) != Role::Leading || following < 3) {
                    net.start(sid, having(zxids[(sid - 1) as usize], 0));
                }
            }
        }
        let leader = net.leader(1);
        prop_assert!(leader.is_some());
        prop_assert!(net.leaders().iter().all(|(_, elected)| *elected == leader), "{:?}", net.decided);
    }
}
