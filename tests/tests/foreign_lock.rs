//! Our lock and those of Curator and kazoo on one path: they exclude each other and share one queue,
//! on Apache ZooKeeper's server as well as on ours.
#![cfg(feature = "peers")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a step that fails is a test that fails, and says where"
)]

use std::process::Command;

use quorate_recipes::{Client, Error, Guard, Layout, Lock};
use quorate_tests::foreign::{self, Curator, Foreigner, soon};
use tokio::task::JoinHandle;

const PATH: &str = "/locks/shared";

#[tokio::test(flavor = "multi_thread")]
async fn kazoo() {
    shares_the_lock(Layout::Kazoo, || foreign::python("kazoo_lock.py")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curator() {
    let program = Curator::compile("CuratorLock");
    shares_the_lock(Layout::Curator, || program.command()).await;
}

async fn shares_the_lock(layout: Layout, program: impl Fn() -> Command) {
    foreign::on_both_servers(program, PATH, async |client, foreigner| {
        let mut test = Test {
            client,
            foreigner,
            layout,
        };
        test.each_waits_for_the_other().await;
        test.one_queue_in_the_order_of_arrival().await;
        test.each_lists_the_other().await;
        test.the_other_layout_is_refused().await;
        test.a_killed_foreigner_lets_go().await;
    })
    .await;
}

struct Test {
    client: Client,
    foreigner: Foreigner,
    layout: Layout,
}

impl Test {
    fn lock(&self) -> Lock {
        Lock::new(&self.client, PATH).layout(self.layout)
    }

    fn acquiring(&self) -> JoinHandle<Result<Guard, Error>> {
        let lock = self.lock();
        tokio::spawn(async move { lock.acquire().await })
    }

    /// Awaits that so many contend.
    async fn contend(&self, number: usize) {
        foreign::children(&self.client, PATH, number).await;
    }

    async fn each_waits_for_the_other(&mut self) {
        // Ours first.
        let guard = self.lock().acquire().await.unwrap();
        assert_eq!(self.foreigner.ask("try 1").await, "busy 1");
        self.foreigner.tell("acquire 1").await;
        self.contend(2).await;
        guard.release().await.unwrap();
        assert_eq!(self.foreigner.told().await, "held 1");
        // Theirs first.
        assert!(self.lock().try_acquire().await.unwrap().is_none());
        let waiting = self.acquiring();
        self.contend(2).await;
        assert!(!waiting.is_finished());
        assert_eq!(self.foreigner.ask("release 1").await, "released 1");
        let guard = soon(waiting).await.unwrap().unwrap();
        guard.release().await.unwrap();
    }

    async fn one_queue_in_the_order_of_arrival(&mut self) {
        let mut guard = self.lock().acquire().await.unwrap();
        let mut ours = Vec::new();
        for n in 0..3 {
            self.foreigner.tell(&format!("acquire {n}")).await;
            self.contend(2 * n + 2).await;
            ours.push(self.acquiring());
            self.contend(2 * n + 3).await;
        }
        for (n, waiting) in ours.into_iter().enumerate() {
            let token = guard.fencing_token();
            guard.release().await.unwrap();
            assert_eq!(self.foreigner.told().await, format!("held {n}"));
            assert!(!waiting.is_finished());
            let released = self.foreigner.ask(&format!("release {n}")).await;
            assert_eq!(released, format!("released {n}"));
            guard = soon(waiting).await.unwrap().unwrap();
            assert!(guard.fencing_token() > token);
        }
        guard.release().await.unwrap();
    }

    async fn each_lists_the_other(&mut self) {
        let guard = self.lock().data("ours").acquire().await.unwrap();
        self.foreigner.tell("acquire 1").await;
        self.contend(2).await;
        let listed = self.lock().contenders().await.unwrap();
        assert_eq!(listed[0].node, guard.node());
        assert_eq!(listed[0].data, "ours");
        let theirs = self.foreigner.ask("contenders 0").await;
        match self.layout {
            Layout::Kazoo => {
                assert_eq!(listed[1].data, "kazoo-1");
                assert_eq!(theirs, "contenders ours kazoo-1");
            }
            _ => assert_eq!(
                theirs,
                format!("contenders {} {}", listed[0].node, listed[1].node)
            ),
        }
        guard.release().await.unwrap();
        assert_eq!(self.foreigner.told().await, "held 1");
        assert_eq!(self.foreigner.ask("release 1").await, "released 1");
    }

    /// Neither library sees znodes of the other's names, so that both could hold the lock.
    async fn the_other_layout_is_refused(&mut self) {
        assert_eq!(self.foreigner.ask("try 1").await, "held 1");
        let other = match self.layout {
            Layout::Kazoo => Layout::Curator,
            _ => Layout::Kazoo,
        };
        let refused = self.lock().layout(other).acquire().await.unwrap_err();
        assert!(matches!(refused, Error::ForeignChild { .. }), "{refused}");
        assert_eq!(self.foreigner.ask("release 1").await, "released 1");
    }

    async fn a_killed_foreigner_lets_go(&mut self) {
        assert_eq!(self.foreigner.ask("try 1").await, "held 1");
        let waiting = self.acquiring();
        self.contend(2).await;
        self.foreigner.kill().await;
        soon(waiting)
            .await
            .unwrap()
            .unwrap()
            .release()
            .await
            .unwrap();
    }
}
