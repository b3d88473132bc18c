//! The recipes under one seed: the real recipes on the real client, in simulated processes, with a
//! simulated network and a small simulated ensemble ([`ensemble`]).
//!
//! One seed is one run of one recipe. Processes use the recipe and check what it promises; they are
//! paused and killed, their connections are cut before or after a request took effect, leaders
//! change, followers lag ([`faults`]). Then everything heals, and everybody has to get what they
//! ask for. Two runs of a seed are the same, line by line.

pub mod answers;
pub mod ensemble;
pub mod executor;
pub mod faults;
pub mod reads;
pub mod scenarios;
pub mod stage;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use quorate_proto::TxnEntry;
use quorate_proto::jute::Decode as _;
use tokio::time::{Instant, sleep_until};

use crate::simulation::checker::{Checked, Violation};
use crate::simulation::trace::Trace;
use ensemble::{Ensemble, Event, Millis, Outside};
use executor::{Executor, ProcessId, lock};
use faults::{Fault, Plan};
use scenarios::{Recipe, Scenario};
use stage::{Host, Stage, broken};

/// After everything has healed, so long is everybody still at work.
const QUIET: Millis = 2_000;
/// After that, everybody has to come to an end within this time.
const PATIENCE: Millis = 120_000;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// What went wrong, if anything did.
    pub violation: Option<Violation>,
    /// Transactions that were committed.
    pub transactions: usize,
    /// The last lines of the trace, if it was written.
    pub trace: Vec<String>,
    /// Stands for the whole trace.
    pub hash: u64,
}

/// Runs a seed of a recipe, with one of its guards bypassed if that is wanted.
pub fn run(recipe: &Recipe, bypass: Option<&'static str>, seed: u64, traced: bool) -> Outcome {
    fastrand::seed(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let scenario = (recipe.make)(bypass);
    let mut plan = Plan::draw(&mut rng, scenario.slots());
    if scenario.meets_readers() {
        plan = plan.with_readers(&mut rng, scenario.slots());
    }
    let mut ensemble = Ensemble::new(
        plan.servers,
        rng.fork(),
        plan.habits.clone(),
        Trace::new(traced),
    );
    ensemble.note(|| format!("{plan:?}"));
    let stage = Arc::new(Stage::new(ensemble, plan.session, rng.fork()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing but memory");
    let result = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(tokio::task::unconstrained(async {
            Run::new(Arc::clone(&stage), scenario, plan, rng)
                .play()
                .await
        }))
    }));
    let violation = match result {
        Ok(checked) => checked.err(),
        Err(panic) => Some(Violation {
            rule: "panic",
            what: crate::simulation::panic_text(&*panic),
        }),
    };
    let mut ensemble = lock(&stage.ensemble);
    let trace = std::mem::take(&mut ensemble.trace);
    Outcome {
        violation,
        transactions: ensemble.transactions(),
        hash: trace.hash(),
        trace: trace.into_lines(),
    }
}

/// A run under way.
struct Run {
    stage: Arc<Stage>,
    scenario: Rc<dyn Scenario>,
    executor: Executor,
    plan: Plan,
    rng: fastrand::Rng,
    began: Instant,
    /// The process at each place.
    places: Vec<ProcessId>,
    next_process: ProcessId,
    healed: bool,
}

impl Run {
    fn new(stage: Arc<Stage>, scenario: Rc<dyn Scenario>, plan: Plan, rng: fastrand::Rng) -> Self {
        let executor = Executor::new(Arc::clone(&stage.inbox));
        let mut run = Run {
            places: vec![usize::MAX; scenario.slots()],
            stage,
            scenario,
            executor,
            plan,
            rng,
            began: Instant::now(),
            next_process: 0,
            healed: false,
        };
        for slot in 0..run.places.len() {
            run.start(slot);
        }
        let mut ensemble = lock(&run.stage.ensemble);
        for (fault, (begins, ..)) in run.plan.faults.iter().enumerate() {
            ensemble.after(*begins, Event::Outside(Outside::Fault(fault)));
        }
        ensemble.after(run.plan.trouble, Event::Outside(Outside::Heal));
        drop(ensemble);
        run
    }

    /// Starts the process of a place.
    fn start(&mut self, slot: usize) {
        let process = self.next_process;
        self.next_process += 1;
        self.places[slot] = process;
        let stage = Arc::clone(&self.stage);
        let host = Host {
            stage: Arc::clone(&stage),
            process,
            slot,
        };
        let main = Rc::clone(&self.scenario).main(host);
        let run = async move {
            let checked = main.await;
            let mut ensemble = lock(&stage.ensemble);
            ensemble.note(|| format!("process {process} at {slot} is through"));
            ensemble.through.insert(process);
            drop(ensemble);
            stage.check(checked);
        };
        self.executor.start(process, Box::pin(run));
    }

    /// Runs to the end.
    async fn play(&mut self) -> Checked {
        let mut timer = pin!(sleep_until(self.began));
        std::future::poll_fn(|cx| {
            self.stage.inbox.wakes(cx.waker());
            loop {
                match self.go_on() {
                    Ok(Some(next)) => {
                        timer
                            .as_mut()
                            .reset(self.began + Duration::from_millis(next));
                        if timer.as_mut().poll(cx).is_pending() {
                            return Poll::Pending;
                        }
                    }
                    Ok(None) => return Poll::Ready(self.scenario.finished(&self.stage)),
                    Err(violation) => return Poll::Ready(Err(violation)),
                }
            }
        })
        .await
    }

    /// Does everything that can be done now; answers when there is more to do, if there is.
    fn go_on(&mut self) -> Checked<Option<Millis>> {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(Millis::MAX);
        lock(&self.stage.ensemble).now = now;
        loop {
            // Whether what arrives or what can go on comes first is left to chance.
            let tasks_first = self.rng.bool();
            let moved = (tasks_first && self.executor.step(&mut self.rng))
                || self.happen()
                || self.executor.step(&mut self.rng);
            let violation = lock(&self.stage.violation).take();
            if let Some(violation) = violation {
                return Err(violation);
            }
            if !moved {
                break;
            }
        }
        self.is_through(now)
    }

    fn is_through(&mut self, now: Millis) -> Checked<Option<Millis>> {
        let over = self.plan.trouble + QUIET;
        if now >= over {
            self.stage.over.store(true, Relaxed);
        }
        let ensemble = lock(&self.stage.ensemble);
        let at_work = self.places.iter().enumerate();
        let mut at_work = at_work.filter(|(_, process)| !ensemble.through.contains(process));
        let first = at_work.next();
        match first {
            None if self.healed => Ok(None),
            Some((slot, _)) if now > over + PATIENCE => broken(
                "progress",
                format!("everything healed long ago, and the process at {slot} still waits"),
            ),
            _ => Ok(Some(ensemble.next().unwrap_or(now + 1).min(
                match now < over {
                    true => over,
                    false => now + 100,
                },
            ))),
        }
    }

    /// Lets the next thing happen that is due.
    fn happen(&mut self) -> bool {
        let (happened, fresh) = {
            let mut ensemble = lock(&self.stage.ensemble);
            let happened = ensemble.step();
            (happened, std::mem::take(&mut ensemble.fresh))
        };
        for bytes in fresh {
            if let Ok(entry) = TxnEntry::from_slice(&bytes) {
                self.stage.check(self.scenario.committed(&entry));
            }
        }
        match happened {
            None => return false,
            Some(Some(Outside::Fault(fault))) => self.strike(fault),
            Some(Some(Outside::FaultEnds(fault))) => self.relent(fault),
            Some(Some(Outside::Heal)) => self.heal(),
            Some(None) => {}
        }
        true
    }

    fn strike(&mut self, at: usize) {
        let (_, lasts, fault) = self.plan.faults[at].clone();
        let mut ensemble = lock(&self.stage.ensemble);
        ensemble.note(|| format!("for {lasts} ms: {fault:?}"));
        let able = match fault {
            Fault::Crash(server) | Fault::Isolate(server, _) | Fault::Refuse(server) => {
                ensemble.spare(server)
            }
            _ => true,
        };
        if !able {
            return;
        }
        ensemble.after(lasts, Event::Outside(Outside::FaultEnds(at)));
        match fault {
            Fault::Pause(slot) => self.executor.pause(self.places[slot], true),
            Fault::Kill(slot) => {
                drop(ensemble);
                self.executor.kill(self.places[slot]);
            }
            Fault::Block(slot, server, up, down) => {
                ensemble.block(self.places[slot], server, up, down);
            }
            Fault::Cut(slot) => ensemble.cut(self.places[slot]),
            Fault::Evict(slot) if self.scenario.bears_operators() => {
                self.executor.pause(self.places[slot], true);
                ensemble.evict(self.places[slot]);
            }
            Fault::Evict(_) => {}
            Fault::EndSession(slot) => ensemble.expire_session(self.places[slot]),
            Fault::Depose if ensemble.has_leader() => ensemble.depose(),
            Fault::Depose => {}
            Fault::Crash(server) => ensemble.crash(server),
            Fault::Isolate(server, lingers) => ensemble.isolate(server, lingers),
            Fault::Refuse(server) => ensemble.refuse(server, true),
        }
    }

    fn relent(&mut self, at: usize) {
        match self.plan.faults[at].2 {
            Fault::Pause(slot) | Fault::Evict(slot) => {
                self.executor.pause(self.places[slot], false);
            }
            Fault::Kill(slot) => self.revive(slot),
            Fault::Crash(server) | Fault::Isolate(server, _) | Fault::Refuse(server) => {
                lock(&self.stage.ensemble).mend(server);
            }
            _ => {}
        }
    }

    /// Starts the process of a place again if it is dead.
    fn revive(&mut self, slot: usize) {
        if self.executor.is_dead(self.places[slot]) {
            self.start(slot);
        }
    }

    fn heal(&mut self) {
        lock(&self.stage.ensemble).heal();
        for slot in 0..self.places.len() {
            self.executor.pause(self.places[slot], false);
            self.revive(slot);
        }
        self.healed = true;
    }
}
