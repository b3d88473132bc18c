//! `quorate-cli`: a shell, one-shot commands and a benchmark for servers of the ZooKeeper protocol.

mod args;
mod bench;
mod commands;
mod console;
mod format;
mod interactive;
mod quota;
mod secure;
mod shell;
mod watches;
mod words;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, BufRead, ErrorKind, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tokio::runtime::{self, Runtime};
use tracing_subscriber::EnvFilter;

use console::Console;
use quorate_client::Client;
use secure::SecureArgs;
use shell::{Settings, Shell};

/// A shell for Quorate, and for any server of the ZooKeeper protocol.
///
/// With a command, runs that command. Without one, reads commands: from the terminal with editing,
/// history and completion, or from the standard input, a command a line.
#[derive(Debug, Parser)]
#[command(name = "quorate-cli", version, disable_help_subcommand = true)]
struct Options {
    /// Servers to connect to, and the znode to take as the root. Also: -server
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT[,…][/CHROOT]",
        default_value = "localhost:2181"
    )]
    server: String,
    /// Session timeout to ask for, in milliseconds. Also: -timeout
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1..))]
    timeout: u32,
    /// Accepts a server that is cut off from its ensemble and only reads.
    #[arg(short, long)]
    read_only: bool,
    /// Waits for a connection before a command runs, which is always so.
    #[arg(long, hide = true, action = ArgAction::SetTrue)]
    waitforconnection: bool,
    /// How results are printed.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    #[command(flatten)]
    secure: SecureArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// As zkCli prints them.
    Text,
    /// As JSON, one object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::BenchArgs),
    /// A command of the shell.
    #[command(external_subcommand)]
    Shell(Vec<String>),
}

const EXAMPLES: &str = "\
Examples:
  quorate-cli                                   a shell on localhost:2181
  quorate-cli --server zk1:2181,zk2:2181/app    on an ensemble, with /app as the root
  quorate-cli create /greeting hello
  quorate-cli get /greeting
  quorate-cli --output json get -s /greeting    for programs
  quorate-cli < commands.txt                    a script
  quorate-cli --server zk1:2281 --tls-ca ca.pem ls /
  quorate-cli bench --reads 90                  a load test; see bench --help

Exit codes: 0 success, 1 the command failed or makes no sense, 127 there is no such command.
After a script it is that of its last command.
";

fn main() -> ExitCode {
    let options = match parse(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => error.exit(),
    };
    log_if_asked();
    let result = match &options.command {
        Some(Command::Bench(args)) => bench(args, &options),
        Some(Command::Shell(words)) => with_shell(&options, |shell, runtime| {
            Ok(runtime.block_on(shell.run(words.clone()))?)
        }),
        None if io::stdin().is_terminal() => with_shell(&options, |shell, runtime| {
            Ok(interactive::run(shell, runtime)?)
        }),
        None => with_shell(&options, run_script),
    };
    match result {
        Ok(code) => code,
        // Whoever read the output has read enough.
        Err(error) if is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorate-cli: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to the standard error what `RUST_LOG` asks for, such as `quorate_client=debug`.
fn log_if_asked() {
    if let Ok(filter) = EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .init();
    }
}

/// Parses the command line, with zkCli's spelling of options in front of the command.
fn parse(args: impl Iterator<Item = OsString>) -> Result<Options, clap::Error> {
    let after_help = format!(
        "{EXAMPLES}\nCommands of the shell:\n\n{}",
        commands::overview()
    );
    let parser = Options::command().after_help(after_help);
    let matches = parser.try_get_matches_from(with_long_options(args))?;
    Options::from_arg_matches(&matches)
}

/// zkCli's options have one dash.
fn with_long_options(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    const SINGLE_DASH: [&str; 3] = ["-server", "-timeout", "-waitforconnection"];
    let mut in_front = true;
    let mut is_value = true;
    args.map(move |arg| {
        let text = arg.to_str().unwrap_or_default();
        let spelt_out = in_front && SINGLE_DASH.contains(&text);
        in_front &= is_value || text.starts_with('-');
        is_value = in_front && !text.contains('=') && takes_value(text);
        if spelt_out {
            let mut long = OsString::from("-");
            long.push(arg);
            return long;
        }
        arg
    })
}

fn takes_value(option: &str) -> bool {
    matches!(
        option.trim_start_matches('-'),
        "server"
            | "timeout"
            | "output"
            | "tls-ca"
            | "tls-cert"
            | "tls-key"
            | "sasl-user"
            | "sasl-password-file"
    ) && option.starts_with('-')
}

fn bench(args: &bench::BenchArgs, options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let mut out = io::stdout().lock();
    let tls = options.secure.tls_only()?;
    bench::run(
        args,
        &options.server,
        tls.as_ref(),
        options.output,
        &mut out,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Runs something in a shell, and ends the session behind it.
fn with_shell(
    options: &Options,
    body: impl FnOnce(&mut Shell, &Runtime) -> Result<(), Box<dyn Error>>,
) -> Result<ExitCode, Box<dyn Error>> {
    // A worker besides the main thread, so that the session lives while that waits for a line.
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let session_timeout = Duration::from_millis(u64::from(options.timeout));
    let client = Client::builder()
        .session_timeout(session_timeout)
        .read_only(options.read_only);
    let settings = Settings {
        servers: options.server.clone(),
        session_timeout,
        client: options.secure.apply(client)?,
    };
    let _context = runtime.enter();
    let mut shell = Shell::new(settings, Console::new(options.output));
    let result = body(&mut shell, &runtime);
    runtime.block_on(shell.close());
    result?;
    Ok(ExitCode::from(shell.exit_code))
}

/// Runs the commands of the standard input.
fn run_script(shell: &mut Shell, runtime: &Runtime) -> Result<(), Box<dyn Error>> {
    for line in io::stdin().lock().lines() {
        runtime.block_on(shell.run_line(&line?))?;
        if shell.quit {
            break;
        }
    }
    Ok(())
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Options {
        let words = std::iter::once("quorate-cli").chain(line.split_whitespace());
        parse(words.map(OsString::from)).unwrap()
    }

    #[test]
    fn options_may_be_spelt_as_zkcli_spells_them() {
        for line in [
            "-server a:1/x -timeout 9 -r ls -R /",
            "--server a:1/x --timeout 9 --read-only ls -R /",
            "-waitforconnection --timeout=9 -r --server=a:1/x ls -R /",
        ] {
            let options = parsed(line);
            assert_eq!(options.server, "a:1/x", "{line}");
            assert_eq!(options.timeout, 9);
            assert!(options.read_only);
            let Some(Command::Shell(words)) = options.command else {
                panic!("{line}")
            };
            assert_eq!(words, ["ls", "-R", "/"]);
        }
    }

    #[test]
    fn what_stands_behind_the_command_is_its_own() {
        let options = parsed("--tls-ca ca.pem -timeout 5 ls -server");
        assert_eq!(options.timeout, 5);
        assert!(options.secure.tls().is_some());
        let options = parsed("--output json create /server -server");
        assert_eq!(options.output, OutputFormat::Json);
        let Some(Command::Shell(words)) = options.command else {
            panic!("{options:?}")
        };
        assert_eq!(words, ["create", "/server", "-server"]);
        assert!(parsed("-server h:1").command.is_none());
        assert!(matches!(
            parsed("bench --server h:1 --depth 1").command,
            Some(Command::Bench(_))
        ));
    }
}
