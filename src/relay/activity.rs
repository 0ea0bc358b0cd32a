//! When a message passed last, as cheap as a message wants it: to the second, without a look at a clock.
//!
//! One task counts the seconds of the process; a relay that passes a message notes the number, and one that ends tells how
//! long ago that was. Control frames are no messages: Pings and Pongs pass over idle connections too.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// On a line of the cache of its own, which is written once a second and read with each message.
#[repr(align(64))]
struct Seconds(AtomicU32);

static SECONDS: Seconds = Seconds(AtomicU32::new(0));

/// Counts for as long as it is polled; without it no connection is ever silent.
pub async fn count_seconds() {
    let start = Instant::now();
    loop {
        sleep(Duration::from_secs(1)).await;
        let seconds = start.elapsed().as_secs();
        SECONDS.0.store(seconds as u32, Ordering::Relaxed);
    }
}

/// The second in which a message passed last; from the moment at which the end of the connection begins, how many seconds
/// before that it was. Every idle connection has one, so it is one number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activity(u32);

impl Activity {
    /// Of a connection that begins now.
    pub fn new() -> Self {
        Activity(SECONDS.0.load(Ordering::Relaxed))
    }

    /// A message passes, or a part of one. Not after [`Activity::handle_end`].
    pub fn handle_message(&mut self) {
        self.0 = SECONDS.0.load(Ordering::Relaxed);
    }

    /// The end begins: to be called once.
    pub fn handle_end(&mut self) {
        self.0 = SECONDS.0.load(Ordering::Relaxed).wrapping_sub(self.0);
    }

    /// After [`Activity::handle_end`]: how long no message had passed.
    pub fn silent(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}
