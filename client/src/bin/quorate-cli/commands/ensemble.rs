//! Commands about the servers and their configuration.

use std::fs;

use quorate_client::Membership;
use quorate_proto::WatcherType;
use serde_json::json;

use super::Command;
use crate::args::{Args, ArgsError, option, switch};
use crate::format;
use crate::shell::{Answer, Failure, Shell};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "config",
        usage: "[-c] [-w] [-s]",
        about: "Prints the servers of the ensemble",
        flags: &[
            switch(
                "-c",
                "prints their client addresses, as clients are given them",
            ),
            switch("-w", "watches for a change"),
            switch("-s", "prints the stat too"),
        ],
        count: 0..=0,
        run: |shell, args| Box::pin(config(shell, args)),
    },
    Command {
        name: "reconfig",
        usage: "[-s] [-v version] {-file path | -members list | [-add list] [-remove ids]}",
        about: "Changes the servers of the ensemble",
        flags: &[
            switch("-s", "prints the stat too"),
            option(
                "-v",
                "version",
                "only if this is the version of the configuration, in hexadecimal",
            ),
            option(
                "-file",
                "path",
                "a file with the server lines of the new ensemble",
            ),
            option(
                "-members",
                "list",
                "server lines of the new ensemble, separated by commas",
            ),
            option(
                "-add",
                "list",
                "server lines to add, such as server.4=h4:2888:3888;2181",
            ),
            option(
                "-remove",
                "ids",
                "numbers of servers to remove, separated by commas",
            ),
        ],
        count: 0..=0,
        run: |shell, args| Box::pin(reconfig(shell, args)),
    },
];

async fn config(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let client = shell.client().await?;
    let found = if args.has("-w") {
        let (found, watch) = client.get_config_watched().await?;
        shell.watches.add_once(WatcherType::Data, watch);
        found
    } else {
        client.get_config().await?
    };
    let (config, stat) = (found.text, found.stat);
    let (version, addresses) = client_addresses(&config);
    let mut text = if args.has("-c") {
        format!("{version} {}\n", addresses.join(","))
    } else {
        format!("{config}\n")
    };
    if args.has("-s") {
        text += &format::stat(&stat);
    }
    let json = json!({
        "config": config,
        "version": version,
        "client_addresses": addresses,
        "stat": format::stat_json(&stat),
    });
    Ok(Answer::new(text, json))
}

async fn reconfig(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let whole = members(args)?;
    let (joining, leaving) = (args.value("-add"), args.value("-remove"));
    let change = match &whole {
        Some(members) => Membership::Replace(members),
        None if joining.is_some() || leaving.is_some() => Membership::Change { joining, leaving },
        None => {
            let needed = "one of -file, -members, -add and -remove is needed";
            return Err(ArgsError::Invalid(needed.into()).into());
        }
    };
    let version = args.value("-v").map(parse_version).transpose()?;
    let client = shell.client().await?;
    let found = client.reconfig(change, version).await?;
    let (config, stat) = (found.text, found.stat);
    let mut text = format!("Committed new configuration:\n{config}\n");
    if args.has("-s") {
        text += &format::stat(&stat);
    }
    let json = json!({ "config": config, "stat": format::stat_json(&stat) });
    Ok(Answer::new(text, json))
}

/// The servers of the whole new ensemble, if that is what is asked for.
fn members(args: &Args) -> Result<Option<String>, Failure> {
    let whole = ["-file", "-members"];
    args.exclusive(whole[0], whole[1])?;
    for flag in whole {
        args.exclusive(flag, "-add")?;
        args.exclusive(flag, "-remove")?;
    }
    let Some(file) = args.value("-file") else {
        return Ok(args.value("-members").map(str::to_owned));
    };
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::Refused(format!("cannot read {file}: {error}")))?;
    let members = member_lines(&text);
    if members.is_empty() {
        return Err(Failure::Refused(format!("{file} has no line server.N=…")));
    }
    Ok(Some(members))
}

/// The lines of a configuration file that describe the ensemble, separated by commas.
fn member_lines(text: &str) -> String {
    let describes = |line: &&str| {
        ["server.", "group.", "weight."]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(describes).collect();
    lines.join(",")
}

fn parse_version(text: &str) -> Result<i64, ArgsError> {
    i64::from_str_radix(text, 16).map_err(|_| ArgsError::InvalidValue {
        flag: "-v",
        value: text.to_owned(),
        expected: "the version that `config` prints",
    })
}

/// The version of a configuration, as it is written there, and the addresses for clients.
fn client_addresses(config: &str) -> (&str, Vec<&str>) {
    let mut version = "";
    let mut addresses = Vec::new();
    for line in config.lines() {
        if let Some(number) = line.strip_prefix("version=") {
            version = number;
        } else if line.starts_with("server.")
            && let Some((_, client)) = line.split_once(';')
        {
            addresses.push(client.split_once(';').map_or(client, |(client, _)| client));
        }
    }
    (version, addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_servers_from_a_file() {
        let file = "# three\ndataDir=/d\nserver.1=a:1:2\n  server.2=b:1:2;3\nversion=7\n";
        assert_eq!(member_lines(file), "server.1=a:1:2,server.2=b:1:2;3");
        assert_eq!(parse_version("100000000"), Ok(1 << 32));
        assert!(parse_version("x").is_err());
    }

    #[test]
    fn finds_the_addresses_for_clients() {
        let config = "server.1=a:2888:3888:participant;10.0.0.1:2181\n\
                      server.2=b:2888:3888:participant;0.0.0.0:2182;0.0.0.0:2281\n\
                      server.3=c:2888:3888:observer\n\
                      version=100000000";
        assert_eq!(
            client_addresses(config),
            ("100000000", vec!["10.0.0.1:2181", "0.0.0.0:2182"])
        );
        assert_eq!(client_addresses(""), ("", vec![]));
    }
}
