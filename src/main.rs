//! The `wsgate` program.

use clap::Parser;
use std::process::ExitCode;

/// It keeps what is small and stays, an idle WebSocket, apart from what is large and goes, its handshake: after a herd
/// of clients the memory of their handshakes goes back to the system. The system's allocator cannot give back what lies
/// between.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Where it cannot have its thread, memory goes back when something else is allocated.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
    wsgate::cli::Cli::parse().execute()
}
