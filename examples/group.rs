//! Members who join a group, say how busy they are, leave and die.
//!
//!     cargo run --release --example group
//!
//! One who watches tells of every change. In the end it knows of nobody, and has seen everybody.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use futures::StreamExt;
use quorate_examples::{Failure, Servers, Story, Where};
use quorate_recipes::{Group, GroupEvent, Json};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Members who join a group, say how busy they are, leave and die.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    place: Where,
    /// How many join
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..))]
    members: u16,
}

const PATH: &str = "/quorate/demo/group";

/// What a member says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Member {
    address: String,
    load: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::default();
    let outcome = run(Args::parse(), &story).await;
    story.end(outcome)
}

async fn run(args: Args, story: &Story) -> Result<Result<String, String>, Failure> {
    let servers = Servers::new(args.place, Duration::from_secs(2), story).await?;
    let watcher = servers.client().await?;
    let mut events = Group::<Json<Member>>::new(&watcher, PATH).events();
    let mut members: JoinSet<Result<(), Failure>> = JoinSet::new();
    for n in 0..args.members {
        let (client, story) = (servers.client().await?, story.clone());
        members.spawn(async move {
            sleep(Duration::from_millis(200) * n.into()).await;
            let group = Group::<Json<Member>>::new(&client, PATH);
            let mut me = Json(Member {
                address: format!("10.0.0.{n}:8080"),
                load: 10,
            });
            let membership = group.join(&format!("member {n}"), &me).await?;
            sleep(Duration::from_millis(500)).await;
            me.load = 10 * u32::from(n + 2);
            membership.set(&me)?;
            sleep(Duration::from_millis(1500)).await;
            if n == 0 {
                story.tell("member 0 is killed");
                client.detach().await?;
            } else {
                membership.leave().await?;
            }
            Ok(())
        });
    }
    let (mut seen, mut updated, mut here) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    while seen.len() < args.members.into() || !here.is_empty() {
        match events.next().await.ok_or("the stream has ended")?? {
            GroupEvent::Joined { id, payload } => {
                story.tell(format_args!("{id} has joined, at {}", payload.address));
                seen.insert(id.clone());
                here.insert(id);
            }
            GroupEvent::Updated { id, payload } => {
                story.tell(format_args!("{id} has a load of {}", payload.load));
                updated.insert(id);
            }
            GroupEvent::Left { id } => {
                here.remove(&id);
                story.tell(format_args!(
                    "{id} is gone; there are {} members",
                    here.len()
                ));
            }
            _ => story.tell("watching the group"),
        }
    }
    while let Some(ended) = members.join_next().await {
        ended??;
    }
    let left = Group::<Json<Member>>::new(&watcher, PATH).ids().await?;
    Ok(match (updated == seen, left.is_empty()) {
        (true, true) => Ok(format!(
            "{} came, said how busy they are, and went",
            seen.len()
        )),
        _ => Err(format!(
            "saw {seen:?} come and {updated:?} change; left are {left:?}"
        )),
    })
}
