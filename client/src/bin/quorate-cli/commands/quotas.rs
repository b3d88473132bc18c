//! Commands about quotas.

use quorate_client::{Client, CreateMode, Data, Error};
use quorate_proto::path;
use serde_json::{Value, json};

use super::{Command, subtree};
use crate::args::{Args, ArgsError, option, switch};
use crate::quota::{
    HARD_BYTES, HARD_COUNT, LIMITS, QUOTA_ROOT, Quota, UNLIMITED, USAGE, quota_path,
};
use crate::shell::{Answer, Failure, Shell};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "setquota",
        usage: "-n|-b|-N|-B val path",
        about: "Limits the znodes or bytes of a subtree",
        flags: &[
            option("-n", "val", "znodes, of which more are reported in the log"),
            option("-b", "val", "bytes, of which more are reported in the log"),
            option("-N", "val", "znodes, of which more are refused"),
            option("-B", "val", "bytes, of which more are refused"),
        ],
        count: 1..=1,
        run: |shell, args| Box::pin(set_quota(shell, args)),
    },
    Command {
        name: "listquota",
        usage: "path",
        about: "Prints the limits of a subtree, and what is used of them",
        flags: &[],
        count: 1..=1,
        run: |shell, args| Box::pin(list_quota(shell, args)),
    },
    Command {
        name: "delquota",
        usage: "[-n|-b|-N|-B] path",
        about: "Removes a limit of a subtree, or all of them",
        flags: &[
            switch("-n", "the one that reports znodes"),
            switch("-b", "the one that reports bytes"),
            switch("-N", "the one that refuses znodes"),
            switch("-B", "the one that refuses bytes"),
        ],
        count: 1..=1,
        run: |shell, args| Box::pin(del_quota(shell, args)),
    },
];

async fn set_quota(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let (flag, value) = limit(args)?;
    let (client, path) = at_root(shell, args.word(0)).await?;
    let path = path.as_str();
    if path == "/" || path.starts_with(QUOTA_ROOT) {
        return Err(Failure::Refused(format!("{path} cannot have a quota")));
    }
    if client.exists(path).await?.is_none() {
        return Err(Error::NoNode {
            path: path.to_owned(),
        }
        .into());
    }
    refuse_overlap(&client, path).await?;
    let limits_path = path::join(&quota_path(path), LIMITS);
    let usage_path = path::join(&quota_path(path), USAGE);
    let limits = match client.get_data(&limits_path).await {
        Ok((data, _)) => {
            let mut limits = Quota::parse(&String::from_utf8_lossy(&data));
            set_limit(&mut limits, flag, value);
            client
                .set_data(&limits_path, &limits.to_string(), None)
                .await?;
            limits
        }
        Err(Error::NoNode { .. }) => {
            let mut limits = Quota::unlimited();
            set_limit(&mut limits, flag, value);
            create_all(&client, &quota_path(path)).await?;
            create(&client, &limits_path, Data::from(&limits.to_string())).await?;
            create(
                &client,
                &usage_path,
                Data::from(&Quota::unused().to_string()),
            )
            .await?;
            limits
        }
        Err(error) => return Err(error.into()),
    };
    let (usage, _) = client.get_data(&usage_path).await?;
    let used = Quota::parse(&String::from_utf8_lossy(&usage));
    let answer = Answer::quiet(report(path, &limits, &used));
    Ok(if limits.is_exceeded_by(&used) {
        answer.with_note(&format!(
            "[Warning]: {path} is beyond its limits already: {used}"
        ))
    } else {
        answer
    })
}

/// The one limit that is asked for, and its value.
fn limit(args: &Args) -> Result<(&'static str, i64), ArgsError> {
    let mut given = ["-n", "-b", "-N", "-B"]
        .into_iter()
        .filter(|flag| args.has(flag));
    let flag = given
        .next()
        .ok_or_else(|| ArgsError::Invalid("one of -n, -b, -N and -B is needed".into()))?;
    if let Some(other) = given.next() {
        return Err(ArgsError::Exclusive(flag, other));
    }
    let (lowest, expected) = match flag {
        "-n" | "-N" => (1, "a number of znodes above 0"),
        _ => (0, "a number of bytes"),
    };
    match args.number(flag, expected)? {
        Some(value) if value >= lowest => Ok((flag, value)),
        _ => Err(ArgsError::InvalidValue {
            flag,
            value: args.value(flag).unwrap_or_default().to_owned(),
            expected,
        }),
    }
}

fn set_limit(limits: &mut Quota, flag: &str, value: i64) {
    match flag {
        "-n" => limits.count = value,
        "-b" => limits.bytes = value,
        "-N" => limits.set_hard(HARD_COUNT, value),
        _ => limits.set_hard(HARD_BYTES, value),
    }
}

/// Only one quota applies to a znode, so none may lie within another.
async fn refuse_overlap(client: &Client, path: &str) -> Result<(), Failure> {
    let mut above = path::parent(path);
    while let Some(ancestor) = above.filter(|ancestor| *ancestor != "/") {
        let limits = path::join(&quota_path(ancestor), LIMITS);
        if client.exists(&limits).await?.is_some() {
            return Err(overlap(path, "parent", ancestor));
        }
        above = path::parent(ancestor);
    }
    let own = quota_path(path);
    let below = match subtree::collect(client, &own).await {
        Err(Error::NoNode { .. }) => return Ok(()),
        result => result?,
    };
    let other = below
        .iter()
        .filter(|found| path::name(found) == LIMITS)
        .filter_map(|found| path::parent(found))
        .find(|quota| *quota != own);
    match other.and_then(|quota| quota.strip_prefix(QUOTA_ROOT)) {
        Some(descendant) => Err(overlap(path, "child", descendant)),
        None => Ok(()),
    }
}

fn overlap(path: &str, relation: &str, other: &str) -> Failure {
    Failure::Refused(format!(
        "{path} has a {relation} {other} which has a quota; `delquota {other}` removes it"
    ))
}

/// Creates a znode and those above it, where they are missing.
async fn create_all(client: &Client, path: &str) -> Result<(), Error> {
    for (end, _) in path.match_indices('/').skip(1) {
        create(client, &path[..end], Data::NULL).await?;
    }
    create(client, path, Data::NULL).await
}

async fn create(client: &Client, path: &str, data: Data<'_>) -> Result<(), Error> {
    match client.create(path, data, CreateMode::Persistent).await {
        Ok(_) | Err(Error::NodeExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn list_quota(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let path = args.word(0);
    let (client, full_path) = at_root(shell, path).await?;
    let quota = quota_path(&full_path);
    let limits_path = path::join(&quota, LIMITS);
    let (limits, _) = match client.get_data(&limits_path).await {
        Err(Error::NoNode { .. }) => {
            return Err(Failure::Refused(format!(
                "quota for {path} does not exist."
            )));
        }
        result => result?,
    };
    let (used, _) = client.get_data(&path::join(&quota, USAGE)).await?;
    let limits = Quota::parse(&String::from_utf8_lossy(&limits));
    let used = Quota::parse(&String::from_utf8_lossy(&used));
    let text = format!("Output quota for {path} {limits}\nOutput stat for {path} {used}\n");
    let answer = Answer::new(text, report(path, &limits, &used));
    Ok(answer.with_note(&format!("absolute path is {limits_path}")))
}

fn report(path: &str, limits: &Quota, used: &Quota) -> Value {
    let limit = |limit: i64| (limit != UNLIMITED).then_some(limit);
    json!({
        "path": path,
        "limits": {
            "count": limit(limits.count),
            "bytes": limit(limits.bytes),
            "hard_count": limit(limits.hard(HARD_COUNT)),
            "hard_bytes": limit(limits.hard(HARD_BYTES)),
        },
        "used": { "count": used.count, "bytes": used.bytes },
    })
}

async fn del_quota(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let path = args.word(0);
    let (client, full_path) = at_root(shell, path).await?;
    let quota = quota_path(&full_path);
    let limits_path = path::join(&quota, LIMITS);
    let (limits, _) = match client.get_data(&limits_path).await {
        Err(Error::NoNode { .. }) => {
            let text = format!("Quota does not exist for {path}\n");
            return Ok(Answer::new(text, json!({ "path": path, "deleted": false })));
        }
        result => result?,
    };
    let chosen: Vec<&str> = ["-n", "-b", "-N", "-B"]
        .into_iter()
        .filter(|flag| args.has(flag))
        .collect();
    if chosen.is_empty() {
        client.delete(&limits_path, None).await?;
        client.delete(&path::join(&quota, USAGE), None).await?;
        delete_empty(&client, &quota).await?;
    } else {
        let mut limits = Quota::parse(&String::from_utf8_lossy(&limits));
        for flag in chosen {
            set_limit(&mut limits, flag, UNLIMITED);
        }
        client
            .set_data(&limits_path, &limits.to_string(), None)
            .await?;
    }
    Ok(Answer::quiet(json!({ "path": path, "deleted": true })))
}

/// Deletes a znode and those above it, as far as nothing else lies below them.
async fn delete_empty(client: &Client, path: &str) -> Result<(), Error> {
    let mut path = path;
    while path != QUOTA_ROOT {
        match client.delete(path, None).await {
            Ok(()) | Err(Error::NoNode { .. }) => {}
            Err(Error::NotEmpty { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        path = path::parent(path).unwrap_or(QUOTA_ROOT);
    }
    Ok(())
}

/// Quotas lie outside of every chroot: answers a client of the whole tree, and the path there.
async fn at_root(shell: &mut Shell, path: &str) -> Result<(Client, String), Failure> {
    path::validate(path).map_err(Error::from)?;
    let client = shell.client().await?;
    let full = match (client.chroot(), path) {
        ("/", path) => path.to_owned(),
        (chroot, "/") => chroot.to_owned(),
        (chroot, path) => format!("{chroot}{path}"),
    };
    Ok((client.at_root(), full))
}
