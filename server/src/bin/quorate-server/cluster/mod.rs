//! `cluster`: a whole ensemble, on this host or by ssh on several.
//!
//! It starts and ends servers by the same commands that one types for a single server, and learns
//! how they are from their four-letter words. So whatever it does can be done by hand on one of them.

mod layout;
mod member;
mod remote;

use std::{
    io::{self, Write},
    process::{Child, Output},
    thread,
    time::{Duration, Instant},
};

use crate::cli::{ClusterCommand, ClusterPlace, Options, Patience, Plan};

use member::{Member, Standing};

/// An error in words.
fn failure(what: String) -> io::Error {
    io::Error::other(what)
}

/// Does what `command` says. Returns whether all servers are as they should be then.
pub(crate) fn run(
    command: ClusterCommand,
    options: &Options,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let misplaced = options.of_one_server();
    if !misplaced.is_empty() {
        return Err(failure(format!(
            "{} would be the same for all servers; write it into the zoo.cfg of each",
            misplaced.join(", ")
        )));
    }
    let found = |place: &ClusterPlace| match layout::open(place)? {
        members if members.is_empty() => Err(failure(format!(
            "there is no ensemble in {}; `cluster start` makes one, --dir names another directory",
            place.dir.display()
        ))),
        members => Ok(members),
    };
    match command {
        ClusterCommand::Start {
            place,
            plan,
            patience,
        } => start(
            &find_or_create(&place, &plan, options, out)?,
            options,
            &patience,
            out,
        ),
        ClusterCommand::Stop { place, patience } => stop(&found(&place)?, &patience, out),
        ClusterCommand::Restart { place, patience } => {
            restart(&found(&place)?, options, &patience, out)
        }
        ClusterCommand::Status { place } => status(&found(&place)?, out),
    }
}

/// The ensemble in the directory, which is made if there is none.
fn find_or_create(
    place: &ClusterPlace,
    plan: &Plan,
    options: &Options,
    out: &mut dyn Write,
) -> io::Result<Vec<Member>> {
    let members = layout::open(place)?;
    let wanted = plan.nodes.map(usize::from);
    let wanted = wanted.or((!plan.hosts.is_empty()).then_some(plan.hosts.len()));
    if members.is_empty() {
        const DEFAULT: u16 = 2181;
        let port = options
            .client_port
            .as_deref()
            .map_or(Ok(DEFAULT), str::parse);
        let port = port.map_err(|_| failure("--client-port is not a port".to_owned()))?;
        layout::create(place, plan, port)?;
        let members = layout::open(place)?;
        for member in &members {
            writeln!(out, "wrote {}", member.file.display())?;
        }
        return Ok(members);
    }
    match wanted {
        Some(wanted) if wanted != members.len() => Err(failure(format!(
            "{} holds an ensemble of {}, not of {wanted}; name another directory by --dir, or \
             leave out how many",
            place.dir.display(),
            members.len()
        ))),
        _ => Ok(members),
    }
}

/// Starts every server that does not run.
fn start(
    members: &[Member],
    options: &Options,
    patience: &Patience,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let (began, deadline) = (Instant::now(), patience.deadline());
    let (there, missing): (Vec<&Member>, _) = members
        .iter()
        .partition(|member| !matches!(member.ask(), Standing::Gone(_)));
    for member in there {
        writeln!(out, "server {} runs already", member.id)?;
    }
    // They need each other to serve, so none is waited for before all are on their way.
    let launched = missing.iter().map(|member| {
        member.prepare()?;
        member.run(&start_arguments("start", options, patience))
    });
    let launched: Vec<io::Result<Child>> = launched.collect();
    let mut well = true;
    for (member, child) in missing.iter().zip(launched) {
        well &= finish(member, "started", child, out)?;
    }
    if !well {
        return Ok(false);
    }
    let Some(leader) = wait_until_in_step(members, deadline, out)? else {
        return Ok(false);
    };
    let took = began.elapsed().as_secs_f64();
    match &members {
        [_] => writeln!(out, "it serves after {took:.2} s")?,
        _ => writeln!(
            out,
            "server {leader} leads, and all serve, after {took:.2} s"
        )?,
    }
    let addresses = members.iter().filter_map(Member::client_address);
    writeln!(
        out,
        "connect to {}",
        addresses.collect::<Vec<_>>().join(",")
    )?;
    Ok(true)
}

/// The arguments by which a server is started as this run was told to.
fn start_arguments(command: &str, options: &Options, patience: &Patience) -> Vec<String> {
    let mut arguments = vec![command.to_owned(), format!("--wait={}", patience.wait)];
    arguments.extend(options.set.iter().map(|pair| format!("--set={pair}")));
    arguments.extend(options.log.iter().map(|log| format!("--log={log}")));
    arguments
}

/// Waits for the end of a command, and tells how it went. Returns whether it went well.
fn finish(
    member: &Member,
    done: &str,
    child: io::Result<Child>,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let id = member.id;
    let Output {
        status,
        stdout,
        stderr,
    } = match child.and_then(Child::wait_with_output) {
        Ok(output) => output,
        Err(error) => {
            writeln!(out, "server {id}: {error}")?;
            return Ok(false);
        }
    };
    if status.success() {
        writeln!(out, "server {id} {done}")?;
    } else {
        writeln!(out, "server {id} is not {done}: {status}")?;
        let said = [stdout, stderr].concat();
        indent(&String::from_utf8_lossy(&said), out)?;
    }
    Ok(status.success())
}

fn indent(text: &str, out: &mut dyn Write) -> io::Result<()> {
    text.lines()
        .try_for_each(|line| writeln!(out, "    {line}"))
}

/// Waits until all servers serve and one of them leads, whose id it returns; `None`, and it is
/// told why, if that does not come in time.
fn wait_until_in_step(
    members: &[Member],
    deadline: Instant,
    out: &mut dyn Write,
) -> io::Result<Option<i64>> {
    const BETWEEN: Duration = Duration::from_millis(20);
    loop {
        let standings: Vec<Standing> = members.iter().map(Member::ask).collect();
        let leaders = members.iter().zip(&standings);
        let leaders: Vec<i64> = leaders
            .filter(|(_, standing)| standing.leads())
            .map(|(member, _)| member.id)
            .collect();
        // Two are one of them that has not noticed yet, or do not know of each other.
        if let ([leader], true) = (&leaders[..], standings.iter().all(Standing::serves)) {
            return Ok(Some(*leader));
        }
        let ended = members
            .iter()
            .zip(&standings)
            .any(|(member, standing)| matches!(standing, Standing::Gone(_)) && member.has_ended());
        if ended || Instant::now() >= deadline {
            for (member, standing) in members.iter().zip(&standings) {
                explain(member, standing, out)?;
            }
            return Ok(None);
        }
        thread::sleep(BETWEEN);
    }
}

/// Tells why a server does not serve.
fn explain(member: &Member, standing: &Standing, out: &mut dyn Write) -> io::Result<()> {
    let id = member.id;
    match standing {
        Standing::Serves(serving) => return writeln!(out, "server {id}: {}", serving.mode),
        Standing::Waits => writeln!(out, "server {id} runs and does not serve; its log ends:")?,
        Standing::Gone(why) => writeln!(out, "server {id} does not run ({why}); its log ends:")?,
    }
    indent(&member.last_words(), out)
}

/// The servers in the order in which they should go: the leader last, so that there is but one
/// change of leader.
fn leader_last(members: &[Member]) -> Vec<&Member> {
    let mut ordered: Vec<(bool, &Member)> = members
        .iter()
        .map(|member| (member.ask().leads(), member))
        .collect();
    ordered.sort_by_key(|(leads, _)| *leads);
    ordered.into_iter().map(|(_, member)| member).collect()
}

/// Ends every server.
fn stop(members: &[Member], patience: &Patience, out: &mut dyn Write) -> io::Result<bool> {
    let mut well = true;
    for member in leader_last(members) {
        if matches!(member.ask(), Standing::Gone(_)) && member.pid().is_none() {
            writeln!(out, "server {} does not run", member.id)?;
            continue;
        }
        let child = member.run(&["stop".to_owned(), format!("--wait={}", patience.wait)]);
        well &= finish(member, "stopped", child, out)?;
    }
    Ok(well)
}

/// Stops and starts one server after the other.
fn restart(
    members: &[Member],
    options: &Options,
    patience: &Patience,
    out: &mut dyn Write,
) -> io::Result<bool> {
    // To take one away from an ensemble that lacks another could leave it without a quorum.
    if !members.iter().all(|member| member.ask().serves())
        && !start(members, options, patience, out)?
    {
        return Ok(false);
    }
    for member in leader_last(members) {
        let began = Instant::now();
        let child = member
            .prepare()
            .and_then(|()| member.run(&start_arguments("restart", options, patience)));
        if !finish(member, "restarted", child, out)? {
            return Ok(false);
        }
        let Some(leader) = wait_until_in_step(members, patience.deadline(), out)? else {
            return Ok(false);
        };
        let took = began.elapsed().as_secs_f64();
        writeln!(out, "    in step after {took:.2} s; server {leader} leads")?;
    }
    Ok(true)
}

/// Prints a table of the servers. Returns whether all of them serve.
fn status(members: &[Member], out: &mut dyn Write) -> io::Result<bool> {
    let heading = [
        "id",
        "mode",
        "clients connect to",
        "zxid",
        "connections",
        "process",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    let mut serving = 0;
    for member in members {
        let nothing = || "-".to_owned();
        let (mode, zxid, connections) = match member.ask() {
            Standing::Serves(found) => {
                serving += 1;
                (found.mode, found.zxid, found.connections)
            }
            Standing::Waits => ("not serving".to_owned(), nothing(), nothing()),
            Standing::Gone(_) => ("not running".to_owned(), nothing(), nothing()),
        };
        rows.push([
            member.id.to_string(),
            mode,
            member.client_address().unwrap_or_else(nothing),
            zxid,
            connections,
            member.pid().map_or_else(nothing, |pid| pid.to_string()),
        ]);
    }
    print_table(&rows, out)?;
    writeln!(out, "{serving} of {} servers serve", members.len())?;
    Ok(serving == members.len())
}

fn print_table<const N: usize>(rows: &[[String; N]], out: &mut dyn Write) -> io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

impl Patience {
    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.wait)
    }
}
