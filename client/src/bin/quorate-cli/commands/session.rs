//! Commands about the connection, the session and its identities.

use serde_json::json;

use super::Command;
use crate::args::Args;
use crate::format;
use crate::shell::{Answer, Failure, Shell};

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "connect",
        usage: "[host:port]",
        about: "Opens a new session, with other servers if given",
        flags: &[],
        count: 0..=1,
        run: |shell, args| Box::pin(connect(shell, args)),
    },
    Command {
        name: "close",
        usage: "",
        about: "Ends the session; its ephemeral znodes go with it",
        flags: &[],
        count: 0..=0,
        run: |shell, _| Box::pin(close(shell)),
    },
    Command {
        name: "addauth",
        usage: "scheme auth",
        about: "Adds a credential to the session, such as: addauth digest user:password",
        flags: &[],
        count: 2..=2,
        run: |shell, args| Box::pin(add_auth(shell, args)),
    },
    Command {
        name: "whoami",
        usage: "",
        about: "Lists the identities under which the server knows this session",
        flags: &[],
        count: 0..=0,
        run: |shell, _| Box::pin(whoami(shell)),
    },
    Command {
        name: "getEphemerals",
        usage: "[path]",
        about: "Lists the ephemeral znodes of this session",
        flags: &[],
        count: 0..=1,
        run: |shell, args| Box::pin(get_ephemerals(shell, args)),
    },
];

async fn connect(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    if let Some(servers) = args.words.first() {
        shell.settings.servers.clone_from(servers);
    }
    shell.connect().await?;
    Ok(Answer::quiet(json!({ "servers": shell.settings.servers })))
}

async fn close(shell: &mut Shell) -> Result<Answer, Failure> {
    shell.close().await;
    Ok(Answer::quiet(json!({})))
}

async fn add_auth(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let client = shell.client().await?;
    client.add_auth(args.word(0), args.word(1)).await?;
    Ok(Answer::quiet(json!({ "scheme": args.word(0) })))
}

async fn whoami(shell: &mut Shell) -> Result<Answer, Failure> {
    let client = shell.client().await?;
    let identities = client.who_am_i().await?;
    let mut text = String::from("Auth scheme: User\n");
    for identity in &identities {
        text += &format!("{}: {}\n", identity.scheme, identity.user);
    }
    let json = identities
        .iter()
        .map(|identity| json!({ "scheme": identity.scheme, "user": identity.user }))
        .collect();
    let json = json!({ "identities": serde_json::Value::Array(json) });
    Ok(Answer::new(text, json))
}

async fn get_ephemerals(shell: &mut Shell, args: &Args) -> Result<Answer, Failure> {
    let prefix = args.words.first().map_or("/", String::as_str);
    let client = shell.client().await?;
    let mut paths = client.get_ephemerals(prefix).await?;
    paths.sort_unstable();
    let text = format!("{}\n", format::list(&paths));
    Ok(Answer::new(text, json!({ "paths": paths })))
}
