//! What the relay asks of the stream of a side, beside reading and writing.

/// What a stream knows of what it has taken, and can do about what it takes.
pub trait Delivery {
    /// How many bytes the far end has acknowledged since the stream began, where that is known.
    fn delivered(&self) -> Option<u64>;

    /// Memory that it owns to keep what it has not passed on, in bytes.
    fn memory(&self) -> usize;

    /// What is written next is the last of the stream, and its end follows at once: they may travel together.
    fn finish_with_next(&self);
}
