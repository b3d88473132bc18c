//! The servers in the order in which they are tried, and who moves when the list changes (spec:
//! client behaviour, section 2.1).
//!
//! Pure: chance comes in, a decision goes out.

use std::collections::VecDeque;

use crate::connect_string::Server;

/// The servers of a client.
#[derive(Debug)]
pub(crate) struct Servers {
    list: Vec<Server>,
    /// The position of the last one tried; `None` before the first.
    last: Option<usize>,
    moving: Option<Move>,
}

/// The way to another server, after which the clients of a changed list are spread evenly.
#[derive(Debug)]
struct Move {
    /// Positions that were not tried yet, of servers that were not in the list before.
    new: VecDeque<usize>,
    /// Those of servers that were.
    old: VecDeque<usize>,
    /// How probably a new one is tried before an old one.
    prefers_new: f64,
}

impl Servers {
    /// From a list that is not empty, in the order in which they are to be tried.
    pub(crate) fn new(list: Vec<Server>) -> Self {
        Servers {
            list,
            last: None,
            moving: None,
        }
    }

    pub(crate) fn list(&self) -> &[Server] {
        &self.list
    }

    pub(crate) fn is_untried(&self) -> bool {
        self.last.is_none()
    }

    /// The server to try next, with `chance` from `0.0..1.0`.
    pub(crate) fn next(&mut self, chance: f64) -> Server {
        let next = self
            .moving
            .as_mut()
            .and_then(|moving| moving.next(chance))
            .unwrap_or_else(|| {
                self.moving = None;
                self.following()
            });
        self.last = Some(next);
        self.list[next].clone()
    }

    /// The servers in the order in which a plain rotation comes by them.
    pub(crate) fn rotation(&self) -> Vec<Server> {
        let mut list = self.list.clone();
        list.rotate_left(self.following());
        list
    }

    fn following(&self) -> usize {
        self.last.map_or(0, |last| (last + 1) % self.list.len())
    }

    /// The last server that was tried has taken the session.
    pub(crate) fn settle(&mut self) {
        self.moving = None;
    }

    /// Lets `server` come next, if it is still in the list.
    pub(crate) fn prefer(&mut self, server: &Server) {
        if let Some(position) = self.list.iter().position(|other| other == server) {
            let new = VecDeque::from([position]);
            self.moving = Some(Move {
                new,
                old: VecDeque::new(),
                prefers_new: 1.0,
            });
        }
    }

    /// Puts another list, which is not empty, in the place of this one. `mine` is where the current
    /// server is in it under another name. Answers whether the client has to go to another server,
    /// which it then does with such probability that clients that were spread evenly over the old
    /// list are spread evenly over the new one.
    pub(crate) fn update(&mut self, list: Vec<Server>, mine: Option<usize>, chance: f64) -> bool {
        let before = std::mem::replace(&mut self.list, list);
        let Some(last) = self.last else {
            return false;
        };
        let current = &before[last];
        let mine = self
            .list
            .iter()
            .position(|server| server == current)
            .or(mine);
        let is_old = |at: &usize| Some(*at) == mine || before.contains(&self.list[*at]);
        let (old, new): (VecDeque<_>, VecDeque<_>) = (0..self.list.len()).partition(is_old);
        let prefers_new = preference(before.len(), old.len(), new.len(), mine.is_some(), chance);
        self.last = mine.or(Some(last % self.list.len()));
        self.moving = prefers_new.map(|prefers_new| Move {
            new,
            old,
            prefers_new,
        });
        self.moving.is_some()
    }
}

impl Move {
    fn next(&mut self, chance: f64) -> Option<usize> {
        let (first, second) = if chance < self.prefers_new {
            (&mut self.new, &mut self.old)
        } else {
            (&mut self.old, &mut self.new)
        };
        first.pop_front().or_else(|| second.pop_front())
    }
}

/// How probably a client moves to a server that is new rather than to one that was in the list
/// `before`, of which `old` are left and to which `new` were added; `None` if it stays where it is.
fn preference(before: usize, old: usize, new: usize, has_mine: bool, chance: f64) -> Option<f64> {
    let (o, m) = (before as f64, (old + new) as f64);
    match (m > o, has_mine) {
        // So many clients as each new server needs to have its share.
        (true, true) => (chance < 1.0 - o / m).then_some(1.0),
        (true, false) => Some(1.0),
        (false, true) => None,
        // The old servers keep their clients, so that they have to get fewer of those without one.
        (false, false) => {
            let gone = o - old as f64;
            let to_old = old as f64 * (o - m) / (m * gone.max(1.0));
            Some(1.0 - to_old)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn list(ports: impl IntoIterator<Item = u16>) -> Vec<Server> {
        let server = |port| Server {
            host: "h".into(),
            port,
        };
        ports.into_iter().map(server).collect()
    }

    /// Clients that are spread over `before` learn of `after`; answers how many each server has
    /// then, and how many have moved.
    fn spread(before: &[u16], after: &[u16], clients: usize) -> (HashMap<u16, usize>, usize) {
        let mut chance = fastrand::Rng::with_seed(7);
        let mut load = HashMap::new();
        let mut moved = 0;
        for client in 0..clients {
            let mut first = list(before.iter().copied());
            first.rotate_left(client % before.len());
            let mut servers = Servers::new(first);
            let mut at = servers.next(chance.f64());
            servers.settle();
            let mut second = list(after.iter().copied());
            chance.shuffle(&mut second);
            if servers.update(second, None, chance.f64()) {
                at = servers.next(chance.f64());
                moved += 1;
            }
            *load.entry(at.port).or_default() += 1;
        }
        (load, moved)
    }

    #[test]
    fn clients_are_spread_evenly_whatever_changes_and_no_more_of_them_move_than_need() {
        const CLIENTS: usize = 30_000;
        for (before, after, share) in [
            (vec![1, 2, 3], vec![1, 2, 3, 4, 5], 0.4),
            (vec![1, 2, 3, 4, 5], vec![1, 2, 3], 0.4),
            (vec![1, 2, 3], vec![1, 2, 4], 1.0 / 3.0),
            (vec![1, 2, 3], vec![4, 5, 6], 1.0),
            (vec![1, 2, 3, 4, 5], vec![1, 2, 6, 7], 0.6),
            (vec![1, 2, 3], vec![2, 4, 5, 6], 0.75),
            (vec![1], vec![1, 2], 0.5),
            (vec![1, 2, 3], vec![3, 2, 1], 0.0),
        ] {
            let (load, moved) = spread(&before, &after, CLIENTS);
            let moved = moved as f64 / CLIENTS as f64;
            let label = format!("{before:?} to {after:?}: {load:?}, {moved} moved");
            assert!((moved - share).abs() < 0.02, "{label}");
            for port in &after {
                let part = load.get(port).copied().unwrap_or(0) as f64 / CLIENTS as f64;
                let fair = 1.0 / after.len() as f64;
                assert!((part - fair).abs() < 0.02, "{label}");
            }
        }
    }

    #[test]
    fn a_server_under_another_name_is_the_same() {
        let mut servers = Servers::new(list([1]));
        servers.next(0.0);
        assert!(!servers.update(list([7]), Some(0), 0.0));
        assert_eq!(servers.next(0.0).port, 7);
    }

    #[test]
    fn a_list_that_comes_before_the_first_attempt_moves_nobody() {
        let mut servers = Servers::new(list([1]));
        assert!(!servers.update(list([2, 3]), None, 0.0));
        assert!(servers.is_untried());
        assert_eq!(servers.next(0.0).port, 2);
    }

    #[test]
    fn what_is_preferred_comes_next_and_the_rotation_goes_on_behind_it() {
        let mut servers = Servers::new(list([1, 2, 3]));
        servers.next(0.5);
        servers.prefer(&list([3])[0]);
        servers.prefer(&list([9])[0]);
        assert_eq!(servers.next(0.5).port, 3);
        assert_eq!(servers.next(0.5).port, 1);
        assert_eq!(servers.rotation(), list([2, 3, 1]));
    }

    proptest! {
        /// However the list changes, every server of the new one is tried, and soon.
        #[test]
        fn every_server_gets_its_turn(
            before in 1u16..8,
            after in prop::collection::hash_set(0u16..12, 1..8),
            tried in 0usize..10,
            chances in prop::collection::vec(0.0f64..1.0, 30),
        ) {
            let mut chances = chances.into_iter().cycle();
            let mut servers = Servers::new(list(0..before));
            for _ in 0..tried {
                servers.next(0.5);
            }
            let all = list(after);
            servers.update(all.clone(), None, chances.next().unwrap());
            let mut left = all.clone();
            for _ in 0..2 * all.len() {
                let next = servers.next(chances.next().unwrap());
                left.retain(|server| *server != next);
            }
            prop_assert_eq!(left, vec![]);
        }
    }
}
