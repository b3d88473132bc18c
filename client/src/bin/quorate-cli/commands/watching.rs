//! Commands about watches. Those that end with their first event are set by `get`, `ls`, `stat`
//! and `config`.

use quorate_proto::WatcherType;
use serde_json::json;

use super::Command;
use crate::args::{Args, ArgsError, option, switch};
use crate::shell::{Answer, Failure, Shell};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "addWatch",
        usage: "[-m mode] path",
        about: "Prints all that happens to a znode, and to its descendants, from now on",
        flags: &[option(
            "-m",
            "mode",
            "PERSISTENT for the znode and the list of its children alone; \
             PERSISTENT_RECURSIVE, the default, for the whole subtree",
        )],
        count: 1..=1,
        run: |shell, args| Box::pin(add_watch(shell, args)),
    },
    Command {
        name: "removewatches",
        usage: "path [-c|-d|-p|-r|-a] [-l]",
        about: "Removes the watches of this shell from a znode",
        flags: &[
            switch("-c", "those on children"),
            switch("-d", "those on data"),
            switch("-p", "persistent ones"),
            switch("-r", "persistent recursive ones"),
            switch("-a", "all, which is the default"),
            switch("-l", "even without a connection, which is always so"),
        ],
        count: 1..=1,
        run: |shell, args| Box::pin(async { remove_watches(shell, args) }),
    },
];

async fn add_watch(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let path = args.word(0);
    let mode = args.value("-m").unwrap_or("PERSISTENT_RECURSIVE");
    let mode = mode.to_uppercase();
    let client = shell.client().await?;
    let (kind, watch) = match mode.as_str() {
        "PERSISTENT" => (WatcherType::Persistent, client.watch(path).await?),
        "PERSISTENT_RECURSIVE" => (
            WatcherType::PersistentRecursive,
            client.watch_recursive(path).await?,
        ),
        _ => {
            return Err(ArgsError::InvalidValue {
                flag: "-m",
                value: mode,
                expected: "PERSISTENT or PERSISTENT_RECURSIVE",
            }
            .into());
        }
    };
    shell.watches.add_stream(kind, watch);
    Ok(Answer::quiet(json!({ "path": path, "mode": mode })))
}

fn remove_watches(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let path = args.word(0);
    let kinds = [
        ("-c", WatcherType::Children),
        ("-d", WatcherType::Data),
        ("-p", WatcherType::Persistent),
        ("-r", WatcherType::PersistentRecursive),
    ];
    let chosen = kinds.iter().find(|(flag, _)| args.has(flag));
    let kind = chosen.map_or(WatcherType::Any, |(_, kind)| *kind);
    if shell.watches.remove(path, kind) {
        Ok(Answer::quiet(json!({ "path": path })))
    } else {
        Err(Failure::Refused(format!(
            "this shell has no such watch on {path}"
        )))
    }
}
