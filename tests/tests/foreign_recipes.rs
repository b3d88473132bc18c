//! Our recipes and those of Curator and kazoo on one path, on Apache ZooKeeper's server as well as on
//! ours. The lock is in `foreign_lock`.
#![cfg(feature = "peers")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::process::Command;
use std::time::Duration;

use quorate_recipes::{
    Barrier, Client, Counter, DoubleBarrier, Election, Encoding, Group, Instance, Layout, Lease,
    Lock, NameService, PriorityQueue, Queue, RwLock, Semaphore,
};
use quorate_tests::foreign::{self, Curator, Foreigner, soon};
use tokio::task::JoinHandle;

const PATH: &str = "/shared";

#[tokio::test(flavor = "multi_thread")]
async fn kazoo() {
    share_recipes(Layout::Kazoo, || foreign::python("kazoo_recipes.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curator() {
    let program = Curator::compile("CuratorRecipes");
    share_recipes(Layout::Curator, || program.command()).await;
}

async fn share_recipes(layout: Layout, program: impl Fn() -> Command) {
    foreign::on_both_servers(program, PATH, async |client, foreigner| {
        let mut test = Test {
            client,
            foreigner,
            layout,
        };
        test.readers_and_writers().await;
        test.permits().await;
        test.leaders().await;
        test.barrier().await;
        test.double_barrier().await;
        test.members().await;
        test.counters().await;
        test.queues().await;
        match layout {
            Layout::Kazoo => test.leases().await,
            _ => {
                test.revocation().await;
                test.services().await;
            }
        }
    })
    .await;
}

struct Test {
    client: Client,
    foreigner: Foreigner,
    layout: Layout,
}

fn at(recipe: &str) -> String {
    format!("{PATH}/{recipe}")
}

fn beside<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(future)
}

impl Test {
    async fn ask(&mut self, line: &str) -> String {
        self.foreigner.ask(line).await
    }

    async fn children(&self, path: &str, number: usize) {
        foreign::children(&self.client, path, number).await;
    }

    async fn readers_and_writers(&mut self) {
        let path = at("rwlock");
        let lock = RwLock::new(&self.client, &path).layout(self.layout);
        // Ours first, in every combination.
        let reading = lock.read().await.unwrap();
        assert_eq!(self.ask("tryread 1").await, "held 1");
        assert_eq!(self.ask("trywrite 2").await, "busy 2");
        assert_eq!(self.ask("unread 1").await, "released 1");
        reading.release().await.unwrap();
        let writing = lock.write().await.unwrap();
        assert_eq!(self.ask("tryread 1").await, "busy 1");
        assert_eq!(self.ask("trywrite 2").await, "busy 2");
        writing.release().await.unwrap();
        // Theirs first.
        assert_eq!(self.ask("read 1").await, "held 1");
        lock.try_read()
            .await
            .unwrap()
            .unwrap()
            .release()
            .await
            .unwrap();
        assert!(lock.try_write().await.unwrap().is_none());
        assert_eq!(self.ask("unread 1").await, "released 1");
        assert_eq!(self.ask("write 1").await, "held 1");
        assert!(lock.try_read().await.unwrap().is_none());
        assert!(lock.try_write().await.unwrap().is_none());
        assert_eq!(self.ask("unwrite 1").await, "released 1");

        // A writer of theirs waits behind a writer of ours that becomes a reader.
        let writing = lock.write().await.unwrap();
        self.foreigner.tell("write 2").await;
        self.children(&path, 2).await;
        let reading = writing.downgrade().await.unwrap();
        assert!(lock.try_read().await.unwrap().is_none());
        assert_eq!(self.ask("tryread 1").await, "busy 1");
        reading.release().await.unwrap();
        assert_eq!(self.foreigner.told().await, "held 2");
        // And a reader of ours behind that one.
        let waiting = beside({
            let lock = lock.clone();
            async move { lock.read().await.unwrap() }
        });
        self.children(&path, 2).await;
        assert!(!waiting.is_finished());
        assert_eq!(self.ask("unwrite 2").await, "released 2");
        soon(waiting).await.unwrap().release().await.unwrap();
    }

    async fn permits(&mut self) {
        let semaphore = Semaphore::new(&self.client, at("semaphore"), 2).layout(self.layout);
        let ours = semaphore.acquire().await.unwrap();
        assert_eq!(self.ask("permit 1").await, "held 1");
        assert!(semaphore.try_acquire().await.unwrap().is_none());
        assert_eq!(self.ask("trypermit 2").await, "busy 2");
        assert_eq!(semaphore.holders().await.unwrap().len(), 2);
        // Ours waits for one of theirs, and the other way round.
        let waiting = beside({
            let semaphore = semaphore.clone();
            async move { semaphore.acquire().await.unwrap() }
        });
        assert_eq!(self.ask("unpermit 1").await, "released 1");
        let second = soon(waiting).await.unwrap();
        self.foreigner.tell("permit 1").await;
        ours.release().await.unwrap();
        assert_eq!(self.foreigner.told().await, "held 1");
        assert_eq!(self.ask("unpermit 1").await, "released 1");
        second.release().await.unwrap();
        let both = semaphore.acquire_many(2).await.unwrap();
        assert_eq!(self.ask("trypermit 2").await, "busy 2");
        both.release().await.unwrap();
    }

    async fn leaders(&mut self) {
        let path = at("election");
        let election = Election::new(&self.client, &path).layout(self.layout);
        let election = election.data("ours");
        let ours = election.campaign().await.unwrap();
        self.foreigner.tell("lead 1").await;
        self.children(&path, 2).await;
        assert_eq!(self.ask("leader 2").await, "leader ours 2");
        let candidates = election.candidates().await.unwrap();
        assert_eq!(candidates[0].data, "ours");
        assert_eq!(candidates[1].data, "foreigner-1");
        ours.resign().await.unwrap();
        assert_eq!(self.foreigner.told().await, "leading 1");
        let mut candidacy = election.stand();
        self.children(&path, 2).await;
        assert!(!candidacy.is_leader());
        assert_eq!(
            election.leader().await.unwrap().unwrap().data,
            "foreigner-1"
        );
        assert_eq!(self.ask("resign 1").await, "resigned 1");
        drop(soon(candidacy.leading()).await.unwrap());
    }

    async fn barrier(&mut self) {
        let barrier = Barrier::new(&self.client, at("barrier"));
        barrier.close().await.unwrap();
        self.foreigner.tell("wait 1").await;
        barrier.open().await.unwrap();
        assert_eq!(self.foreigner.told().await, "passed 1");
        assert_eq!(self.ask("close 1").await, "closed 1");
        let waiting = beside({
            let barrier = barrier.clone();
            async move { barrier.wait().await }
        });
        assert!(barrier.is_closed().await.unwrap());
        assert_eq!(self.ask("open 1").await, "opened 1");
        soon(waiting).await.unwrap().unwrap();
    }

    /// Whoever comes or goes first, for several rounds.
    async fn double_barrier(&mut self) {
        let path = at("double_barrier");
        let barrier = DoubleBarrier::new(&self.client, &path, 2).layout(self.layout);
        for round in 0..4 {
            let inside = if round % 2 == 0 {
                self.foreigner.tell("enter 1").await;
                self.children(&path, 1).await;
                soon(barrier.enter()).await.unwrap()
            } else {
                let entering = beside({
                    let barrier = barrier.clone();
                    async move { barrier.enter().await.unwrap() }
                });
                self.children(&path, 1).await;
                self.foreigner.tell("enter 1").await;
                soon(entering).await.unwrap()
            };
            assert_eq!(self.foreigner.told().await, "inside 1");
            let leaving = match round / 2 {
                0 => {
                    self.foreigner.tell("leave 1").await;
                    beside(inside.leave())
                }
                _ => {
                    let leaving = beside(inside.leave());
                    self.foreigner.tell("leave 1").await;
                    leaving
                }
            };
            assert_eq!(self.foreigner.told().await, "outside 1");
            soon(leaving).await.unwrap().unwrap();
            self.children(&path, 0).await;
        }
    }

    async fn members(&mut self) {
        let group = Group::<String>::new(&self.client, at("group")).layout(self.layout);
        let ours = group.join("ours", &"here".to_owned()).await.unwrap();
        assert_eq!(self.ask("join 1").await, "joined 1");
        let mut members = group.watch();
        soon(async {
            use futures::StreamExt;
            while members.next().await.unwrap().unwrap().len() != 2 {}
        })
        .await;
        let payloads: Vec<_> = group.members().await.unwrap().into_values().collect();
        assert!(payloads.contains(&"theirs".to_owned()), "{payloads:?}");
        let expected = match self.layout {
            Layout::Kazoo => "members here,theirs 1",
            _ => "members foreigner-1=theirs,ours=here 1",
        };
        soon(async { while self.foreigner.ask("members 1").await != expected {} }).await;
        assert_eq!(self.ask("part 1").await, "left 1");
        ours.leave().await.unwrap();
        if self.layout == Layout::Kazoo {
            let shallow = Group::<String>::new(&self.client, at("shallow"));
            let shallow = shallow.layout(self.layout).shallow();
            let ours = shallow.join("ours", &String::new()).await.unwrap();
            assert_eq!(self.ask("shallowjoin 1").await, "joined 1");
            assert_eq!(
                self.ask("shallowmembers 1").await,
                "members foreigner-1,ours 1"
            );
            assert_eq!(shallow.ids().await.unwrap().len(), 2);
            ours.leave().await.unwrap();
        }
    }

    async fn counters(&mut self) {
        let counter = Counter::new(&self.client, at("counter"));
        let counter = match self.layout {
            Layout::Kazoo => counter.encoding(Encoding::Text),
            _ => counter,
        };
        assert_eq!(counter.add(-3).await.unwrap(), -3);
        assert_eq!(self.ask("add 5").await, "sum 2 5");
        assert_eq!(counter.add(1).await.unwrap(), 3);
        // Both libraries keep this one in four bytes.
        let count = Counter::new(&self.client, at("count")).encoding(Encoding::Int);
        count.set(7).await.unwrap();
        assert_eq!(self.ask("count 1").await, "count 7 1");
        assert_eq!(count.get().await.unwrap(), 8);
    }

    async fn queues(&mut self) {
        let queue = Queue::<String>::new(&self.client, at("queue")).layout(self.layout);
        assert_eq!(self.ask("put 1").await, "put 1");
        queue.put(&"ours".to_owned()).await.unwrap();
        let first = soon(queue.take()).await.unwrap();
        assert_eq!(first.payload(), "theirs-1");
        // They respect our claim, and take what we have put.
        self.foreigner.tell("take 1").await;
        let told = self.foreigner.told().await;
        let told = match told == "taking 1" {
            true => self.foreigner.told().await,
            false => told,
        };
        assert_eq!(told, "took ours");
        first.done().await.unwrap();
        if self.layout == Layout::Curator {
            assert_eq!(self.ask("untake 1").await, "stopped 1");
        }
        assert!(queue.is_empty().await.unwrap());

        let priority = PriorityQueue::<String>::new(&self.client, at("priority"));
        let priority = priority.layout(self.layout);
        priority.put(&"ours-5".to_owned(), 5).await.unwrap();
        assert_eq!(self.ask("putpriority 3").await, "put 3");
        assert_eq!(self.ask("putpriority 7").await, "put 7");
        for expected in ["theirs-3", "ours-5", "theirs-7"] {
            assert_eq!(soon(priority.pop()).await.unwrap(), expected);
        }
    }

    async fn leases(&mut self) {
        let hour = Duration::from_secs(3600);
        let lease = Lease::new(&self.client, at("lease"), "ours");
        assert!(lease.obtain(hour).await.unwrap());
        assert_eq!(self.ask("lease 1").await, "busy 1");
        assert!(lease.end().await.unwrap());
        assert_eq!(self.ask("lease 1").await, "held 1");
        assert!(!lease.obtain(hour).await.unwrap());
        assert_eq!(lease.term().await.unwrap().unwrap().holder, "theirs");
    }

    async fn revocation(&mut self) {
        let lock = Lock::new(&self.client, at("lock"));
        let guard = lock.acquire().await.unwrap();
        assert_eq!(self.ask("revoke 1").await, "asked 1");
        soon(guard.revoked()).await;
        guard.release().await.unwrap();
        assert_eq!(self.ask("revocable 2").await, "held 2");
        assert!(lock.revoke().await.unwrap());
        assert_eq!(self.foreigner.told().await, "revoked 2");
        assert_eq!(self.ask("unlock 2").await, "released 2");
    }
    async fn services(&mut self) {
        let names = NameService::new(&self.client, at("services"));
        let ours = Instance::new("mail")
            .id("ours")
            .address("10.0.0.7")
            .port(2525);
        let ours = names
            .register(&ours.payload("here".to_owned()))
            .await
            .unwrap();
        assert_eq!(
            self.ask("resolve 1").await,
            "found ours@10.0.0.7:2525=here 1"
        );
        assert_eq!(self.ask("register 1").await, "registered 1");
        let found = names.resolve::<String>("mail").await.unwrap();
        let theirs = found.iter().find(|one| one.id == "foreigner-1").unwrap();
        assert_eq!(theirs.address.as_deref(), Some("10.0.0.9"));
        assert_eq!(theirs.port, Some(25));
        assert_eq!(theirs.payload.as_deref(), Some("theirs"));
        ours.close().await.unwrap();
        assert_eq!(
            self.ask("resolve 1").await,
            "found foreigner-1@10.0.0.9:25=theirs 1"
        );
        assert_eq!(self.ask("unregister 1").await, "unregistered 1");
        assert!(names.resolve::<String>("mail").await.unwrap().is_empty());
    }
}
