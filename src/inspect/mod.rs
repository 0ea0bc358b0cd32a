//! One proxied connection after its 101: what may pass, what may not, and what each side is told.

pub mod closing;
pub mod violation;

/// What is done about a violation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The message does not pass and the connection is closed. The default.
    #[default]
    Enforce,
    /// Violations are counted and logged, once per connection and kind; everything passes.
    Observe,
}

/// What one direction of a connection is held to. All sizes in bytes of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Enforce or observe.
    pub mode: Mode,
    /// Largest payload of one frame; a longer one is 1009 as soon as its header is read.
    pub max_frame_size: u64,
    /// Largest message, all its fragments together; 1009.
    pub max_message_size: u64,
    /// Most frames that one message may consist of; 1008.
    pub max_fragments: u32,
    /// A text frame up to this size is forwarded whole or not at all; a larger one in validated chunks.
    pub hold: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            mode: Mode::Enforce,
            max_frame_size: 16 << 20,
            max_message_size: 16 << 20,
            max_fragments: 1024,
            hold: 64 << 10,
        }
    }
}
