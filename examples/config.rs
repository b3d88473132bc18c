//! A setting that many change and many follow.
//!
//!     cargo run --release --example config
//!
//! Editors change a setting at once, none of whose changes gets lost, while services follow it.
//! With `--connect` you can take part from the shell meanwhile:
//!
//!     quorate-cli set /quorate/demo/config '{"limit":1000,"edits":0}'

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use futures::StreamExt;
use quorate_examples::{Failure, Servers, Story, Where};
use quorate_recipes::{Config, Json};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A setting that many change and many follow.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    place: Where,
    /// How many change it
    #[arg(long, default_value_t = 3)]
    editors: u32,
    /// How often each does
    #[arg(long, default_value_t = 10)]
    edits: u32,
    /// How many follow it
    #[arg(long, default_value_t = 3)]
    services: u32,
}

const PATH: &str = "/quorate/demo/config";
const PATIENCE: Duration = Duration::from_secs(30);

/// The setting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Limits {
    limit: u32,
    edits: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    let story = Story::default();
    let outcome = run(Args::parse(), &story).await;
    story.end(outcome)
}

async fn run(args: Args, story: &Story) -> Result<Result<String, String>, Failure> {
    let servers = Servers::new(args.place, Duration::from_secs(3), story).await?;
    let client = servers.client().await?;
    let config = Config::<Json<Limits>>::new(&client, PATH);
    config
        .set(&Json(Limits {
            limit: 100,
            edits: 0,
        }))
        .await?;
    let total = args.editors * args.edits;
    let mut services: JoinSet<Result<u32, Failure>> = JoinSet::new();
    for n in 0..args.services {
        let (client, story) = (servers.client().await?, story.clone());
        services.spawn(async move { follow(&Config::new(&client, PATH), n, total, &story).await });
    }
    let mut editors: JoinSet<Result<(), Failure>> = JoinSet::new();
    for _ in 0..args.editors {
        let client = servers.client().await?;
        editors.spawn(async move {
            let config = Config::<Json<Limits>>::new(&client, PATH);
            for _ in 0..args.edits {
                config.update(edit).await?;
                sleep(Duration::from_millis(100)).await;
            }
            client.close().await?;
            Ok(())
        });
    }
    while let Some(ended) = editors.join_next().await {
        ended??;
    }
    let last = config.get().await?.map(|last| last.value.0);
    if last.as_ref().is_none_or(|last| last.edits != total) {
        // The services wait for the last edit, which does not come.
        return Ok(Err(format!("{total} edits have made {last:?}")));
    }
    let mut seen = Vec::new();
    while let Some(ended) = timeout(PATIENCE, services.join_next()).await? {
        seen.push(ended??);
    }
    config.delete().await?;
    Ok(Ok(format!(
        "{total} edits, none lost; the services have seen {seen:?} versions and all the last one"
    )))
}

/// Changes the setting from what it is.
fn edit(now: Option<Json<Limits>>) -> Option<Json<Limits>> {
    now.map(|Json(now)| {
        Json(Limits {
            limit: now.limit + 10,
            edits: now.edits + 1,
        })
    })
}

/// Follows the setting up to its last edit, and answers how many versions it has seen.
async fn follow(
    config: &Config<Json<Limits>>,
    service: u32,
    edits: u32,
    story: &Story,
) -> Result<u32, Failure> {
    let mut versions = config.watch();
    let (mut seen, mut newest) = (0, 0);
    while let Some(version) = versions.next().await {
        let Some(version) = version? else { continue };
        if version.zxid < newest {
            return Err("an old version came after a newer one".into());
        }
        newest = version.zxid;
        seen += 1;
        let Limits { limit, edits: now } = version.value.0;
        if service == 0 {
            story.tell(format_args!("service 0 goes on with a limit of {limit}"));
        }
        if now == edits {
            break;
        }
    }
    Ok(seen)
}
