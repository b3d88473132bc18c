//! Whole ensembles on a network and on disks that take no time, unless a test holds them up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::*;
use crate::storage::epoch::{EpochFile, Epochs};
use proptest::prelude::*;
use quorate_proto::jute::Encode;

/// What a test can look at and interfere with on one member.
struct Node {
    peer: Peer,
    /// Transactions before the log: they are only in the tree.
    base: Vec<Entry>,
    log: Vec<Entry>,
    tree: Vec<Entry>,
    epochs: Epochs,
    committed: Membership,
    proposed: Option<Membership>,
    /// Keeps to itself what its disk has done.
    slow_disk: bool,
    held: Vec<Input>,
    serves: bool,
    /// What was handed to the part of the server that knows of sessions.
    events: Vec<Output>,
}

/// An ensemble.
struct Cluster {
    now: Millis,
    members: Membership,
    nodes: BTreeMap<Sid, Node>,
    queue: VecDeque<(Sid, Input)>,
    /// The other end of each link.
    links: BTreeMap<(Sid, Link), (Sid, Link)>,
    next_link: u64,
    /// Members that talk as Apache's do.
    plain: BTreeSet<Sid>,
    /// Packets that came in, with their receivers.
    seen: Vec<(Sid, Packet)>,
    /// Members whose links say nothing of having sent what they were to send.
    clogged: BTreeSet<Sid>,
    /// How many votes were sent.
    votes: usize,
    /// May the members be changed?
    reconfig: bool,
}

fn settings(id: Sid) -> Settings {
    Settings {
        id,
        tick: 2000,
        init_limit: 20_000,
        sync_limit: 10_000,
        connect_limit: 5_000,
        disk_limit: 1_000,
        notification_interval: (200, 60_000),
        finalize_wait: 200,
        commit_log_count: 500,
        commit_log_bytes: 1 << 20,
        force_snapshot: false,
        observer: false,
        reconfig: false,
    }
}

fn entry(zxid: i64) -> Entry {
    let bytes = Bytes::from(format!(
        "transaction {zxid:x}, and some bytes to make it longer"
    ));
    Entry { zxid, bytes }
}

fn entries(epoch: u32, counters: impl IntoIterator<Item = u32>) -> Vec<Entry> {
    let zxids = counters.into_iter().map(|counter| zxid_of(epoch, counter));
    zxids.map(entry).collect()
}

fn zxids(entries: &[Entry]) -> Vec<i64> {
    entries.iter().map(|entry| entry.zxid).collect()
}

/// The lines of servers from 1 on: `v` votes, `o` observes, and at `-` there is none.
fn text(roles: &str) -> String {
    let lines = (1..).zip(roles.chars()).filter_map(|(sid, role)| {
        let role = match role {
            'v' => "participant",
            'o' => "observer",
            _ => return None,
        };
        Some(format!("server.{sid}=h{sid}:2888:3888:{role}\n"))
    });
    lines.collect()
}

/// The transaction that changes the members.
fn change(zxid: i64, servers: &str) -> Entry {
    let header = quorate_proto::TxnHeader {
        session_id: 1,
        cxid: 1,
        zxid,
        time: 1,
        op: OpCode::Reconfig.number(),
    };
    let text = format!("{servers}version={zxid:x}");
    let body = SetDataTxn {
        path: "/zookeeper/config",
        data: Some(text.as_bytes()),
        version: -1,
    };
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    body.encode(&mut bytes);
    let bytes = Bytes::from(bytes);
    Entry { zxid, bytes }
}

impl Cluster {
    /// Voters 1 to `voters`, and observers behind them, with empty disks, none of them started.
    fn new(voters: Sid, observers: Sid) -> Self {
        let roles = [vec!["v"; voters as usize], vec!["o"; observers as usize]].concat();
        Cluster {
            now: 1_000,
            members: (text(&roles.concat()) + "version=0").parse().unwrap(),
            nodes: BTreeMap::new(),
            queue: VecDeque::new(),
            links: BTreeMap::new(),
            next_link: 1,
            plain: BTreeSet::new(),
            seen: Vec::new(),
            clogged: BTreeSet::new(),
            votes: 0,
            reconfig: false,
        }
    }

    fn all(voters: Sid, observers: Sid) -> Self {
        let mut cluster = Cluster::new(voters, observers);
        for sid in 1..=voters + observers {
            cluster.start(sid, (0, 0), Vec::new());
        }
        cluster.run();
        cluster
    }

    /// Starts a member with these epochs and this log.
    fn start(&mut self, sid: Sid, (accepted, current): (u32, u32), log: Vec<Entry>) {
        self.start_from(sid, (accepted, current), Vec::new(), log);
    }

    /// Starts a member whose log begins behind a tree.
    fn start_from(&mut self, sid: Sid, epochs: (u32, u32), base: Vec<Entry>, log: Vec<Entry>) {
        let epochs = Epochs {
            accepted: epochs.0,
            current: epochs.1,
        };
        let members = (self.members.clone(), None);
        self.start_with(sid, epochs, (base, log), members);
    }

    /// Starts a member from what was on the disk of one.
    fn revive(&mut self, sid: Sid, node: Node) {
        let members = (node.committed, node.proposed);
        self.start_with(sid, node.epochs, (node.base, node.log), members);
        self.run();
    }

    fn start_with(
        &mut self,
        sid: Sid,
        epochs: Epochs,
        (base, log): (Vec<Entry>, Vec<Entry>),
        (committed, proposed): (Membership, Option<Membership>),
    ) {
        let tree: Vec<Entry> = base.iter().chain(&log).cloned().collect();
        let recovered = Recovered {
            epochs,
            last_zxid: tree.last().map_or(0, |entry| entry.zxid),
            recent: log[log.len().saturating_sub(500)..].to_vec(),
            committed: committed.clone(),
            proposed: proposed.clone(),
        };
        let settings = Settings {
            reconfig: self.reconfig,
            ..settings(sid)
        };
        let peer = Peer::new(settings, recovered, 0, self.now);
        let node = Node {
            peer,
            base,
            log,
            tree,
            epochs,
            committed,
            proposed,
            slow_disk: false,
            held: Vec::new(),
            serves: false,
            events: Vec::new(),
        };
        let reachable = |to| {
            (
                to,
                Input::Reachable {
                    sid,
                    reachable: true,
                },
            )
        };
        self.queue.extend(self.nodes.keys().copied().map(reachable));
        self.nodes.insert(sid, node);
        self.queue.push_back((sid, Input::Wake));
    }

    /// Kills a member, and returns what its disk has.
    fn kill(&mut self, sid: Sid) -> Node {
        let node = self.nodes.remove(&sid).unwrap();
        let links: Vec<_> = self
            .links
            .keys()
            .filter(|end| end.0 == sid)
            .copied()
            .collect();
        for end in links {
            self.cut(end);
        }
        node
    }

    fn cut(&mut self, end: (Sid, Link)) {
        let Some(other) = self.links.remove(&end) else {
            return;
        };
        self.links.remove(&other);
        for (sid, link) in [end, other] {
            self.queue.push_back((sid, Input::Closed { link }));
        }
    }

    /// Runs until nothing moves.
    fn run(&mut self) {
        let mut steps = 0;
        while let Some((sid, input)) = self.queue.pop_front() {
            steps += 1;
            assert!(steps < 1_000_000, "it never comes to rest");
            self.step(sid, input);
        }
    }

    fn step(&mut self, sid: Sid, mut input: Input) {
        if let Input::Received { packet, .. } = &mut input {
            self.seen.push((sid, packet.clone()));
            if self.plain.contains(&sid)
                && let Packet::LeaderInfo { features, .. } | Packet::AckEpoch { features, .. } =
                    packet
            {
                *features = Features::default();
            }
        }
        let Some(node) = self.nodes.get_mut(&sid) else {
            return;
        };
        let mut out = Vec::new();
        node.peer.step(self.now, input, &mut out);
        for output in out {
            self.carry_out(sid, output);
        }
    }

    fn advance(&mut self, span: Millis) {
        let end = self.now + span;
        loop {
            self.run();
            let due = self
                .nodes
                .iter()
                .filter_map(|(sid, n)| Some((n.peer.deadline()?, *sid)));
            let Some((at, sid)) = due.min().filter(|(at, _)| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            self.queue.push_back((sid, Input::Wake));
        }
        self.now = end;
    }

    fn disk(&mut self, sid: Sid, input: Input) {
        let node = self.nodes.get_mut(&sid).unwrap();
        match node.slow_disk {
            true => node.held.push(input),
            false => self.queue.push_back((sid, input)),
        }
    }

    /// Lets the disk of a member say what it has done so far.
    fn release(&mut self, sid: Sid) {
        let node = self.nodes.get_mut(&sid).unwrap();
        node.slow_disk = false;
        let held = std::mem::take(&mut node.held);
        self.queue
            .extend(held.into_iter().map(|input| (sid, input)));
        self.run();
    }

    fn carry_out(&mut self, sid: Sid, output: Output) {
        let node = self.nodes.get_mut(&sid).unwrap();
        match output {
            Output::Notify { to, notification } => {
                self.votes += 1;
                let input = Input::Notified {
                    from: sid,
                    notification,
                };
                let input = match self.nodes.contains_key(&to) {
                    true => (to, input),
                    false => (
                        sid,
                        Input::Reachable {
                            sid: to,
                            reachable: false,
                        },
                    ),
                };
                self.queue.push_back(input);
            }
            Output::Connect { link, to } => self.connect(sid, link, to),
            Output::Send { link, packet } => self.send(sid, link, packet),
            Output::Broadcast { links, entries } => {
                for link in links {
                    for entry in &entries {
                        self.send(sid, link, Packet::Proposal(entry.clone()));
                    }
                }
            }
            Output::Mark { link } => {
                if !self.clogged.contains(&sid) {
                    self.queue.push_back((sid, Input::Drained { link }));
                }
            }
            Output::Close { link, .. } => self.cut((sid, link)),
            Output::SendSnapshot { link } => self.send_tree(sid, link),
            Output::ReadLog { link, after, upto } => {
                let read = node.read_log(after, upto);
                self.queue.push_back((sid, Input::LogRead { link, read }));
            }
            Output::Append { entries, position } => {
                assert!(
                    history::follows(node.last(), entries[0].zxid),
                    "a gap in the log"
                );
                node.log.extend(entries);
                self.disk(sid, Input::Durable { position });
            }
            Output::WriteEpoch { file, epoch } => {
                match file {
                    EpochFile::Accepted => node.epochs.accepted = epoch,
                    EpochFile::Current => node.epochs.current = epoch,
                }
                self.disk(sid, Input::EpochWritten { file, epoch });
            }
            Output::Truncate { zxid } => {
                let last_zxid = node.truncate(zxid);
                self.disk(sid, Input::Truncated { last_zxid });
            }
            Output::Apply { entries } => node.tree.extend(entries),
            Output::Propound { config } => node.proposed = Some(config),
            Output::Activate { config } => {
                node.committed = config;
                node.proposed = None;
            }
            Output::Looking { .. } => node.serves = false,
            Output::Lead { .. } | Output::Follow { .. } => {
                node.serves = true;
                node.events.push(output);
            }
            Output::Deliver { link, packet } => {
                if node.peer.role() != Role::Leading
                    && let Packet::Ping { .. } = packet
                {
                    self.send(sid, link, packet);
                }
            }
            Output::Resign { .. } => {
                self.queue.push_back((sid, Input::HandOver { to: None }));
            }
            other => node.events.push(other),
        }
    }

    fn connect(&mut self, sid: Sid, link: Link, to: Sid) {
        if !self.nodes.contains_key(&to) {
            self.queue.push_back((sid, Input::Closed { link }));
            return;
        }
        let other = Link(self.next_link);
        self.next_link += 1;
        self.links.insert((sid, link), (to, other));
        self.links.insert((to, other), (sid, link));
        self.queue.push_back((to, Input::Accepted { link: other }));
        self.queue.push_back((sid, Input::Connected { link }));
    }

    fn send(&mut self, sid: Sid, link: Link, packet: Packet) {
        if let Some((to, link)) = self.links.get(&(sid, link)).copied() {
            self.queue.push_back((to, Input::Received { link, packet }));
        }
    }

    fn send_tree(&mut self, sid: Sid, link: Link) {
        let tree = self.nodes[&sid].tree.clone();
        let zxid = tree.last().map_or(0, |entry| entry.zxid);
        self.queue
            .push_back((sid, Input::SnapshotBegun { link, zxid }));
        self.send(sid, link, Packet::Snapshot { zxid });
        if let Some((to, link)) = self.links.get(&(sid, link)).copied() {
            let node = self.nodes.get_mut(&to).unwrap();
            node.base = tree.clone();
            node.tree = tree;
            node.log.clear();
            self.queue.push_back((to, Input::Installed { link, zxid }));
        }
    }

    fn leader(&self) -> Sid {
        let mut leaders = self
            .nodes
            .iter()
            .filter(|(_, node)| node.peer.is_active_leader());
        let (sid, _) = leaders.next().expect("nobody leads");
        assert!(leaders.next().is_none(), "two lead");
        *sid
    }

    /// The leader proposes this many transactions at once.
    fn propose(&mut self, count: u32) {
        let sid = self.leader();
        let peer = &self.nodes[&sid].peer;
        let (epoch, last) = (peer.epoch(), peer.last_zxid());
        let first = if epoch_of(last) == epoch {
            counter_of(last) + 1
        } else {
            1
        };
        let entries = entries(epoch, first..first + count);
        self.queue
            .push_back((sid, Input::Propose { epoch, entries }));
        self.run();
    }

    /// The leader proposes other members, the servers from 1 on with these roles.
    fn reconfigure(&mut self, roles: &str) -> i64 {
        let peer = &self.nodes[&self.leader()].peer;
        let (epoch, last) = (peer.epoch(), peer.last_zxid());
        let zxid = if epoch_of(last) == epoch {
            last + 1
        } else {
            zxid_of(epoch, 1)
        };
        let entries = vec![change(zxid, &text(roles))];
        let input = Input::Propose { epoch, entries };
        self.queue.push_back((self.leader(), input));
        self.run();
        zxid
    }

    /// Everybody serves, and has the same on disk and in the tree.
    fn assert_same(&self) {
        let leader = &self.nodes[&self.leader()];
        for (sid, node) in &self.nodes {
            assert!(node.serves, "{sid} does not serve");
            assert_eq!(zxids(&node.tree), zxids(&leader.tree), "tree of {sid}");
            assert_eq!(node.all(), leader.all(), "history of {sid}");
            assert_eq!(node.epochs, leader.epochs, "epochs of {sid}");
        }
    }
}

impl Node {
    fn last(&self) -> i64 {
        let last = self.log.last().or(self.base.last());
        last.map_or(0, |entry| entry.zxid)
    }

    fn all(&self) -> Vec<i64> {
        zxids(&self.base)
            .into_iter()
            .chain(zxids(&self.log))
            .collect()
    }

    fn truncate(&mut self, zxid: i64) -> Option<i64> {
        if self.base.last().is_some_and(|entry| entry.zxid > zxid) {
            return None;
        }
        self.log.retain(|entry| entry.zxid <= zxid);
        self.tree.retain(|entry| entry.zxid <= zxid);
        Some(self.last())
    }

    fn read_log(&self, after: i64, upto: i64) -> LogRead {
        let base = self.base.last().map_or(0, |entry| entry.zxid);
        let begins = after == base || self.log.iter().any(|entry| entry.zxid == after);
        let wanted = self
            .log
            .iter()
            .filter(|entry| entry.zxid > after && entry.zxid <= upto);
        let entries: Vec<Entry> = wanted.take(100).cloned().collect();
        match begins && !entries.is_empty() {
            true => LogRead::Entries(entries),
            false => LogRead::Gap,
        }
    }
}

#[test]
fn an_ensemble_begins_proposes_and_commits() {
    for (voters, observers) in [(1, 0), (2, 0), (3, 0), (5, 0), (3, 2), (1, 1)] {
        let mut cluster = Cluster::all(voters, observers);
        cluster.advance(500);
        cluster.assert_same();
        cluster.propose(1);
        cluster.propose(7);
        cluster.assert_same();
        assert_eq!(cluster.nodes[&1].tree.len(), 8);
    }
}

/// A leader, whose history is `ours`, and a member that comes back with `theirs`: returns what the
/// latter was sent first.
fn sync(ours: Vec<Entry>, base: Vec<Entry>, theirs: Vec<Entry>) -> Packet {
    let mut cluster = Cluster::new(3, 0);
    cluster.start(2, (3, 3), ours.clone());
    cluster.start(3, (3, 3), ours);
    cluster.run();
    cluster.advance(300);
    assert_eq!(cluster.leader(), 3);
    cluster.seen.clear();
    let epoch = theirs.last().map_or(0, |entry| epoch_of(entry.zxid));
    cluster.start_from(1, (epoch, epoch), base, theirs);
    cluster.run();
    cluster.advance(1000);
    cluster.assert_same();
    cluster.propose(3);
    cluster.assert_same();
    let first = cluster.seen.iter().find_map(|(sid, packet)| {
        let begins = matches!(
            packet,
            Packet::Diff { .. } | Packet::Truncate { .. } | Packet::Snapshot { .. }
        );
        (*sid == 1 && begins).then(|| packet.clone())
    });
    first.unwrap()
}

#[test]
fn a_learner_is_sent_what_it_lacks() {
    let ours = || [entries(1, 1..=5), entries(3, 1..=4)].concat();
    let last = zxid_of(3, 4);
    let diff = Packet::Diff { zxid: last };
    let tree = Packet::Snapshot { zxid: last };
    let cut = |epoch, counter| Packet::Truncate {
        zxid: zxid_of(epoch, counter),
    };
    let cases = [
        ("the same", ours(), diff.clone()),
        ("nothing", Vec::new(), diff.clone()),
        ("a part", entries(1, 1..=3), diff.clone()),
        ("all of an older epoch", entries(1, 1..=5), diff),
        ("more of an older epoch", entries(1, 1..=8), cut(1, 5)),
        (
            "more of the newest",
            [ours(), entries(3, 5..=9)].concat(),
            cut(3, 4),
        ),
        (
            "an epoch of which nothing was kept",
            [entries(1, 1..=5), entries(2, 1..=2)].concat(),
            tree,
        ),
    ];
    for (case, theirs, expected) in cases {
        assert_eq!(sync(ours(), Vec::new(), theirs), expected, "{case}");
    }
}

#[test]
fn a_learner_that_lags_is_served_from_the_log_on_disk() {
    let ours = || entries(3, 1..=1234);
    let zxid = zxid_of(3, 1234);
    let first = sync(ours(), Vec::new(), entries(3, 1..=7));
    assert_eq!(first, Packet::Diff { zxid });
    let first = sync(ours(), Vec::new(), Vec::new());
    assert_eq!(first, Packet::Diff { zxid });
    // It has what never was in the log.
    let theirs = [entries(1, 1..=2)].concat();
    assert_eq!(sync(ours(), Vec::new(), theirs), Packet::Snapshot { zxid });
}

#[test]
fn a_log_that_cannot_be_cut_is_replaced_by_the_tree() {
    let ours = entries(1, 1..=5);
    let first = sync(ours, entries(1, 1..=8), Vec::new());
    let zxid = zxid_of(1, 5);
    assert_eq!(first, Packet::Truncate { zxid });
}

#[test]
fn members_that_talk_as_apaches_do_are_understood() {
    for plain in [vec![1], vec![1, 2, 3], vec![3], vec![4]] {
        let mut cluster = Cluster::new(3, 1);
        cluster.plain = plain.into_iter().collect();
        cluster.start(2, (1, 1), entries(1, 1..=9));
        cluster.start(3, (1, 1), entries(1, 1..=9));
        cluster.run();
        cluster.advance(300);
        cluster.propose(5);
        cluster.start(1, (1, 1), entries(1, 1..=3));
        cluster.start(4, (0, 0), Vec::new());
        cluster.run();
        cluster.advance(300);
        cluster.assert_same();
        cluster.propose(5);
        cluster.assert_same();
    }
}

#[test]
fn leaders_come_and_go() {
    let mut cluster = Cluster::all(5, 1);
    cluster.advance(300);
    let mut count = 0;
    for round in 0..12 {
        cluster.propose(7);
        count += 7;
        let leader = cluster.leader();
        let node = cluster.kill(leader);
        cluster.run();
        cluster.advance(1000);
        cluster.assert_same();
        cluster.propose(2);
        count += 2;
        let epochs = (node.epochs.accepted, node.epochs.current);
        cluster.start_from(leader, epochs, node.base, node.log);
        cluster.run();
        cluster.advance(1000);
        cluster.assert_same();
        assert_eq!(cluster.nodes[&1].tree.len(), count, "round {round}");
    }
}

#[test]
fn nothing_is_acknowledged_before_it_is_durable() {
    let mut cluster = Cluster::all(3, 0);
    cluster.advance(300);
    let leader = cluster.leader();
    for sid in 1..=3 {
        cluster.nodes.get_mut(&sid).unwrap().slow_disk = true;
    }
    cluster.propose(3);
    let applied = |cluster: &Cluster| cluster.nodes[&leader].tree.len();
    assert_eq!(applied(&cluster), 0);
    cluster.release(leader);
    assert_eq!(applied(&cluster), 0);
    let follower = if leader == 1 { 2 } else { 1 };
    cluster.release(follower);
    assert_eq!(applied(&cluster), 3);
    for sid in 1..=3 {
        cluster.release(sid);
    }
    cluster.assert_same();
}

#[test]
fn a_new_leader_is_acknowledged_behind_the_history_and_the_epoch_and_before_proposals() {
    let mut cluster = Cluster::new(3, 0);
    cluster.start(2, (1, 1), entries(1, 1..=9));
    cluster.start(3, (1, 1), entries(1, 1..=9));
    cluster.run();
    cluster.advance(300);
    cluster.start(1, (0, 0), Vec::new());
    cluster.nodes.get_mut(&1).unwrap().slow_disk = true;
    cluster.run();
    cluster.advance(300);
    let mut said = Vec::new();
    while cluster.nodes[&1].epochs.current < 2 || !cluster.nodes[&1].held.is_empty() {
        cluster.seen.clear();
        cluster.propose(1);
        let input = cluster.nodes.get_mut(&1).unwrap().held.remove(0);
        let what = format!("{input:?}");
        cluster.queue.push_back((1, input));
        cluster.run();
        let acks = cluster.seen.iter().filter_map(|(_, packet)| match packet {
            Packet::Ack { zxid } => Some(*zxid),
            _ => None,
        });
        let acks: Vec<i64> = acks.filter(|zxid| *zxid >= zxid_of(2, 0)).collect();
        said.push((what, acks));
        assert!(said.len() < 100);
        if said.len() > 40 {
            cluster.nodes.get_mut(&1).unwrap().slow_disk = false;
        }
    }
    let wrote = said.iter().position(|(what, _)| what.contains("Current"));
    assert!(wrote.is_some_and(|at| at >= 2), "{said:?}");
    cluster.release(1);
    cluster.assert_same();
}

#[test]
fn a_learner_whose_link_is_clogged_catches_up_later() {
    let mut cluster = Cluster::all(3, 1);
    cluster.advance(300);
    let leader = cluster.leader();
    cluster.clogged.insert(leader);
    for _ in 0..130 {
        cluster.propose(500);
    }
    cluster.clogged.clear();
    let links: Vec<Link> = cluster
        .links
        .keys()
        .filter(|e| e.0 == leader)
        .map(|e| e.1)
        .collect();
    for link in links {
        cluster.queue.push_back((leader, Input::Drained { link }));
    }
    cluster.run();
    cluster.assert_same();
    assert_eq!(cluster.nodes[&1].tree.len(), 65_000);
}

#[test]
fn a_leader_whose_disk_hangs_gives_up() {
    let mut cluster = Cluster::all(3, 0);
    cluster.advance(300);
    let leader = cluster.leader();
    cluster.nodes.get_mut(&leader).unwrap().slow_disk = true;
    cluster.propose(3);
    cluster.advance(1500);
    assert_eq!(cluster.nodes[&leader].peer.role(), Role::Looking);
    assert_ne!(cluster.leader(), leader);
    cluster.release(leader);
    cluster.advance(300);
    cluster.assert_same();
}

#[test]
fn a_leader_without_a_quorum_gives_up() {
    let mut cluster = Cluster::all(3, 0);
    cluster.advance(300);
    let leader = cluster.leader();
    for sid in (1..=3).filter(|sid| *sid != leader) {
        cluster.kill(sid);
    }
    cluster.advance(5000);
    assert_eq!(cluster.nodes[&leader].peer.role(), Role::Looking);
}

#[test]
fn a_leader_hands_over_to_a_follower_that_has_everything() {
    for to in [None, Some(1), Some(2)] {
        let mut cluster = Cluster::all(3, 1);
        cluster.advance(300);
        assert_eq!(cluster.leader(), 3);
        let votes = cluster.votes;
        cluster.propose(5);
        cluster.queue.push_back((3, Input::HandOver { to }));
        cluster.run();
        assert_ne!(cluster.leader(), 3);
        assert!(to.is_none_or(|to| cluster.leader() == to));
        assert_eq!(cluster.votes, votes, "nobody had to search");
        cluster.assert_same();
        cluster.propose(5);
        cluster.assert_same();
    }
}

#[test]
fn a_leader_waits_for_what_it_has_proposed_before_it_hands_over() {
    let mut cluster = Cluster::all(3, 0);
    cluster.advance(300);
    for sid in 1..=2 {
        cluster.nodes.get_mut(&sid).unwrap().slow_disk = true;
    }
    cluster.propose(5);
    cluster
        .queue
        .push_back((3, Input::HandOver { to: Some(1) }));
    cluster.run();
    assert_eq!(cluster.leader(), 3);
    cluster.release(2);
    assert_eq!(cluster.leader(), 3, "2 has everything, and 1 has not");
    cluster.release(1);
    assert_eq!(cluster.leader(), 1);
    cluster.assert_same();
    assert_eq!(cluster.nodes[&3].tree.len(), 5);
}

#[test]
fn a_leader_that_cannot_hand_over_gives_up() {
    let mut cluster = Cluster::all(3, 0);
    cluster.advance(300);
    cluster.plain = BTreeSet::from([1, 2]);
    cluster
        .queue
        .push_back((3, Input::HandOver { to: Some(7) }));
    cluster.run();
    cluster.advance(300);
    cluster.assert_same();
    let leader = cluster.leader();
    cluster
        .queue
        .push_back((leader, Input::HandOver { to: None }));
    cluster.run();
    cluster.advance(300);
    cluster.assert_same();
}

#[test]
fn an_epoch_whose_numbers_run_out_is_followed_by_another_of_the_same_leader() {
    for voters in [1, 3] {
        let mut cluster = Cluster::all(voters, 0);
        cluster.advance(300);
        let (leader, epoch) = (voters, cluster.nodes[&voters].peer.epoch());
        // So that the numbers do not have to be used up.
        for node in cluster.nodes.values_mut() {
            node.peer.own.history.replace(zxid_of(epoch, 0xfffe_fff0));
            node.base = vec![entry(zxid_of(epoch, 0xfffe_fff0))];
            node.tree = node.base.clone();
        }
        cluster.propose(1);
        let votes = cluster.votes;
        cluster.propose(16);
        assert_eq!(cluster.leader(), leader);
        assert_eq!(cluster.nodes[&leader].peer.epoch(), epoch + 1);
        assert_eq!(cluster.votes, votes);
        cluster.propose(3);
        cluster.assert_same();
    }
}

#[test]
fn the_members_change_without_an_election() {
    let mut cluster = Cluster::new(3, 0);
    cluster.reconfig = true;
    for sid in 1..=3 {
        cluster.start(sid, (0, 0), Vec::new());
    }
    cluster.run();
    cluster.advance(300);
    let epoch = cluster.nodes[&3].peer.epoch();
    let version = cluster.nodes[&1].peer.membership().0.version;
    assert_eq!(version.cast_signed(), zxid_of(epoch, 0));
    cluster.members = (text("vvvvv") + "version=0").parse().unwrap();
    cluster.start(4, (0, 0), Vec::new());
    cluster.start(5, (0, 0), Vec::new());
    cluster.run();
    cluster.advance(300);
    cluster.propose(2);
    cluster.assert_same();
    let votes = cluster.votes;
    for roles in [
        "vvvvv", "vvvvo", "vvvvv", "--vvv", "ovvvv", "vv-v-", "---v-", "vvvvv",
    ] {
        let version = cluster.reconfigure(roles);
        cluster.propose(3);
        for (sid, node) in &cluster.nodes {
            let (committed, proposed) = node.peer.membership();
            let known = (committed.version.cast_signed(), proposed);
            assert_eq!(known, (version, None), "{roles} at {sid}");
        }
        assert!(
            cluster.nodes[&4].committed.is_voter(cluster.leader()),
            "{roles}"
        );
        cluster.assert_same();
    }
    assert_eq!(cluster.votes, votes, "nobody had to search");
}

#[test]
fn a_change_of_the_members_needs_a_quorum_of_the_old_and_of_the_new_ones() {
    let mut cluster = Cluster::new(3, 0);
    cluster.reconfig = true;
    for sid in 1..=3 {
        cluster.start(sid, (0, 0), Vec::new());
    }
    cluster.run();
    cluster.advance(300);
    let before = cluster.nodes[&3].peer.applied();
    // Of the new voters only one is there.
    let change = cluster.reconfigure("--vvv");
    cluster.propose(2);
    assert_eq!(cluster.nodes[&3].peer.applied(), before);
    assert!(cluster.nodes[&1].proposed.is_some());
    // Those who know of it complete it, as soon as enough of the new ones are there.
    let node = cluster.kill(3);
    cluster.run();
    cluster.advance(1000);
    cluster.revive(3, node);
    cluster.members = (text("vvvvv") + "version=0").parse().unwrap();
    cluster.start(4, (0, 0), Vec::new());
    cluster.run();
    cluster.advance(3000);
    let (committed, proposed) = cluster.nodes[&3].peer.membership();
    assert_eq!((committed.version.cast_signed(), proposed), (change, None));
    assert!(cluster.leader() >= 3);
    cluster.propose(2);
    cluster.assert_same();
}

#[test]
fn a_change_of_the_members_that_reached_nobody_is_forgotten() {
    let mut cluster = Cluster::new(3, 0);
    cluster.reconfig = true;
    for sid in 1..=3 {
        cluster.start(sid, (0, 0), Vec::new());
    }
    cluster.run();
    cluster.advance(300);
    cluster.propose(2);
    let mut others = vec![(1, cluster.kill(1)), (2, cluster.kill(2))];
    cluster.queue.retain(|(sid, _)| *sid != 3);
    cluster.reconfigure("--vvv");
    let node = cluster.kill(3);
    assert!(node.proposed.is_some());
    cluster.run();
    for (sid, node) in others.drain(..) {
        cluster.revive(sid, node);
    }
    cluster.advance(1000);
    cluster.propose(2);
    cluster.revive(3, node);
    cluster.advance(1000);
    cluster.assert_same();
    assert!(cluster.nodes[&3].peer.membership().1.is_none());
}

#[test]
fn a_quiet_ensemble_stays_as_it_is() {
    let mut cluster = Cluster::all(3, 1);
    cluster.advance(300);
    cluster.propose(1);
    let (votes, epoch) = (cluster.votes, cluster.nodes[&3].peer.epoch());
    cluster.advance(100_000);
    cluster.assert_same();
    assert_eq!(cluster.votes, votes);
    assert_eq!(cluster.nodes[&3].peer.epoch(), epoch);
}

#[test]
fn a_voter_that_has_promised_a_newer_epoch_is_taken_in() {
    let mut cluster = Cluster::new(3, 0);
    cluster.start(2, (0, 0), Vec::new());
    cluster.start(3, (0, 0), Vec::new());
    cluster.run();
    cluster.advance(300);
    cluster.propose(3);
    cluster.start(1, (9, 0), Vec::new());
    cluster.run();
    cluster.advance(1000);
    cluster.assert_same();
    assert!(cluster.nodes[&1].peer.epoch() > 9);
}

/// A packet of any kind, with the numbers that matter here or with none that mean anything.
fn any_packet() -> impl Strategy<Value = Packet> {
    let zxid = prop_oneof![
        (0..4_u32, 0..4_u32).prop_map(|(epoch, counter)| zxid_of(epoch, counter)),
        Just(i64::MIN),
        Just(i64::MAX),
        Just(-1),
    ];
    let epoch = prop_oneof![0..4_u32, Just(i32::MAX.cast_unsigned()), Just(u32::MAX)];
    let sid = prop_oneof![0..5_i64, Just(i64::MIN)];
    (0..17, zxid, epoch, sid, any::<bool>()).prop_map(|(kind, zxid, epoch, sid, flag)| {
        let features = if flag {
            Features::ALL
        } else {
            Features::default()
        };
        match kind {
            0 => Packet::LearnerInfo {
                observer: flag,
                accepted: epoch,
                sid,
                config_version: 0,
            },
            1 => Packet::LeaderInfo { epoch, features },
            2 => Packet::AckEpoch {
                last_zxid: zxid,
                current: flag.then_some(epoch),
                features,
            },
            3 => Packet::Diff { zxid },
            4 => Packet::Truncate { zxid },
            5 | 6 => Packet::Proposal(entry(zxid)),
            7 => Packet::Commit { zxid },
            8 => Packet::CommitAndActivate { zxid, leader: sid },
            9 => Packet::Inform(entry(zxid)),
            10 => Packet::InformAndActivate {
                entry: change(zxid, "server.1=h1:1:2\n"),
                leader: sid,
            },
            11 => Packet::NewLeader {
                epoch,
                config: Bytes::from_static(b"server.1=h1:1:2\nversion=100000000"),
            },
            12 => Packet::UpToDate,
            13 | 14 => Packet::Ack { zxid },
            15 => Packet::HandOver { to: sid },
            _ => Packet::Proposal(change(zxid, "nonsense")),
        }
    })
}

proptest! {
    #[test]
    fn no_packet_does_harm_where_it_does_not_belong(
        packets in prop::collection::vec((0..8_usize, 0..40_usize, any_packet()), 1..20),
    ) {
        let mut cluster = Cluster::new(3, 1);
        for sid in 1..=4 {
            cluster.start(sid, (0, 0), Vec::new());
        }
        for (which, pause, packet) in packets {
            for _ in 0..pause {
                if let Some((sid, input)) = cluster.queue.pop_front() {
                    cluster.step(sid, input);
                }
            }
            let ends: Vec<(Sid, Link)> = cluster.links.keys().copied().collect();
            if let Some((sid, link)) = ends.get(which) {
                let input = Input::Received { link: *link, packet };
                let mut out = Vec::new();
                // What it says to that is of no interest, and its disk is a mess.
                cluster.nodes.get_mut(sid).unwrap().peer.step(cluster.now, input, &mut out);
            }
        }
    }
}

#[test]
fn a_leader_that_cannot_be_reached_is_not_waited_for() {
    let mut cluster = Cluster::all(3, 0);
    cluster.advance(300);
    cluster.kill(1);
    cluster.kill(2);
    cluster.start(1, (1, 1), Vec::new());
    cluster.queue.clear();
    let node = cluster.nodes.get_mut(&1).unwrap();
    let mut out = Vec::new();
    node.peer.step(cluster.now, Input::Wake, &mut out);
    node.peer.end(own::Over {
        reason: "another is to lead",
        next: Some(2),
        handed_over: false,
    });
    cluster.queue.push_back((1, Input::Wake));
    cluster.run();
    assert_eq!(cluster.nodes[&1].peer.leader(), Some(2));
    cluster.advance(1000);
    assert_eq!(cluster.nodes[&1].peer.leader(), None);
}
