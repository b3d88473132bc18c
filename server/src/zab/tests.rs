//! Whole ensembles on a network and on disks that take no time, unless a test holds them up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::*;
use crate::storage::epoch::{EpochFile, Epochs};

/// What a test can look at and interfere with on one member.
struct Node {
    peer: Peer,
    /// Transactions before the log: they are only in the tree.
    base: Vec<Entry>,
    log: Vec<Entry>,
    tree: Vec<Entry>,
    epochs: Epochs,
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

impl Cluster {
    /// Voters 1 to `voters`, and observers behind them, with empty disks, none of them started.
    fn new(voters: Sid, observers: Sid) -> Self {
        let mut text = String::new();
        for sid in 1..=voters + observers {
            let role = if sid > voters {
                "observer"
            } else {
                "participant"
            };
            text += &format!("server.{sid}=h{sid}:2888:3888:{role}\n");
        }
        Cluster {
            now: 1_000,
            members: (text + "version=0").parse().unwrap(),
            nodes: BTreeMap::new(),
            queue: VecDeque::new(),
            links: BTreeMap::new(),
            next_link: 1,
            plain: BTreeSet::new(),
            seen: Vec::new(),
            clogged: BTreeSet::new(),
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
        let tree: Vec<Entry> = base.iter().chain(&log).cloned().collect();
        let recovered = Recovered {
            epochs,
            last_zxid: tree.last().map_or(0, |entry| entry.zxid),
            recent: log[log.len().saturating_sub(500)..].to_vec(),
            committed: self.members.clone(),
            proposed: None,
        };
        let peer = Peer::new(settings(sid), recovered, 0, self.now);
        let node = Node {
            peer,
            base,
            log,
            tree,
            epochs,
            slow_disk: false,
            held: Vec::new(),
            serves: false,
            events: Vec::new(),
        };
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

    fn restart(&mut self, sid: Sid) {
        let node = self.kill(sid);
        let epochs = (node.epochs.accepted, node.epochs.current);
        self.start_from(sid, epochs, node.base, node.log);
        self.run();
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
            Output::Looking { .. } => node.serves = false,
            Output::Lead { .. } | Output::Follow { .. } => {
                node.serves = true;
                node.events.push(output);
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

    /// Everybody serves, and has the same on disk and in the tree.
    fn assert_same(&self) {
        let leader = &self.nodes[&self.leader()];
        for (sid, node) in &self.nodes {
            assert!(node.serves, "{sid} does not serve: {:?}", node.peer.role());
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
