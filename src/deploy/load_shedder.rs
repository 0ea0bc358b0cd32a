//! Where relays keep more in memory than they may, those that keep most for longest have to go.

use crate::deploy::Control;
use crate::relay::{Buffers, Handle, Holding};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Closes the slowest readers as long as the buffers are over their limit.
pub(crate) struct LoadShedder {
    control: Arc<Control>,
    buffers: Arc<Buffers>,
}

impl LoadShedder {
    /// Among the connections that `control` knows.
    pub(crate) fn new(control: Arc<Control>, buffers: Arc<Buffers>) -> Self {
        LoadShedder { control, buffers }
    }

    /// Watches for as long as it is polled.
    pub(crate) async fn run(self) {
        loop {
            self.buffers.over().await;
            while self.relieve() {
                sleep(PAUSE).await;
            }
        }
    }

    /// Tells as many to go as it takes. Whether the buffers are over their limit.
    fn relieve(&self) -> bool {
        let excess = self.buffers.excess();
        if excess == 0 {
            return false;
        }
        // The memory of connections that are being closed counts as free.
        let mut going = 0;
        let mut holders: Vec<(Holding, Arc<Handle>)> = Vec::new();
        self.control.visit(|handle| {
            let holding = handle.holding();
            if handle.is_shed() {
                going += holding.bytes as usize;
            } else if holding.bytes > 0 {
                holders.push((holding, handle.clone()));
            }
        });
        let limit = self.buffers.limit();
        let wanted = (excess + limit / SLACK).saturating_sub(going);
        if going < excess {
            let (held, holding) = (excess + limit, holders.len());
            let chosen = choose(&mut holders, self.buffers.clock(), wanted);
            chosen.iter().for_each(|(_, handle)| handle.shed());
            let closed = chosen.len();
            tracing::warn!(held, limit, holding, closed, "buffers are over their limit");
        }
        true
    }
}

/// The connections to close for `wanted` bytes: in the order of bytes times milliseconds that they keep, the largest first.
fn choose<T>(holders: &mut [(Holding, T)], clock: u32, wanted: usize) -> &[(Holding, T)] {
    let weight = |holding: &Holding| {
        let age = clock.wrapping_sub(holding.since);
        u64::from(holding.bytes) * (u64::from(age) + 1)
    };
    holders.sort_by_key(|(holding, _)| std::cmp::Reverse(weight(holding)));
    let mut sum = 0;
    let enough = |(holding, _): &(Holding, T)| {
        sum += holding.bytes as usize;
        sum >= wanted
    };
    let count = match holders.iter().position(enough) {
        Some(last) => last + 1,
        None => holders.len(),
    };
    &holders[..count]
}

/// How often it is looked again, at most, while there is too much: who was told to go has a moment to do so.
const PAUSE: Duration = Duration::from_millis(100);

/// Beside the excess this part of the limit is freed, so that the next byte does not exceed the limit again.
const SLACK: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes and since when of each, then how much is wanted, and who goes, at 1000 ms.
    #[test]
    fn who_has_to_go() {
        for (holders, wanted, goes) in [
            (&[(10, 0), (20, 0), (30, 0)][..], 1, &[2][..]),
            (&[(10, 0), (20, 0), (30, 0)], 31, &[2, 1]),
            (&[(10, 0), (20, 0), (30, 0)], 1000, &[2, 1, 0]),
            // Half as much for more than twice as long.
            (&[(20, 900), (10, 700)], 5, &[1]),
            // Those that began just now are told apart by what they keep.
            (&[(20, 1000), (30, 1000)], 5, &[1]),
            // A clock that has begun anew.
            (&[(20, 900), (20, u32::MAX - 10)], 5, &[1]),
            (&[], 5, &[]),
        ] {
            let numbered = holders.iter().enumerate();
            let mut numbered: Vec<_> = numbered
                .map(|(number, &(bytes, since))| (Holding { bytes, since }, number))
                .collect();
            let chosen = choose(&mut numbered, 1000, wanted);
            let chosen: Vec<_> = chosen.iter().map(|(_, number)| *number).collect();
            assert_eq!(chosen, goes, "{holders:?}, {wanted} wanted");
        }
    }
}
