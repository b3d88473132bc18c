//! Whole ensembles on a network and on disks that take no time, unless a test holds them up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use quorate_proto::jute::Encode;
use quorate_proto::{OpCode, SetDataTxn, TxnHeader};

use crate::storage::epoch::{EpochFile, Epochs};
use crate::zab::*;

/// What a test can look at and interfere with on one member.
pub(super) struct Node {
    pub(super) peer: Peer,
    /// Transactions before the log: they are only in the tree.
    pub(super) base: Vec<Entry>,
    pub(super) log: Vec<Entry>,
    pub(super) tree: Vec<Entry>,
    pub(super) epochs: Epochs,
    pub(super) committed: Membership,
    pub(super) proposed: Option<Membership>,
    /// Keeps to itself what its disk has done.
    pub(super) slow_disk: bool,
    pub(super) held: Vec<Input>,
    pub(super) serves: bool,
    /// What was handed to the part of the server that knows of sessions.
    pub(super) events: Vec<Output>,
}

/// An ensemble.
pub(super) struct Cluster {
    pub(super) now: Millis,
    pub(super) members: Membership,
    pub(super) nodes: BTreeMap<Sid, Node>,
    pub(super) queue: VecDeque<(Sid, Input)>,
    /// The other end of each link.
    pub(super) links: BTreeMap<(Sid, Link), (Sid, Link)>,
    pub(super) next_link: u64,
    /// Members that talk as Apache's do.
    pub(super) plain: BTreeSet<Sid>,
    /// Packets that came in, with their receivers.
    pub(super) seen: Vec<(Sid, Packet)>,
    /// Members whose links say nothing of having sent what they were to send.
    pub(super) clogged: BTreeSet<Sid>,
    /// Members that hear nothing of the others.
    pub(super) deaf: BTreeSet<Sid>,
    /// Members that answer no PING.
    pub(super) mute: BTreeSet<Sid>,
    /// How many votes were sent.
    pub(super) votes: usize,
    /// May the members be changed?
    pub(super) reconfig: bool,
}

pub(super) fn settings(id: Sid) -> Settings {
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

pub(super) fn entry(zxid: i64) -> Entry {
    let bytes = Bytes::from(format!(
        "transaction {zxid:x}, and some bytes to make it longer"
    ));
    Entry { zxid, bytes }
}

pub(super) fn entries(epoch: u32, counters: impl IntoIterator<Item = u32>) -> Vec<Entry> {
    let zxids = counters.into_iter().map(|counter| zxid_of(epoch, counter));
    zxids.map(entry).collect()
}

pub(super) fn zxids(entries: &[Entry]) -> Vec<i64> {
    entries.iter().map(|entry| entry.zxid).collect()
}

/// The lines of servers from 1 on: `v` votes, `o` observes, and at `-` there is none.
pub(super) fn text(roles: &str) -> String {
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
pub(super) fn change(zxid: i64, servers: &str) -> Entry {
    let header = TxnHeader {
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
    pub(super) fn new(voters: Sid, observers: Sid) -> Self {
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
            deaf: BTreeSet::new(),
            mute: BTreeSet::new(),
            votes: 0,
            reconfig: false,
        }
    }

    pub(super) fn all(voters: Sid, observers: Sid) -> Self {
        let mut cluster = Cluster::new(voters, observers);
        for sid in 1..=voters + observers {
            cluster.start(sid, (0, 0), Vec::new());
        }
        cluster.run();
        cluster
    }

    /// Voters 1 to 3, whose members may be changed.
    pub(super) fn changeable() -> Self {
        let mut cluster = Cluster::new(3, 0);
        cluster.reconfig = true;
        for sid in 1..=3 {
            cluster.start(sid, (0, 0), Vec::new());
        }
        cluster.advance(300);
        cluster
    }

    /// Starts a member with these epochs and this log.
    pub(super) fn start(&mut self, sid: Sid, (accepted, current): (u32, u32), log: Vec<Entry>) {
        self.start_from(sid, (accepted, current), Vec::new(), log);
    }

    /// Starts a member whose log begins behind a tree.
    pub(super) fn start_from(
        &mut self,
        sid: Sid,
        epochs: (u32, u32),
        base: Vec<Entry>,
        log: Vec<Entry>,
    ) {
        let epochs = Epochs {
            accepted: epochs.0,
            current: epochs.1,
        };
        let members = (self.members.clone(), None);
        self.start_with(sid, epochs, (base, log), members);
    }

    /// Starts a member from what was on the disk of one.
    pub(super) fn revive(&mut self, sid: Sid, node: Node) {
        let members = (node.committed, node.proposed);
        self.start_with(sid, node.epochs, (node.base, node.log), members);
        self.run();
    }

    pub(super) fn start_with(
        &mut self,
        sid: Sid,
        epochs: Epochs,
        (base, log): (Vec<Entry>, Vec<Entry>),
        (committed, proposed): (Membership, Option<Membership>),
    ) {
        let tree: Vec<Entry> = base.iter().chain(&log).cloned().collect();
        let mut changes = tree.iter().filter_map(|entry| entry.config().unwrap());
        let shown = changes.next_back();
        let newer = |config: &Membership| config.version > committed.version;
        let proposed = proposed.filter(newer).and(shown).filter(newer);
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
    pub(super) fn kill(&mut self, sid: Sid) -> Node {
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

    pub(super) fn cut(&mut self, end: (Sid, Link)) {
        let Some(other) = self.links.remove(&end) else {
            return;
        };
        self.links.remove(&other);
        for (sid, link) in [end, other] {
            self.queue.push_back((sid, Input::Closed { link }));
        }
    }

    /// Cuts a member off without its knowledge.
    pub(super) fn isolate(&mut self, sid: Sid) {
        self.deaf.insert(sid);
        for end in self.links_of(sid) {
            if let Some(other) = self.links.remove(&end) {
                self.links.remove(&other);
                self.queue
                    .push_back((other.0, Input::Closed { link: other.1 }));
            }
        }
    }

    /// The links of a member.
    pub(super) fn links_of(&self, sid: Sid) -> Vec<(Sid, Link)> {
        self.links
            .keys()
            .copied()
            .filter(|end| end.0 == sid)
            .collect()
    }

    /// A learner on a link, or a client of the leader, asks for a `sync`.
    pub(super) fn ask_sync(&mut self, leader: Sid, link: Option<Link>) {
        let epoch = self.nodes[&leader].peer.epoch();
        self.queue.push_back((leader, Input::Sync { epoch, link }));
    }

    /// How many `sync`s of its clients a leader has answered.
    pub(super) fn synced(&self, leader: Sid) -> usize {
        let events = self.nodes[&leader].events.iter();
        events
            .filter(|event| matches!(event, Output::Synced))
            .count()
    }

    /// Runs until nothing moves.
    pub(super) fn run(&mut self) {
        let mut steps = 0;
        while let Some((sid, input)) = self.queue.pop_front() {
            steps += 1;
            assert!(steps < 1_000_000, "it never comes to rest");
            self.step(sid, input);
        }
    }

    pub(super) fn step(&mut self, sid: Sid, mut input: Input) {
        let heard = matches!(input, Input::Received { .. } | Input::Notified { .. });
        if heard && self.deaf.contains(&sid) {
            return;
        }
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

    pub(super) fn advance(&mut self, span: Millis) {
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

    pub(super) fn disk(&mut self, sid: Sid, input: Input) {
        let node = self.nodes.get_mut(&sid).unwrap();
        match node.slow_disk {
            true => node.held.push(input),
            false => self.queue.push_back((sid, input)),
        }
    }

    /// Lets the disk of a member say what it has done so far.
    pub(super) fn release(&mut self, sid: Sid) {
        let node = self.nodes.get_mut(&sid).unwrap();
        node.slow_disk = false;
        let held = std::mem::take(&mut node.held);
        self.queue
            .extend(held.into_iter().map(|input| (sid, input)));
        self.run();
    }

    pub(super) fn carry_out(&mut self, sid: Sid, output: Output) {
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
            Output::SendSnapshot { link, .. } => self.send_tree(sid, link),
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
                    && !self.mute.contains(&sid)
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

    pub(super) fn connect(&mut self, sid: Sid, link: Link, to: Sid) {
        if !self.nodes.contains_key(&to) {
            self.queue.push_back((sid, Input::Closed { link }));
            return;
        }
        if self.deaf.contains(&to) {
            return;
        }
        let other = Link(self.next_link);
        self.next_link += 1;
        self.links.insert((sid, link), (to, other));
        self.links.insert((to, other), (sid, link));
        self.queue.push_back((to, Input::Accepted { link: other }));
        self.queue.push_back((sid, Input::Connected { link }));
    }

    pub(super) fn send(&mut self, sid: Sid, link: Link, packet: Packet) {
        if let Some((to, link)) = self.links.get(&(sid, link)).copied() {
            self.queue.push_back((to, Input::Received { link, packet }));
        }
    }

    pub(super) fn send_tree(&mut self, sid: Sid, link: Link) {
        let tree = self.nodes[&sid].tree.clone();
        let zxid = tree.last().map_or(0, |entry| entry.zxid);
        self.queue
            .push_back((sid, Input::SnapshotBegun { link, zxid }));
        self.send(sid, link, Packet::Snapshot { zxid });
        if let Some((to, link)) = self.links.get(&(sid, link)).copied() {
            let node = self.nodes.get_mut(&to).unwrap();
            node.base = tree.clone();
            node.log.clear();
            let configs = tree.iter().rev();
            let shown = configs.filter_map(|e| e.config().unwrap()).next();
            node.tree = tree;
            let installed = Input::Installed { link, zxid, shown };
            self.queue.push_back((to, installed));
        }
    }

    pub(super) fn leader(&self) -> Sid {
        let mut leaders = self
            .nodes
            .iter()
            .filter(|(_, node)| node.peer.is_active_leader());
        let (sid, _) = leaders.next().expect("nobody leads");
        assert!(leaders.next().is_none(), "two lead");
        *sid
    }

    /// The leader proposes this many transactions at once.
    pub(super) fn propose(&mut self, count: u32) {
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
    pub(super) fn reconfigure(&mut self, roles: &str) -> i64 {
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
    pub(super) fn assert_same(&self) {
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
    pub(super) fn last(&self) -> i64 {
        let last = self.log.last().or(self.base.last());
        last.map_or(0, |entry| entry.zxid)
    }

    pub(super) fn all(&self) -> Vec<i64> {
        zxids(&self.base)
            .into_iter()
            .chain(zxids(&self.log))
            .collect()
    }

    pub(super) fn truncate(&mut self, zxid: i64) -> Option<i64> {
        if self.base.last().is_some_and(|entry| entry.zxid > zxid) {
            return None;
        }
        self.log.retain(|entry| entry.zxid <= zxid);
        self.tree.retain(|entry| entry.zxid <= zxid);
        Some(self.last())
    }

    pub(super) fn read_log(&self, after: i64, upto: i64) -> LogRead {
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
