//! Which task goes where.

use std::collections::BTreeMap;

use super::{Task, TaskState, WorkerInfo};

/// What the master is to do about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Take it away from a worker that is gone.
    Free(String),
    /// Give it to a worker.
    Assign(String, String),
    /// Ask the worker that has it to stop.
    Close(String),
}

/// What is to be done now. The state that it leads to, once workers have done their part, is planned
/// from again.
pub(super) fn plan(
    workers: &BTreeMap<String, WorkerInfo>,
    tasks: &BTreeMap<String, Task>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut loads: BTreeMap<&str, Load> = workers.iter().map(Load::new).collect();
    let mut free = Vec::new();
    for (name, task) in tasks {
        match task.worker.as_deref().map(|worker| loads.get_mut(worker)) {
            None => free.push(name),
            Some(Some(load)) => load.tasks += 1,
            Some(None) => steps.push(Step::Free(name.clone())),
        }
    }
    for name in &free {
        let Some(worker) = least_loaded(&loads) else {
            return steps;
        };
        steps.push(Step::Assign((*name).clone(), worker.to_owned()));
        if let Some(load) = loads.get_mut(worker) {
            load.tasks += 1;
        }
    }
    // Tasks move only when everything else is at rest.
    if steps.is_empty() && tasks.values().all(|task| task.state == TaskState::Open) {
        balance(&mut loads, tasks, &mut steps);
    }
    steps
}

/// What a worker has, and can have in relation to others.
#[derive(Debug, Clone, Copy)]
struct Load {
    tasks: u64,
    capacity: u64,
}

impl Load {
    fn new<'a>((name, worker): (&'a String, &WorkerInfo)) -> (&'a str, Self) {
        let capacity = u64::from(worker.capacity);
        (name, Load { tasks: 0, capacity })
    }

    /// How loaded it would be with one more task; comparable by cross multiplication.
    fn with_one_more(self) -> (u64, u64) {
        (self.tasks + 1, self.capacity)
    }
}

fn is_less((tasks, capacity): (u64, u64), (other_tasks, other_capacity): (u64, u64)) -> bool {
    tasks * other_capacity < other_tasks * capacity
}

fn least_loaded<'a>(loads: &BTreeMap<&'a str, Load>) -> Option<&'a str> {
    let able = loads.iter().filter(|(_, load)| load.capacity > 0);
    let least =
        able.reduce(
            |least, next| match is_less(next.1.with_one_more(), least.1.with_one_more()) {
                true => next,
                false => least,
            },
        );
    least.map(|(name, _)| *name)
}

/// Closes tasks of those who have more than others would have with one more.
fn balance(
    loads: &mut BTreeMap<&str, Load>,
    tasks: &BTreeMap<String, Task>,
    steps: &mut Vec<Step>,
) {
    for (name, task) in tasks {
        let Some(worker) = task.worker.as_deref() else {
            continue;
        };
        let (Some(&from), Some(to)) = (loads.get(worker), least_loaded(loads)) else {
            continue;
        };
        let Some(&target) = loads.get(to) else {
            continue;
        };
        if is_less(target.with_one_more(), (from.tasks, from.capacity)) {
            steps.push(Step::Close(name.clone()));
            for (worker, change) in [(worker, -1), (to, 1)] {
                if let Some(load) = loads.get_mut(worker) {
                    load.tasks = load.tasks.saturating_add_signed(change);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Does what workers do to the plan.
    fn apply(tasks: &mut BTreeMap<String, Task>, steps: &[Step]) {
        for step in steps {
            let (name, state, worker) = match step {
                Step::Free(name) | Step::Close(name) => (name, TaskState::Offline, None),
                Step::Assign(name, worker) => (name, TaskState::Open, Some(worker.clone())),
            };
            let task = tasks.get_mut(name).unwrap();
            (task.state, task.worker) = (state, worker);
        }
    }

    proptest! {
        #[test]
        fn everything_is_served_and_evenly_in_a_few_steps(
            capacities in vec(1..4_u32, 1..6),
            served in vec(0..8_usize, 0..30),
        ) {
            let workers: BTreeMap<_, _> = capacities
                .iter()
                .enumerate()
                .map(|(n, capacity)| {
                    (n.to_string(), WorkerInfo::new(n.to_string()).capacity(*capacity))
                })
                .collect();
            let mut tasks: BTreeMap<_, _> = served
                .iter()
                .enumerate()
                .map(|(n, worker)| {
                    let task = Task {
                        state: TaskState::Open,
                        worker: Some(worker.to_string()),
                        epoch: 1,
                    };
                    (n.to_string(), task)
                })
                .collect();
            let mut rounds = 0;
            loop {
                let steps = plan(&workers, &tasks);
                if steps.is_empty() {
                    break;
                }
                apply(&mut tasks, &steps);
                rounds += 1;
                prop_assert!(rounds < 10, "{:?}", tasks);
            }
            let mut shares: BTreeMap<_, u64> = BTreeMap::new();
            for task in tasks.values() {
                *shares.entry(task.worker.clone().unwrap()).or_default() += 1;
            }
            for (a, x) in &workers {
                for (b, y) in &workers {
                    let (x, y) = (u64::from(x.capacity), u64::from(y.capacity));
                    let have = |name| shares.get(name).copied().unwrap_or(0);
                    // Nobody has more than another would have with one more.
                    prop_assert!(!is_less((have(a) + 1, x), (have(b), y)), "{:?}", shares);
                }
            }
        }
    }

    #[test]
    fn nobody_gets_anything_while_there_is_nobody() {
        let task = Task {
            state: TaskState::Open,
            worker: Some("gone".into()),
            epoch: 1,
        };
        let mut tasks = BTreeMap::from([("a".to_owned(), task)]);
        let workers = BTreeMap::new();
        assert_eq!(plan(&workers, &tasks), [Step::Free("a".into())]);
        apply(&mut tasks, &[Step::Free("a".into())]);
        assert_eq!(plan(&workers, &tasks), []);
        let idle = BTreeMap::from([("w".to_owned(), WorkerInfo::new("w").capacity(0))]);
        assert_eq!(plan(&idle, &tasks), []);
    }
}
