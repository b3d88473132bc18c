//! Commands that walk a whole subtree. None of them is atomic.

use futures::stream::{self, StreamExt, TryStreamExt};
use quorate_client::{Client, Error};
use quorate_proto::path;
use serde_json::json;

use super::Command;
use crate::args::{Args, ArgsError, option, switch};
use crate::format;
use crate::shell::{Answer, Failure, Shell};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "deleteall",
        usage: "path [-b batch size]",
        about: "Deletes a znode and all of its descendants",
        flags: &[option(
            "-b",
            "size",
            "how many deletions are under way together, 1000 unless set",
        )],
        count: 1..=1,
        run: |shell, args| Box::pin(deleteall(shell, args)),
    },
    Command {
        name: "setAcl",
        usage: "[-s] [-v version] [-R] path acl",
        about: "Replaces who may do what with a znode, or with a whole subtree",
        flags: &[
            switch("-s", "prints the new stat"),
            option("-v", "version", "only if the ACL has this version"),
            switch("-R", "does so for all descendants too"),
        ],
        count: 2..=2,
        run: |shell, args| Box::pin(set_acl(shell, args)),
    },
];

/// Requests under way together while a subtree is walked.
const IN_FLIGHT: usize = 256;

/// The paths of a subtree, every parent in front of its children, which are in order.
pub(super) async fn collect(client: &Client, root: &str) -> Result<Vec<String>, Error> {
    // Only the root must exist: what goes while the walk is on is left out.
    let mut level = children(root, &client.get_children(root).await?);
    let mut paths = vec![root.to_owned()];
    while !level.is_empty() {
        let listings = level.iter().map(|path| async move {
            match client.get_children(path).await {
                Ok(names) => Ok(children(path, &names)),
                Err(Error::NoNode { .. }) => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        });
        let next: Vec<Vec<String>> = stream::iter(listings)
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        paths.append(&mut level);
        level = next.into_iter().flatten().collect();
    }
    // A slash sorts in front of everything a name can have, so that descendants follow at once.
    paths.sort_by(|a, b| a.split('/').cmp(b.split('/')));
    Ok(paths)
}

fn children(parent: &str, names: &[String]) -> Vec<String> {
    names.iter().map(|name| path::join(parent, name)).collect()
}

async fn deleteall(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    const BATCH: usize = 1000;
    let batch = args.number("-b", "a number above 0")?.unwrap_or(BATCH);
    if batch == 0 {
        return Err(ArgsError::InvalidValue {
            flag: "-b",
            value: batch.to_string(),
            expected: "a number above 0",
        }
        .into());
    }
    let root = args.word(0);
    let client = shell.client().await?;
    let mut paths = collect(&client, root).await?;
    // Requests are executed in the order of their calls, so that children go before parents.
    paths.reverse();
    let deletions = paths.iter().map(|path| client.delete(path, None));
    let results: Vec<Result<(), Error>> = stream::iter(deletions).buffered(batch).collect().await;
    let mut deleted = 0;
    let mut failures = Vec::new();
    for result in results {
        match result {
            Ok(()) => deleted += 1,
            // Somebody else was faster.
            Err(Error::NoNode { .. }) => {}
            Err(error) => failures.push(error),
        }
    }
    match failures.first() {
        None => Ok(Answer::quiet(json!({ "path": root, "deleted": deleted }))),
        Some(first) => Err(Failure::Refused(format!(
            "{} of {} znodes could not be deleted; the first: {first}",
            failures.len(),
            paths.len()
        ))),
    }
}

async fn set_acl(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let path = args.word(0);
    let acl = format::parse_acl(args.word(1)).map_err(ArgsError::Invalid)?;
    let version = args.version()?;
    let client = shell.client().await?;
    let paths = if args.has("-R") {
        collect(&client, path).await?
    } else {
        vec![path.to_owned()]
    };
    let changes = paths.iter().map(|path| client.set_acl(path, &acl, version));
    let stats: Vec<_> = stream::iter(changes)
        .buffered(IN_FLIGHT)
        .try_collect()
        .await?;
    let text: String = if args.has("-s") {
        stats.iter().map(format::stat).collect()
    } else {
        String::new()
    };
    let json = json!({
        "path": path,
        "changed": stats.len(),
        "stat": stats.first().map(format::stat_json),
    });
    Ok(Answer::new(text, json))
}
