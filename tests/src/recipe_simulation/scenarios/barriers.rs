//! Barriers: nobody passes early.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use quorate_proto::{Txn, TxnEntry};
use quorate_recipes::{Barrier, Client, CreateMode, DoubleBarrier, Error, Layout};
use tokio::select;

use super::super::stage::{Host, broken};
use super::{Bypass, Recipe, Round, Scenario, parts, rounds};
use crate::simulation::checker::Checked;

pub(super) const BARRIER: Recipe = Recipe {
    name: "barrier",
    bypasses: &["does-not-wait", "looks-without-sync"],
    make: |bypass| {
        let gate = RefCell::default();
        Rc::new(Barriers { bypass, gate })
    },
};
pub(super) const DOUBLE_BARRIER: Recipe = Recipe {
    name: "double-barrier",
    bypasses: &["enters-at-once", "leaves-at-once", "looks-once"],
    make: |bypass| {
        Rc::new(Rooms {
            bypass,
            layout: [Layout::Curator, Layout::Kazoo][fastrand::usize(..2)],
            room: RefCell::default(),
            last: RefCell::default(),
        })
    },
};

const PATH: &str = "/barrier";
const READY: &str = "/barrier/ready";
/// Members that open the double barrier.
const MEMBERS: usize = 3;

struct Barriers {
    bypass: Bypass,
    gate: RefCell<Gate>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Gate {
    closed: bool,
    /// How often it was opened.
    opened: u32,
}

impl Scenario for Barriers {
    /// Operators may open a barrier.
    fn bears_operators(&self) -> bool {
        false
    }

    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move {
            rounds(&host, 200, async |client| match host.slot {
                0 => self.keep(&host, client).await,
                _ => self.pass(&host, client).await,
            })
            .await
        }
        .boxed_local()
    }

    fn committed(&self, entry: &TxnEntry<'_>) -> Checked {
        let mut gate = self.gate.borrow_mut();
        for part in parts(entry) {
            match part {
                Txn::Create(create) | Txn::Create2(create) if create.path == PATH => {
                    gate.closed = true;
                }
                Txn::Delete(delete) if delete.path == PATH => {
                    gate.closed = false;
                    gate.opened += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Barriers {
    async fn keep(&self, host: &Host, client: &Client) -> Round {
        let barrier = Barrier::new(client, PATH);
        barrier.close().await?;
        host.work(1_000).await;
        Ok(barrier.open().await?)
    }

    async fn pass(&self, host: &Host, client: &Client) -> Round {
        let before = *self.gate.borrow();
        match self.bypass {
            Some("does-not-wait") => {}
            Some(_) if client.exists(PATH).await.ok().flatten().is_none() => {}
            _ => Barrier::new(client, PATH).wait().await?,
        }
        let now = *self.gate.borrow();
        if before.closed && now.closed && before.opened == now.opened {
            return Ok(broken(
                "early",
                format!("{host:?} passed a closed barrier"),
            )?);
        }
        Ok(())
    }
}

struct Rooms {
    bypass: Bypass,
    layout: Layout,
    room: RefCell<Room>,
    last: RefCell<Last>,
}

/// How far everybody is when all is well, by places.
#[derive(Debug, Default)]
struct Last {
    /// Begun anew so often.
    attempt: u32,
    ready: BTreeSet<usize>,
    through: BTreeSet<usize>,
}

/// What is committed of a double barrier.
#[derive(Debug, Default)]
struct Room {
    members: BTreeSet<String>,
    /// The most members that there were at once since it was closed.
    most: usize,
    /// The transaction that closed it last, if it is closed.
    open: bool,
    closed_by: i64,
    /// Those who know that they are inside.
    inside: BTreeSet<String>,
}

impl Scenario for Rooms {
    fn main(self: Rc<Self>, host: Host) -> LocalBoxFuture<'static, Checked> {
        async move {
            rounds(&host, 200, async |client| match host.is_over() {
                true => self.last_round(&host, client).await,
                false => self.round(&host, client).await,
            })
            .await
        }
        .boxed_local()
    }

    fn committed(&self, entry: &TxnEntry<'_>) -> Checked {
        let mut room = self.room.borrow_mut();
        for part in parts(entry) {
            match part {
                Txn::Create(create) | Txn::Create2(create) => room.add(create.path)?,
                Txn::Delete(delete) => room.remove(delete.path, entry.header.zxid),
                Txn::CloseSession(Some(paths)) => {
                    let zxid = entry.header.zxid;
                    paths.iter().for_each(|path| room.remove(path, zxid));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Room {
    fn add(&mut self, path: &str) -> Checked {
        if path == READY {
            self.open = true;
            if self.most < MEMBERS {
                let what = format!("the room opens, and had {} members at most", self.most);
                return broken("early", what);
            }
        } else if path.starts_with("/barrier/") {
            self.members.insert(path.to_owned());
            self.most = self.most.max(self.members.len());
        }
        Ok(())
    }

    fn remove(&mut self, path: &str, zxid: i64) {
        if path == READY {
            (self.open, self.closed_by) = (false, zxid);
            self.most = self.members.len();
        } else {
            self.members.remove(path);
            self.inside.remove(path);
        }
    }
}

impl Rooms {
    async fn round(&self, host: &Host, client: &Client) -> Round {
        if self.bypass == Some("enters-at-once") {
            host.prepare(client, PATH).await?;
            // With the number behind it, a name that a member could have.
            let name = format!("{PATH}/{:022x}", host.slot);
            let created = client.create(&name, "", CreateMode::EphemeralSequential);
            let created = created.await?;
            self.entered(host, &created.path, created.stat.czxid)?;
            return Ok(client.delete(&created.path, None).await?);
        }
        let barrier = DoubleBarrier::new(client, PATH, MEMBERS).layout(self.layout);
        let inside = match barrier.enter_timeout(Duration::from_secs(2)).await {
            Ok(inside) => inside,
            Err(Error::TimedOut { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let own = inside.node().to_owned();
        self.entered(host, &own, inside.fencing_token().get())?;
        host.work(500).await;
        let before = self.room.borrow().inside.clone();
        match self.bypass {
            Some("leaves-at-once") => drop(inside),
            _ => match inside.leave_timeout(Duration::from_secs(5)).await {
                Ok(()) => {}
                Err(Error::TimedOut { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            },
        }
        let room = self.room.borrow();
        let mut still = before.intersection(&room.inside);
        match still.find(|node| **node != own) {
            Some(node) => Ok(broken(
                "early",
                format!("{own} left, and {node} is inside"),
            )?),
            None => Ok(()),
        }
    }

    /// Everybody gets in and out. Should somebody fail, as with its session, all begin anew.
    async fn last_round(&self, host: &Host, client: &Client) -> Round {
        loop {
            let attempt = self.last.borrow().attempt;
            let anew = async {
                while self.last.borrow().attempt == attempt {
                    host.work(50).await;
                }
            };
            select! {
                biased;
                () = anew => {}
                outcome = self.together(host, client) => {
                    if outcome.is_err() {
                        let attempt = attempt + 1;
                        *self.last.borrow_mut() = Last { attempt, ..Last::default() };
                    }
                    return outcome;
                }
            }
        }
    }

    async fn together(&self, host: &Host, client: &Client) -> Round {
        let everybody = self.slots();
        self.last.borrow_mut().ready.insert(host.slot);
        while self.last.borrow().ready.len() < everybody {
            host.work(50).await;
        }
        if self.bypass == Some("looks-once") {
            host.prepare(client, PATH).await?;
            let name = format!("{PATH}/{:032x}", host.slot);
            client.create(&name, "", CreateMode::Ephemeral).await?;
            while client.get_children(PATH).await?.len() < everybody {
                host.work(30_000).await;
            }
            client.delete(&name, None).await?;
        } else {
            let barrier = DoubleBarrier::new(client, PATH, everybody).layout(self.layout);
            let inside = barrier.enter().await?;
            self.entered(host, inside.node(), inside.fencing_token().get())?;
            host.work(500).await;
            inside.leave().await?;
        }
        self.last.borrow_mut().through.insert(host.slot);
        while self.last.borrow().through.len() < everybody {
            host.work(50).await;
        }
        Ok(())
    }

    /// Somebody has got past the entrance.
    fn entered(&self, host: &Host, node: &str, born: i64) -> Checked {
        host.note(|| format!("is inside by {node}"));
        let mut room = self.room.borrow_mut();
        if !room.open && room.closed_by < born {
            return broken(
                "early",
                format!("{host:?} is inside, and the room is closed"),
            );
        }
        if room.members.contains(node) {
            room.inside.insert(node.to_owned());
        }
        Ok(())
    }
}
