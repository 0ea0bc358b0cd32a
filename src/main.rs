//! The `wsgate` program.

use clap::Parser;
use std::process::ExitCode;

/// jemalloc keeps small long-lived allocations (an idle WebSocket) apart from large short-lived ones (its handshake): after a herd of
/// clients the memory of their handshakes goes back to the system. The system's allocator cannot give back memory that lies between.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Where it cannot have its thread, memory goes back when something else is allocated.
    let _ = tikv_jemalloc_ctl::background_thread::write(true);
    wsgate::cli::Cli::parse().execute()
}
