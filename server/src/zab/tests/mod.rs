//! Each way through Zab, on whole ensembles. That all of them together are right under any faults
//! is for the simulator to say.

mod cluster;

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use self::cluster::*;
use super::election::Notification;
use super::*;
use crate::storage::epoch::Epochs;

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

/// Apache's learners have a queue of what they forwarded, and are stuck when its order is not kept.
#[test]
fn a_sync_is_answered_before_what_is_proposed_behind_it() {
    let mut cluster = Cluster::new(2, 0);
    cluster.plain.insert(1);
    cluster.start(1, (0, 0), Vec::new());
    cluster.start(2, (0, 0), Vec::new());
    cluster.run();
    let (_, link) = *cluster.links.keys().find(|(sid, _)| *sid == 2).unwrap();
    cluster.nodes.get_mut(&2).unwrap().slow_disk = true;
    cluster.propose(1);
    cluster.ask_sync(2, Some(link));
    cluster.propose(1);
    cluster.seen.clear();
    // One sync of the disk for both.
    cluster.nodes.get_mut(&2).unwrap().held.remove(0);
    cluster.release(2);
    let answers = cluster.seen.iter().filter(|(sid, _)| *sid == 1);
    let answers: Vec<_> = answers.map(|(_, packet)| packet.clone()).collect();
    let commit = |counter| Packet::Commit {
        zxid: zxid_of(1, counter),
    };
    assert_eq!(answers, [commit(1), Packet::Sync, commit(2)]);
}

#[test]
fn a_leader_that_was_cut_off_answers_no_sync() {
    let mut cluster = Cluster::all(3, 0);
    cluster.advance(500);
    cluster.propose(1);
    let old = cluster.leader();
    cluster.isolate(old);
    cluster.advance(1_000);
    let newest = cluster.nodes.values().max_by_key(|node| node.peer.epoch());
    let (new, epoch) = newest
        .map(|node| (node.peer.leader().unwrap(), node.peer.epoch()))
        .unwrap();
    assert_ne!(new, old);
    let entries = entries(epoch, [1]);
    cluster
        .queue
        .push_back((new, Input::Propose { epoch, entries }));
    cluster.run();
    assert_eq!(cluster.nodes[&new].tree.len(), 2, "another leader commits");
    assert!(
        cluster.nodes[&old].peer.is_active_leader(),
        "it does not know of that"
    );
    cluster.ask_sync(old, None);
    cluster.advance(3 * settings(old).sync_limit);
    assert!(!cluster.nodes[&old].peer.is_active_leader());
    assert_eq!(cluster.synced(old), 0);
}

#[test]
fn a_sync_is_answered_once_a_quorum_has_answered_what_was_sent_behind_it() {
    let mut cluster = Cluster::all(3, 0);
    cluster.advance(500);
    let leader = cluster.leader();
    cluster.seen.clear();
    // One round under way, and one more for all that come meanwhile.
    for _ in 0..4 {
        cluster.ask_sync(leader, None);
        let (sid, input) = cluster.queue.pop_back().unwrap();
        cluster.step(sid, input);
        assert_eq!(cluster.synced(leader), 0);
    }
    cluster.run();
    assert_eq!(cluster.synced(leader), 4);
    let pings = |cluster: &Cluster| {
        let pings = cluster
            .seen
            .iter()
            .filter(|(_, packet)| matches!(packet, Packet::Ping { .. }));
        pings.filter(|(sid, _)| *sid != leader).count()
    };
    assert_eq!(pings(&cluster), 4, "two to each follower");
    // One follower is enough, and none is not.
    for follower in (1..=3).filter(|sid| *sid != leader) {
        cluster.mute.insert(follower);
        cluster.ask_sync(leader, None);
        cluster.run();
        assert_eq!(cluster.synced(leader), 5);
    }
    cluster.mute.clear();
    cluster.advance(settings(leader).tick);
    assert_eq!(
        cluster.synced(leader),
        6,
        "followers are asked again at each beat"
    );
}

#[test]
fn a_sync_needs_nobody_where_one_votes() {
    for observers in [0, 1] {
        let mut cluster = Cluster::all(1, observers);
        cluster.advance(500);
        cluster.deaf.insert(2);
        cluster.ask_sync(1, None);
        cluster.run();
        assert_eq!(cluster.synced(1), 1);
    }
}

#[test]
fn a_sync_needs_a_quorum_of_the_members_in_force() {
    let mut cluster = Cluster::changeable();
    let leader = cluster.leader();
    cluster.mute.insert(if leader == 1 { 2 } else { 1 });
    let ask = |cluster: &mut Cluster| {
        cluster.ask_sync(leader, None);
        cluster.run();
        cluster.synced(leader)
    };
    assert_eq!(ask(&mut cluster), 1, "two of three");
    cluster.reconfigure("vvvvv");
    assert_eq!(ask(&mut cluster), 1, "two of five");
    cluster.reconfigure("vvv");
    assert_eq!(ask(&mut cluster), 3, "two of three again");
}

#[test]
fn a_sync_is_confirmed_by_what_is_committed_behind_it() {
    let mut cluster = Cluster::all(3, 0);
    cluster.advance(500);
    let leader = cluster.leader();
    cluster.mute.extend(1..=3);
    cluster.ask_sync(leader, None);
    cluster.run();
    assert_eq!(cluster.synced(leader), 0);
    cluster.propose(1);
    assert_eq!(cluster.synced(leader), 1);
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
    let votes = cluster.votes;
    cluster.advance(1100);
    assert_eq!(cluster.nodes[&leader].peer.role(), Role::Looking);
    assert_ne!(cluster.leader(), leader);
    assert_eq!(cluster.votes, votes, "nobody had to search");
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
fn a_leader_that_hears_nothing_is_not_elected_again() {
    let mut cluster = Cluster::all(3, 0);
    cluster.advance(300);
    let leader = cluster.leader();
    cluster.deaf.insert(leader);
    while cluster.nodes[&leader].peer.role() == Role::Leading {
        cluster.advance(100);
    }
    cluster.advance(500);
    assert_ne!(cluster.leader(), leader);
    cluster.deaf.clear();
    cluster.advance(1000);
    cluster.assert_same();
}

#[test]
fn a_leader_whose_voters_have_gone_to_another_gives_up_soon() {
    let mut cluster = Cluster::new(3, 0);
    cluster.start(2, (0, 0), Vec::new());
    cluster.run();
    let vote_in = |round, from, leader| Input::Notified {
        from,
        notification: Notification {
            state: Role::Looking,
            leader,
            zxid: 0,
            round,
            epoch: 0,
            format: 2,
            config: Bytes::new(),
            proposed: Bytes::new(),
        },
    };
    let vote = |from, leader| vote_in(1, from, leader);
    let role = |cluster: &Cluster| cluster.nodes[&2].peer.role();
    for votes in [[(1, 2), (3, 3)], [(1, 3), (1, 2)]] {
        for (from, leader) in votes {
            cluster.step(2, vote(from, leader));
        }
        cluster.advance(300);
        assert_eq!(role(&cluster), Role::Leading, "server 1 may come");
    }
    for doubtful in [vote(1, 3), vote_in(2, 1, 1)] {
        cluster.step(2, vote(1, 2));
        cluster.step(2, doubtful);
        assert_eq!(role(&cluster), Role::Leading, "it may come all the same");
        cluster.advance(199);
        assert_eq!(role(&cluster), Role::Leading);
        cluster.advance(1);
        assert_eq!(role(&cluster), Role::Looking);
        cluster.kill(2);
        cluster.start(2, (0, 0), Vec::new());
        cluster.run();
    }
}

#[test]
fn a_learner_that_has_decided_for_a_follower_is_sent_away() {
    let mut cluster = Cluster::new(3, 0);
    cluster.start(2, (0, 0), Vec::new());
    cluster.run();
    let link = Link(u64::MAX);
    cluster.connect(1, link, 2);
    cluster.run();
    assert!(
        cluster.links.contains_key(&(1, link)),
        "it may come to lead"
    );
    cluster.start(3, (0, 0), Vec::new());
    cluster.advance(300);
    assert_eq!(cluster.leader(), 3);
    assert!(!cluster.links.contains_key(&(1, link)));
}

#[test]
fn a_learner_that_has_decided_before_its_leader_is_kept_until_the_search_is_over() {
    let mut cluster = Cluster::new(3, 0);
    cluster.start(2, (0, 0), Vec::new());
    cluster.run();
    // The search takes longer than a tick.
    cluster.nodes.get_mut(&2).unwrap().peer.own.settings.tick = 50;
    let link = Link(u64::MAX);
    cluster.connect(1, link, 2);
    cluster.advance(250);
    assert!(cluster.links.contains_key(&(1, link)));
    cluster.advance(250);
    assert!(!cluster.links.contains_key(&(1, link)));
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
    let mut cluster = Cluster::changeable();
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
    let mut cluster = Cluster::changeable();
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
    let mut cluster = Cluster::changeable();
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

/// The leader alone had committed a change, knew that it had, and lost its power before anybody
/// heard of it and before its own log held what it proposed next.
#[test]
fn new_members_that_are_ahead_of_all_old_ones_are_led_by_one_of_them() {
    let change = change(zxid_of(1, 1), &text("vvvvv"));
    let config = |roles: &str, zxid: i64| -> Membership {
        let text = text(roles) + &format!("version={zxid:x}");
        text.parse().unwrap()
    };
    let newer = [vec![change.clone()], entries(1, 2..=4)].concat();
    for (committed, behind) in [("v", vec![1]), ("vooov", vec![1, 5]), ("vv", vec![1, 2])] {
        let mut cluster = Cluster::new(1, 0);
        cluster.reconfig = true;
        for sid in 1..=5 {
            let log = match behind.contains(&sid) {
                true => vec![change.clone()],
                false => newer.clone(),
            };
            let members = (
                config(committed, zxid_of(1, 0)),
                Some(config("vvvvv", change.zxid)),
            );
            let epochs = Epochs {
                accepted: 1,
                current: 1,
            };
            cluster.start_with(sid, epochs, (Vec::new(), log), members);
        }
        cluster.advance(1000);
        assert!(!behind.contains(&cluster.leader()), "{committed}");
        let version = cluster.nodes[&1].committed.version;
        assert_eq!(version.cast_signed(), change.zxid, "{committed}");
        cluster.propose(2);
        cluster.assert_same();
        assert_eq!(cluster.nodes[&1].tree.len(), 6);
    }
}

/// Member 2 has a change in its log, did not hear that it is committed, and is sent a tree.
#[test]
fn a_tree_that_comes_brings_its_configuration_with_it() {
    let mut cluster = Cluster::changeable();
    let old = cluster.nodes[&2].committed.clone();
    cluster.members = (text("vvvvv") + "version=0").parse().unwrap();
    cluster.start(4, (0, 0), Vec::new());
    cluster.start(5, (0, 0), Vec::new());
    cluster.advance(300);
    let stale = cluster.kill(1);
    cluster.reconfigure("--vvv");
    let mut node = cluster.kill(2);
    node.proposed = Some(std::mem::replace(&mut node.committed, old.clone()));
    for _ in 0..6 {
        cluster.propose(100);
    }
    // The leader has no more than the tree.
    let leader = cluster.leader();
    let log = std::mem::take(&mut cluster.nodes.get_mut(&leader).unwrap().log);
    cluster.nodes.get_mut(&leader).unwrap().base.extend(log);
    let members = (node.committed, node.proposed);
    cluster.start_with(2, node.epochs, (node.base, node.log), members);
    cluster.queue.clear();
    cluster.step(2, Input::Wake);
    // It connects again to a leader that it has, and hears no votes.
    cluster.nodes.get_mut(&2).unwrap().peer.end(own::Over {
        reason: "the tree is needed",
        next: Some(leader),
        handed_over: false,
    });
    cluster.queue.push_back((2, Input::Wake));
    let mut over = false;
    while !over {
        let (sid, input) = cluster.queue.pop_front().expect("no tree comes");
        over = sid == 2 && matches!(input, Input::Installed { .. });
        cluster.step(sid, input);
    }
    let node = cluster.kill(2);
    assert_eq!(node.committed, old, "it did not come as far as NEWLEADER");
    assert_eq!(node.all(), cluster.nodes[&leader].all());
    for sid in 3..=5 {
        cluster.kill(sid);
    }
    cluster.queue.clear();
    cluster.revive(1, stale);
    cluster.revive(2, node);
    cluster.advance(30_000);
    let leads = |sid| cluster.nodes[&sid].peer.is_active_leader();
    assert!(
        !leads(1) && !leads(2),
        "the new members may go on elsewhere"
    );
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
fn a_member_that_has_promised_a_newer_epoch_is_taken_in() {
    // The observer had a vote when it did so.
    for late in [1, 4] {
        let mut cluster = Cluster::new(3, 1);
        for sid in (1..=4).filter(|sid| *sid != late) {
            cluster.start(sid, (0, 0), Vec::new());
        }
        cluster.run();
        cluster.advance(300);
        cluster.propose(3);
        cluster.start(late, (9, 0), Vec::new());
        cluster.run();
        cluster.advance(1000);
        cluster.assert_same();
        assert!(cluster.nodes[&late].peer.epoch() > 9, "{late}");
    }
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
