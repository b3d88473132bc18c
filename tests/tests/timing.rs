#![allow(clippy::unwrap_used, missing_docs)]
use quorate_client::{Client, CreateMode};
use quorate_server::Ensemble;
use std::time::Instant;
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timing() {
    tracing_subscriber::fmt()
        .with_env_filter("quorate_server=debug")
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let t = Instant::now();
    let mut e = Ensemble::start(3).await.unwrap();
    eprintln!("start {:?}", t.elapsed());
    let t = Instant::now();
    let leader = e.settled().await.unwrap();
    eprintln!("settled {:?}", t.elapsed());
    let t = Instant::now();
    let c = Client::connect(&e.connect_string()).await.unwrap();
    eprintln!("connect {:?}", t.elapsed());
    let t = Instant::now();
    c.create("/a", &b""[..], CreateMode::Persistent)
        .await
        .unwrap();
    eprintln!("create {:?}", t.elapsed());
    let t = Instant::now();
    for _ in 0..100 {
        c.set_data("/a", &b"x"[..], None).await.unwrap();
    }
    eprintln!("100 sets {:?}", t.elapsed());
    let t = Instant::now();
    c.sync("/a").await.unwrap();
    eprintln!("sync {:?}", t.elapsed());
    let t = Instant::now();
    c.close().await.unwrap();
    eprintln!("close {:?}", t.elapsed());
    let f = e.ids().into_iter().find(|i| *i != leader).unwrap();
    let c = Client::connect(&e.client_addr(f).unwrap().to_string())
        .await
        .unwrap();
    c.set_data("/a", &b"x"[..], None).await.unwrap();
    let t = Instant::now();
    e.kill(leader).await;
    eprintln!("kill {:?}", t.elapsed());
    e.leader().await.unwrap();
    eprintln!("leader {:?}", t.elapsed());
    let r = c.set_data("/a", &b"x"[..], None).await;
    eprintln!("write {:?} {:?}", t.elapsed(), r.is_ok());
    let t = Instant::now();
    e.restart(leader).await.unwrap();
    e.settled().await.unwrap();
    eprintln!("restart {:?}", t.elapsed());
    let t = Instant::now();
    e.hand_over(None).await.unwrap();
    eprintln!("handover {:?}", t.elapsed());
    let r = c.set_data("/a", &b"x"[..], None).await;
    eprintln!("write {:?} {:?}", t.elapsed(), r.is_ok());
    let t = Instant::now();
    e.shutdown().await.unwrap();
    eprintln!("shutdown {:?}", t.elapsed());
}
