//! The `wsgate` program.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    wsgate::cli::Cli::parse().execute()
}
