//! Memory that the compressed messages of all flows of a thread share: inflaters that no flow uses at the moment, and room.

use crate::frame::deflate::{Inflater, Window};

/// The flow of an inflater, and the message after which it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub flow: u64,
    pub message: u64,
}

/// Inflaters that no message has at the moment, and room for what they bring out: what all flows of a thread share.
#[derive(Debug, Default)]
pub(super) struct InflaterPool {
    /// For the unmasked copy of what is inflated, then for what comes out.
    rooms: Vec<u8>,
    idle: Vec<Idle>,
    /// Counts what comes and goes, to know what was left the longest ago.
    turn: u64,
}

#[derive(Debug)]
struct Idle {
    /// The flow whose window it still has, if any.
    tag: Option<Tag>,
    left: u64,
    inflater: Inflater,
}

impl InflaterPool {
    /// Large, because each call of the library that comes to the end of it copies a window.
    const ROOM: usize = 256 << 10;
    const COPY: usize = 64 << 10;
    /// Most inflaters that are kept: 1.5 MiB of them.
    const IDLE: usize = 32;

    /// Room for a copy of the input, and for what comes out.
    pub(super) fn rooms(&mut self) -> (&mut [u8], &mut [u8]) {
        self.rooms
            .resize(InflaterPool::COPY + InflaterPool::ROOM, 0);
        self.rooms.split_at_mut(InflaterPool::COPY)
    }

    /// An inflater that knows the window of this tag, or for `None` nothing.
    pub(super) fn take(&mut self, tag: Option<Tag>, window: &Window) -> Inflater {
        let of_flow = |idle: &Idle| match (idle.tag, tag) {
            (Some(idle), Some(tag)) => idle.flow == tag.flow,
            (Some(_), None) | (None, _) => false,
        };
        // The flow that came last is the likeliest to come again, and stands at the end.
        let taken = self
            .idle
            .iter()
            .rposition(of_flow)
            .or_else(|| self.idle.iter().position(|idle| idle.tag.is_none()))
            .or_else(|| {
                let oldest = self
                    .idle
                    .iter()
                    .enumerate()
                    .min_by_key(|(_, idle)| idle.left);
                oldest
                    .map(|(at, _)| at)
                    .filter(|_| self.idle.len() >= InflaterPool::IDLE)
            });
        let mut inflater = match taken.map(|at| self.idle.swap_remove(at)) {
            None => Inflater::new(),
            // It is where this flow left it, and no other pool has gone on from there.
            Some(idle) if tag.is_some() && idle.tag == tag => return idle.inflater,
            Some(mut idle) => {
                idle.inflater.reset();
                idle.inflater
            }
        };
        if tag.is_some() {
            inflater.resume(window);
        }
        inflater
    }

    pub(super) fn put(&mut self, inflater: Inflater, tag: Option<Tag>) {
        self.turn += 1;
        if self.idle.len() < InflaterPool::IDLE {
            self.idle.push(Idle {
                tag,
                left: self.turn,
                inflater,
            });
        }
    }
}
