//! Commands that read and write one znode.

use std::time::Duration;

use futures::future::try_join;
use quorate_client::{Client, CreateMode, CreateOptions, Data, OPEN_ACL};
use quorate_proto::WatcherType;
use serde_json::{Value, json};

use super::Command;
use crate::args::{Args, ArgsError, Flag, option, switch};
use crate::format;
use crate::shell::{Answer, Failure, Shell};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "ls",
        usage: "[-s] [-w] [-L] [-R] path",
        about: "Lists the children of a znode",
        flags: &[
            switch("-s", "prints the stat too"),
            switch("-w", "watches for a child to come or go"),
            LINEARIZABLE,
            switch("-R", "lists the whole subtree, one path a line"),
        ],
        count: 1..=2,
        run: |shell, args| Box::pin(ls(shell, args)),
    },
    Command {
        name: "get",
        usage: "[-s] [-w] [-L] [-b] [-x] path",
        about: "Prints the data of a znode",
        flags: &[
            switch("-s", "prints the stat too"),
            switch(
                "-w",
                "watches for the data to be set or the znode to be deleted",
            ),
            LINEARIZABLE,
            switch("-b", "prints base64"),
            switch("-x", "prints a hexdump"),
        ],
        count: 1..=2,
        run: |shell, args| Box::pin(get(shell, args)),
    },
    Command {
        name: "stat",
        usage: "[-w] [-L] path",
        about: "Prints the stat of a znode",
        flags: &[
            switch("-w", "watches for the znode to be set or deleted"),
            LINEARIZABLE,
        ],
        count: 1..=2,
        run: |shell, args| Box::pin(stat(shell, args)),
    },
    Command {
        name: "create",
        usage: "[-s] [-e] [-c] [-t ttl] path [data] [acl]",
        about: "Creates a znode; without data it has none, not even empty data",
        flags: &[
            switch("-s", "sequential: the server appends a counter to the name"),
            switch("-e", "ephemeral: ends with the session"),
            switch("-c", "container: reaped once its last child is gone"),
            option(
                "-t",
                "ttl",
                "reaped when not set and childless for so many milliseconds",
            ),
        ],
        count: 1..=3,
        run: |shell, args| Box::pin(create(shell, args)),
    },
    Command {
        name: "set",
        usage: "[-s] [-v version] [-b] path data",
        about: "Replaces the data of a znode",
        flags: &[
            switch("-s", "prints the new stat"),
            option("-v", "version", "only if the data has this version"),
            switch("-b", "the data is given as base64"),
        ],
        count: 2..=3,
        run: |shell, args| Box::pin(set(shell, args)),
    },
    Command {
        name: "delete",
        usage: "[-v version] path",
        about: "Deletes a znode that has no children",
        flags: &[option("-v", "version", "only if the data has this version")],
        count: 1..=2,
        run: |shell, args| Box::pin(delete(shell, args)),
    },
    Command {
        name: "getAcl",
        usage: "[-s] [-L] path",
        about: "Prints who may do what with a znode",
        flags: &[switch("-s", "prints the stat too"), LINEARIZABLE],
        count: 1..=1,
        run: |shell, args| Box::pin(get_acl(shell, args)),
    },
    Command {
        name: "getAllChildrenNumber",
        usage: "path",
        about: "Counts the descendants of a znode",
        flags: &[],
        count: 1..=1,
        run: |shell, args| Box::pin(get_all_children_number(shell, args)),
    },
    Command {
        name: "sync",
        usage: "path",
        about: "Waits until the server has caught up with the leader",
        flags: &[],
        count: 1..=1,
        run: |shell, args| Box::pin(sync(shell, args)),
    },
];

const LINEARIZABLE: Flag = switch("-L", "reads what every acknowledged write has left");

/// The client to read with.
async fn reader(shell: &mut Shell, args: &Args) -> Result<Client, Failure> {
    let client = shell.client().await?;
    Ok(match args.has("-L") {
        true => client.linearizable(),
        false => client,
    })
}

/// Older scripts say `get path watch` for `get -w path`; any word will do.
fn wants_watch(args: &Args) -> bool {
    args.has("-w") || args.words.len() > 1
}

/// What to say to those scripts.
fn remark(answer: Answer, args: &Args, command: &str) -> Answer {
    if args.words.len() > 1 {
        return answer.with_note(&format!(
            "`{command} path watch` is the old form of `{command} -w path`"
        ));
    }
    answer
}

async fn ls(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let path = args.word(0);
    let client = reader(shell, args).await?;
    if args.has("-R") {
        args.exclusive("-R", "-s")?;
        args.exclusive("-R", "-w")?;
        let paths = super::subtree::collect(&client, path).await?;
        let text: String = paths.iter().flat_map(|path| [path, "\n"]).collect();
        return Ok(Answer::new(text, json!({ "paths": paths })));
    }
    let (mut children, stat) = if wants_watch(args) {
        let (children, stat, watch) = client.get_children_watched(path).await?;
        shell.watches.add_once(WatcherType::Children, watch);
        (children, stat)
    } else {
        client.get_children_and_stat(path).await?
    };
    children.sort_unstable();
    let mut text = format!("{}\n", format::list(&children));
    if args.has("-s") {
        text += &format::stat(&stat);
    }
    let json = json!({
        "path": path,
        "children": children,
        "stat": format::stat_json(&stat),
    });
    Ok(remark(Answer::new(text, json), args, "ls"))
}

async fn get(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    args.exclusive("-b", "-x")?;
    let path = args.word(0);
    let client = reader(shell, args).await?;
    let data = client.get_data_or_null(path);
    let (data, stat) = if wants_watch(args) {
        // Both are under way together; the watch is set behind the read, and so a change between
        // the two is noticed by their stats alone.
        let ((data, stat), (_, watched, watch)) =
            try_join(data, client.get_data_watched(path)).await?;
        shell.watches.add_once(WatcherType::Data, watch);
        if watched.mzxid == stat.mzxid {
            (data, stat)
        } else {
            client.get_data_or_null(path).await?
        }
    } else {
        data.await?
    };
    let shown = data.as_deref().unwrap_or(b"null");
    let mut out = if args.has("-b") {
        format::base64(shown).into_bytes()
    } else if args.has("-x") {
        format::hexdump(shown).into_bytes()
    } else {
        shown.to_vec()
    };
    out.push(b'\n');
    if args.has("-s") {
        out.extend_from_slice(format::stat(&stat).as_bytes());
    }
    let mut json = json!({ "path": path, "stat": format::stat_json(&stat) });
    let (name, value) = format::data_json(data.as_deref(), args.has("-b"));
    json[name] = value;
    Ok(remark(Answer::new(out, json), args, "get"))
}

async fn stat(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let path = args.word(0);
    let client = reader(shell, args).await?;
    let found = if wants_watch(args) {
        let (found, watch) = client.exists_watched(path).await?;
        // As in zkCli, a znode that is missing is still watched, and its creation is an event.
        shell.watches.add_once(WatcherType::Data, watch);
        found
    } else {
        client.exists(path).await?
    };
    let stat = found.ok_or_else(|| missing(path))?;
    let json = json!({ "path": path, "stat": format::stat_json(&stat) });
    Ok(remark(Answer::new(format::stat(&stat), json), args, "stat"))
}

fn missing(path: &str) -> Failure {
    quorate_client::Error::NoNode {
        path: path.to_owned(),
    }
    .into()
}

async fn create(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    args.exclusive("-c", "-s")?;
    args.exclusive("-c", "-e")?;
    args.exclusive("-c", "-t")?;
    args.exclusive("-t", "-e")?;
    let mode = match (args.has("-c"), args.has("-e"), args.has("-s")) {
        (true, ..) => CreateMode::Container,
        (_, true, true) => CreateMode::EphemeralSequential,
        (_, true, false) => CreateMode::Ephemeral,
        (_, false, true) => CreateMode::PersistentSequential,
        (_, false, false) => CreateMode::Persistent,
    };
    let acl = match args.words.get(2) {
        Some(text) => format::parse_acl(text).map_err(ArgsError::Invalid)?,
        None => OPEN_ACL.to_vec(),
    };
    let mut options = CreateOptions::new(mode).acl(&acl);
    if let Some(ttl) = args.number("-t", "a time in milliseconds")? {
        options = options.ttl(Duration::from_millis(ttl));
    }
    let data = args.words.get(1).map_or(Data::NULL, Data::from);
    let client = shell.client().await?;
    let created = client.create(args.word(0), data, options).await?;
    let note = format!("Created {}", created.path);
    let json = json!({ "path": created.path, "stat": format::stat_json(&created.stat) });
    Ok(Answer::quiet(json).with_note(&note))
}

async fn set(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let (path, text) = (args.word(0), args.word(1));
    let version = version(args, 2)?;
    let data = if args.has("-b") {
        format::parse_base64(text).map_err(ArgsError::Invalid)?
    } else {
        text.as_bytes().to_vec()
    };
    let client = shell.client().await?;
    let stat = client.set_data(path, &data, version).await?;
    let text = if args.has("-s") {
        format::stat(&stat)
    } else {
        String::new()
    };
    let json = json!({ "path": path, "stat": format::stat_json(&stat) });
    Ok(Answer::new(text, json))
}

async fn delete(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let path = args.word(0);
    let version = version(args, 1)?;
    let client = shell.client().await?;
    client.delete(path, version).await?;
    Ok(Answer::quiet(json!({ "path": path })))
}

/// The version that `-v` or, in an older form, the word at `index` asks for.
fn version(args: &Args, index: usize) -> Result<i32, ArgsError> {
    match args.words.get(index) {
        None => args.version(),
        Some(_) if args.has("-v") => Err(ArgsError::Repeated("-v")),
        Some(word) => word.parse().map_err(|_| ArgsError::TooMany(word.clone())),
    }
}

async fn get_acl(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let path = args.word(0);
    let client = reader(shell, args).await?;
    let (acl, stat) = client.get_acl(path).await?;
    let mut text = format::acl(&acl);
    if args.has("-s") {
        text += &format::stat(&stat);
    }
    let json = json!({
        "path": path,
        "acl": format::acl_json(&acl),
        "stat": format::stat_json(&stat),
    });
    Ok(Answer::new(text, json))
}

async fn get_all_children_number(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let path = args.word(0);
    let client = shell.client().await?;
    let number = client.get_all_children_number(path).await?;
    let json = json!({ "path": path, "descendants": number });
    Ok(Answer::new(format!("{number}\n"), json))
}

async fn sync(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let path = args.word(0);
    let client = shell.client().await?;
    match tokio::time::timeout(PATIENCE, client.sync(path)).await {
        Ok(synced) => synced?,
        Err(_) => {
            return Err(Failure::Refused(format!(
                "the server has not caught up within {} s",
                PATIENCE.as_secs()
            )));
        }
    }
    let json: Value = json!({ "path": path });
    Ok(Answer::new("Sync is OK\n", json))
}
