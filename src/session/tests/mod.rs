//! A session between two simulated peers and under a false clock. Nothing here does I/O either.

mod phases;
mod simulation;
mod world;

use super::*;

/// What every idle connection pays for its session, in bytes.
#[test]
fn a_session_is_small() {
    let size = size_of::<Session>();
    assert!(size <= 336, "{size} bytes");
}
