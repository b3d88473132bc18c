//! `quorate-cli`: a shell, one-shot commands and a benchmark for servers of the ZooKeeper protocol.

mod bench;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

/// A shell for Quorate, and for any server of the ZooKeeper protocol.
#[derive(Debug, Parser)]
#[command(name = "quorate-cli", version)]
struct Options {
    /// Servers to connect to, and the znode to take as the root.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT[,…][/CHROOT]",
        default_value = "localhost:2181"
    )]
    server: String,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,
    #[command(subcommand)]
    command: Command,
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
}

fn main() -> ExitCode {
    let options = Options::parse();
    let Command::Bench(args) = &options.command;
    match bench::run(
        args,
        &options.server,
        options.output,
        &mut io::stdout().lock(),
    ) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("quorate-cli: {err}");
            ExitCode::FAILURE
        }
    }
}
