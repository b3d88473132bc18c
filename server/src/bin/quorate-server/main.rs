//! The program `quorate-server`: runs a server, in the foreground or in the background, and tells
//! what is wrong when it cannot.

mod background;
mod check;
mod cli;
mod cluster;
mod notify;
mod pid_file;
mod place;
mod processes;
mod purge;
mod run;
mod settings;
mod status;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, Parser};

use cli::{Cli, Command, Options, Target};
use place::Place;

/// Wrong arguments or settings, as Apache's server ends with.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let Cli {
        command,
        server,
        options,
    } = Cli::parse();
    let ended = match command {
        Some(command) => dispatch(command, &options),
        None if server.is_empty() && options.data_dir.is_none() => usage(),
        None if server.len() < 2 => {
            let place = Place::find(server.first().map(String::as_str), &options);
            Ok(run::foreground(&place, &options, false))
        }
        None => Ok(run::foreground(
            &Place::from_arguments(&server, &options),
            &options,
            false,
        )),
    };
    ended.unwrap_or_else(|error| {
        // Who reads as much as it wants, such as `head`, need not be told.
        if error.kind() != io::ErrorKind::BrokenPipe {
            let _ = writeln!(io::stderr(), "quorate-server: {error}");
        }
        ExitCode::FAILURE
    })
}

fn dispatch(command: Command, options: &Options) -> io::Result<ExitCode> {
    let find = |target: &Target| {
        let place = Place::find(target.config.as_deref(), options);
        place.announce();
        place
    };
    let mut out = io::stdout();
    let well = match command {
        Command::Start { target, wait } => {
            background::start(&find(&target), options, Duration::from_secs(wait))?
        }
        Command::StartForeground { target, detach } => {
            let place = Place::find(target.config.as_deref(), options);
            return Ok(run::foreground(&place, options, detach));
        }
        Command::Stop { target, wait } => {
            let config = find(&target).read().config;
            background::stop(&config, options, Duration::from_secs(wait))?
        }
        Command::Restart { target, wait } => {
            let (place, wait) = (find(&target), Duration::from_secs(wait));
            background::stop(&place.read().config, options, wait)?
                && background::start(&place, options, wait)?
        }
        Command::Status { target } => status::print(&find(&target).read().config, &mut out)?,
        Command::Check { target } => {
            let report = check::run(&find(&target), options);
            report.print(&mut out)?;
            report.passed()
        }
        Command::Purge { target, keep } => {
            purge::run(&find(&target).read().config, keep, &mut out)?
        }
        Command::Cluster(command) => cluster::run(command, options, &mut out)?,
        Command::Settings { filter } => settings::print(filter.as_deref(), &mut out)?,
        Command::Version => {
            writeln!(out, "Quorate version: {}", env!("CARGO_PKG_VERSION"))?;
            true
        }
    };
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn usage() -> io::Result<ExitCode> {
    let mut stderr = io::stderr();
    write!(stderr, "{}", Cli::command().render_long_help())?;
    Ok(ExitCode::from(USAGE))
}
