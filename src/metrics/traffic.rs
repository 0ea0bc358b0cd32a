//! The series about messages and bytes that passed. Threads count without sharing; a scrape sums the counts.

use super::Registrar;
use crate::inspect::{Compressed, Side, Tally};
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The exported counters of the traffic.
#[derive(Debug)]
pub(super) struct TrafficSeries {
    exported: Mutex<Exported>,
}

#[derive(Debug)]
struct Exported {
    messages: IntCounterVec,
    bytes: IntCounterVec,
    compressed: IntCounterVec,
    compressed_bytes: IntCounterVec,
}

impl TrafficSeries {
    pub(super) fn new(registrar: &Registrar<'_>) -> Self {
        TrafficSeries {
            exported: Mutex::new(Exported {
                messages: registrar.counters(
                    "wsgate_messages_total",
                    "Whole messages and control frames passed on.",
                    &["direction", "kind"],
                ),
                bytes: registrar.counters(
                    "wsgate_bytes_total",
                    "Payload passed on, in bytes.",
                    &["direction", "kind"],
                ),
                compressed: registrar.counters(
                    "wsgate_compressed_messages_total",
                    "Compressed messages passed on, each inflated to be inspected.",
                    &["direction"],
                ),
                compressed_bytes: registrar.counters(
                    "wsgate_compressed_bytes_total",
                    "Payload of compressed messages passed on, in bytes: as it passed, and as it inflates.",
                    &["direction", "form"],
                ),
            }),
        }
    }

    /// Brings the exported counters up to the counts of the threads.
    pub(super) fn refresh(&self, traffic: &Traffic) {
        // One scrape at a time brings the exported counters up to what the threads have counted.
        let exported = self.exported.lock();
        for from in [Side::Client, Side::Server] {
            let sum = traffic.sum(from);
            for (kind, label) in Tally::LABELS.into_iter().enumerate() {
                let labels = [direction(from), label];
                let messages = exported.messages.with_label_values(&labels);
                messages.inc_by(sum.messages[kind].saturating_sub(messages.get()));
                let bytes = exported.bytes.with_label_values(&labels);
                bytes.inc_by(sum.bytes[kind].saturating_sub(bytes.get()));
            }
            let Compressed {
                messages,
                deflated,
                inflated,
            } = sum.compressed;
            let compressed = exported.compressed.with_label_values(&[direction(from)]);
            compressed.inc_by(messages.saturating_sub(compressed.get()));
            for (form, bytes) in [("deflated", deflated), ("inflated", inflated)] {
                let labels = [direction(from), form];
                let series = exported.compressed_bytes.with_label_values(&labels);
                series.inc_by(bytes.saturating_sub(series.get()));
            }
        }
    }
}

/// The label of the direction in which `from` sends.
const fn direction(from: Side) -> &'static str {
    match from {
        Side::Client => "client_to_server",
        Side::Server => "server_to_client",
    }
}

/// Counters that every message touches: each thread has its own, on cache lines of its own.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    shards: [Shard; Traffic::SHARDS],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// By side, then messages and bytes, then kind.
    counts: [[[AtomicU64; Tally::KINDS]; 2]; 2],
    /// By side: compressed messages, their bytes deflated and inflated.
    compressed: [[AtomicU64; 3]; 2],
}

impl Traffic {
    /// More threads than this share shards, which costs speed and nothing else.
    const SHARDS: usize = 32;

    pub(super) fn add(&self, from: Side, tally: &Tally) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % Traffic::SHARDS);
        }
        let shard = &self.shards[MINE.get()];
        let Compressed {
            messages,
            deflated,
            inflated,
        } = tally.compressed;
        if messages != 0 {
            let series = &shard.compressed[from as usize];
            for (series, more) in series.iter().zip([messages, deflated, inflated]) {
                series.fetch_add(more, Ordering::Relaxed);
            }
        }
        let [messages, bytes] = &shard.counts[from as usize];
        for kind in 0..Tally::KINDS {
            if tally.messages[kind] != 0 {
                messages[kind].fetch_add(tally.messages[kind], Ordering::Relaxed);
            }
            if tally.bytes[kind] != 0 {
                bytes[kind].fetch_add(tally.bytes[kind], Ordering::Relaxed);
            }
        }
    }

    fn sum(&self, from: Side) -> Tally {
        let mut sum = Tally::default();
        for shard in &self.shards {
            let [messages, bytes] = &shard.counts[from as usize];
            for kind in 0..Tally::KINDS {
                sum.messages[kind] += messages[kind].load(Ordering::Relaxed);
                sum.bytes[kind] += bytes[kind].load(Ordering::Relaxed);
            }
            let [messages, deflated, inflated] = &shard.compressed[from as usize];
            sum.compressed.messages += messages.load(Ordering::Relaxed);
            sum.compressed.deflated += deflated.load(Ordering::Relaxed);
            sum.compressed.inflated += inflated.load(Ordering::Relaxed);
        }
        sum
    }
}
