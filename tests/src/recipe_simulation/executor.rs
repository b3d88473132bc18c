//! What runs the tasks of the simulated processes: one at a time, in an order that comes from the
//! seed. A process can be paused, and it can be killed between two steps of its tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

/// The number of a process, never used twice.
pub type ProcessId = usize;

/// What a client does in the background.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type LocalTask = Pin<Box<dyn Future<Output = ()>>>;
type TaskId = u64;

/// Locks what only one thread uses.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has been started and what can go on, told from wherever that happens.
#[derive(Default)]
pub struct Inbox(Mutex<Told>);

#[derive(Default)]
struct Told {
    started: Vec<(ProcessId, Task)>,
    ready: BTreeSet<TaskId>,
    main: Option<Waker>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox")
    }
}

impl Inbox {
    /// Starts a task.
    pub fn start(&self, process: ProcessId, task: Task) {
        let mut told = lock(&self.0);
        told.started.push((process, task));
        told.wake();
    }

    /// Whom to wake when there is something to do.
    pub fn wakes(&self, main: &Waker) {
        lock(&self.0).main = Some(main.clone());
    }
}

impl Told {
    fn wake(&self) {
        if let Some(main) = &self.main {
            main.wake_by_ref();
        }
    }
}

struct TaskWaker {
    task: TaskId,
    inbox: Arc<Inbox>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut told = lock(&self.inbox.0);
        told.ready.insert(self.task);
        told.wake();
    }
}

/// All tasks of a run.
pub struct Executor {
    inbox: Arc<Inbox>,
    tasks: BTreeMap<TaskId, (ProcessId, LocalTask, Waker)>,
    next: TaskId,
    /// Processes that do not run at the moment.
    paused: BTreeSet<ProcessId>,
    dead: BTreeSet<ProcessId>,
    /// Ready tasks, by what their processes are.
    waiting: BTreeSet<TaskId>,
}

impl Executor {
    /// Runs what comes into `inbox`.
    pub fn new(inbox: Arc<Inbox>) -> Self {
        Executor {
            inbox,
            tasks: BTreeMap::new(),
            next: 0,
            paused: BTreeSet::new(),
            dead: BTreeSet::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// Takes one step of one task that can go on, if there is any.
    pub fn step(&mut self, rng: &mut fastrand::Rng) -> bool {
        self.take_in();
        let runs = |task: &&TaskId| {
            let process = self.tasks.get(*task).map(|(process, ..)| process);
            process.is_some_and(|process| !self.paused.contains(process))
        };
        let able: Vec<TaskId> = self.waiting.iter().filter(runs).copied().collect();
        if able.is_empty() {
            return false;
        }
        let task = able[rng.usize(..able.len())];
        self.waiting.remove(&task);
        if let Some((_, future, waker)) = self.tasks.get_mut(&task)
            && future
                .as_mut()
                .poll(&mut Context::from_waker(waker))
                .is_ready()
        {
            // What its end causes is told to the inbox, not to this.
            drop(self.tasks.remove(&task));
        }
        true
    }

    /// Starts a task of a process.
    pub fn start(&mut self, process: ProcessId, future: LocalTask) {
        let task = self.next;
        self.next += 1;
        let inbox = Arc::clone(&self.inbox);
        let waker = Waker::from(Arc::new(TaskWaker { task, inbox }));
        self.tasks.insert(task, (process, future, waker));
        self.waiting.insert(task);
    }

    fn take_in(&mut self) {
        let (started, ready) = {
            let mut told = lock(&self.inbox.0);
            (
                std::mem::take(&mut told.started),
                std::mem::take(&mut told.ready),
            )
        };
        self.waiting.extend(ready);
        for (process, future) in started {
            if self.dead.contains(&process) {
                continue;
            }
            self.start(process, future);
        }
        self.waiting.retain(|task| self.tasks.contains_key(task));
    }

    /// Lets a process do nothing, or go on.
    pub fn pause(&mut self, process: ProcessId, paused: bool) {
        match paused {
            true => self.paused.insert(process),
            false => self.paused.remove(&process),
        };
    }

    /// Was it ended?
    pub fn is_dead(&self, process: ProcessId) -> bool {
        self.dead.contains(&process)
    }

    /// Ends a process: its tasks are dropped as they are.
    pub fn kill(&mut self, process: ProcessId) {
        self.take_in();
        self.dead.insert(process);
        let tasks = self.tasks.iter();
        let of_process = tasks.filter(|(_, (owner, ..))| *owner == process);
        let ids: Vec<TaskId> = of_process.map(|(task, _)| *task).collect();
        for task in ids {
            drop(self.tasks.remove(&task));
        }
        self.take_in();
    }
}
