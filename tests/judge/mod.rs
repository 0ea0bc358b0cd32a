//! An independent judge: what RFC 6455 and the limits say of a whole stream, known to its end.
//!
//! It is written from the RFC and `std::str::from_utf8` alone, uses nothing of wsgate, keeps everything and looks at
//! it as often as it likes. So it can be wrong in other ways than wsgate, but hardly in the same.

mod inflate;

pub(crate) use inflate::{Deflated, Sender};

/// What one direction of a connection is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Law {
    /// Whether messages may be compressed: whether the window is shared by them, and how large it is.
    pub deflate: Option<(bool, usize)>,
    /// Whether every frame has to be masked (a client's) or none may be (a server's).
    pub masked: bool,
    pub max_frame_size: u64,
    pub max_message_size: u64,
    pub max_fragments: u32,
    /// Text frames up to this size pass whole or not at all.
    pub text_buffer: usize,
    /// A Close whose reason is no text is one all the same: its code is told, and nothing passes of it.
    pub keeps_close_codes: bool,
}

/// What is to be said of a stream.
#[derive(Debug)]
pub(crate) struct Judgement {
    /// How many bytes of it may pass by now.
    pub passes: usize,
    pub end: End,
    /// Offsets at which a frame that passed has ended, the beginning among them.
    pub frame_ends: Vec<usize>,
    /// Those at which no message is left unfinished.
    pub message_ends: Vec<usize>,
    /// Messages that passed whole: text, binary, ping, pong.
    pub messages: [u64; 4],
    /// Their payload, and that of the message under way.
    pub bytes: [u64; 4],
    /// Compressed messages that passed whole, their payload, and what it inflates to.
    pub compressed: [u64; 3],
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing is wrong so far.
    Open,
    Close {
        frame_len: usize,
        code: Option<u16>,
        /// Its reason is no text.
        garbled: bool,
    },
    Broken(Broken),
}

/// All rules that one byte proves to be broken; no byte before it proves anything.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The label of each rule, and where it is to be reported.
    pub rules: Vec<(&'static str, u64)>,
    /// Offset of the byte that proves it.
    pub proof: usize,
    /// Offset of the frame that it belongs to.
    pub frame: usize,
    /// Where the payload begins of which all may have passed that was looked at before the piece with the proof.
    pub in_pieces_from: Option<usize>,
}

struct Message {
    text: bool,
    payload: Vec<u8>,
    fragments: u32,
    compressed: bool,
}

const TEXT: usize = 0;
const BINARY: usize = 1;
const PING: usize = 2;
const PONG: usize = 3;

pub(crate) fn judge(law: &Law, stream: &[u8]) -> Judgement {
    let mut it = Judgement {
        passes: 0,
        end: End::Open,
        frame_ends: vec![0],
        message_ends: vec![0],
        messages: [0; 4],
        bytes: [0; 4],
        compressed: [0; 3],
    };
    // All that the window may hold: what was inflated since the last block that says it is the last.
    let mut sender = law
        .deflate
        .map(|(shared, window)| Sender::new(shared, window));
    let mut message: Option<Message> = None;
    let mut start = 0;
    loop {
        let frame = &stream[start..];
        let broken = |rules: Vec<(&'static str, u64)>, proof: usize| {
            End::Broken(Broken {
                rules,
                proof: start + proof,
                frame: start,
                in_pieces_from: None,
            })
        };

        let (rules, proof) = broken_by_header(law, frame, start as u64, message.as_ref());
        if !rules.is_empty() {
            it.end = broken(rules, proof);
            return it;
        }
        let Some((header_len, len, key)) = header(frame) else {
            return it;
        };
        let there = frame.len().min(header_len + len as usize) - header_len;
        let whole = there as u64 == len;
        let payload: Vec<u8> = (0..there)
            .map(|i| frame[header_len + i] ^ key[i % 4])
            .collect();
        let fin = frame[0] >= 0x80;

        let kind = match frame[0] & 0x0F {
            8 if !whole => return it,
            8 => {
                let mut garbled = false;
                let rule = match payload.as_slice() {
                    [] => None,
                    [_] => Some(("close_one_byte", start as u64)),
                    [a, b, reason @ ..] => {
                        let code = u16::from(*a) << 8 | u16::from(*b);
                        garbled = std::str::from_utf8(reason).is_err();
                        if !travels(code) {
                            Some(("close_code", code.into()))
                        } else if garbled && !law.keeps_close_codes {
                            Some(("close_reason_not_utf8", start as u64))
                        } else {
                            None
                        }
                    }
                };
                it.end = match rule {
                    Some(rule) => broken(vec![rule], header_len + there - 1),
                    None => End::Close {
                        frame_len: header_len + there,
                        code: payload.get(..2).map(|c| u16::from_be_bytes([c[0], c[1]])),
                        garbled,
                    },
                };
                return it;
            }
            9 | 10 if !whole => return it,
            9 => PING,
            10 => PONG,
            opcode => {
                let message = message.get_or_insert(Message {
                    text: opcode == 1,
                    payload: Vec::new(),
                    fragments: 0,
                    compressed: frame[0] & 0x40 != 0,
                });
                let before = message.payload.len();
                message.payload.extend_from_slice(&payload);
                message.fragments += 1;
                if let (true, Some(sender)) = (message.compressed, &mut sender) {
                    let deflated =
                        sender.inflate(&message.payload, whole && fin, law, message.text);
                    let pieces = !message.text || len > law.text_buffer as u64;
                    match deflated {
                        Deflated::Broken { rules, proof } => {
                            let at =
                                proof.map_or(header_len + there - 1, |at| header_len + at - before);
                            // A frame without payload is proven wrong by its header.
                            let at = at.max(header_len - 1);
                            it.end = End::Broken(Broken {
                                rules,
                                proof: start + at,
                                frame: start,
                                in_pieces_from: Some(start + header_len).filter(|_| pieces),
                            });
                            return it;
                        }
                        Deflated::Fine { inflated } => {
                            if !whole && pieces && there > 0 {
                                it.passes = start + header_len + there;
                                it.bytes[usize::from(!message.text)] += there as u64;
                            }
                            if whole && fin {
                                it.compressed[0] += 1;
                                it.compressed[1] += message.payload.len() as u64;
                                it.compressed[2] += inflated as u64;
                            }
                        }
                    }
                } else if message.text {
                    // How much of this frame is whole code points, and which byte proves that it is no text.
                    let (valid, wrong) = look_at_text(&message.payload);
                    let valid = valid.saturating_sub(before);
                    let streamed = len > law.text_buffer as u64 && valid > 0;
                    if (!whole || wrong.is_some()) && streamed {
                        it.passes = start + header_len + valid;
                        it.bytes[TEXT] += valid as u64;
                    }
                    if let Some(at) = wrong {
                        let rules = vec![("text_not_utf8", at as u64)];
                        it.end = broken(rules, header_len + at - before);
                        return it;
                    }
                    let unfinished = std::str::from_utf8(&message.payload).is_err();
                    if whole && fin && unfinished {
                        if streamed {
                            it.passes = start + header_len + valid;
                            it.bytes[TEXT] += valid as u64;
                        }
                        let at = message.payload.len() as u64;
                        let rules = vec![("text_unfinished", at)];
                        it.end = broken(rules, header_len + there - 1);
                        return it;
                    }
                } else if !whole && there > 0 {
                    it.passes = start + header_len + there;
                    it.bytes[BINARY] += there as u64;
                }
                if message.text { TEXT } else { BINARY }
            }
        };
        if !whole {
            return it;
        }
        it.bytes[kind] += len;
        it.messages[kind] += u64::from(fin);
        if fin && kind <= BINARY {
            message = None;
        }
        start += header_len + there;
        it.passes = start;
        it.frame_ends.push(start);
        if message.is_none() {
            it.message_ends.push(start);
        }
    }
}

/// Walks from frame to frame, whatever they say: the offset of the first whole Close from `start` on.
pub(crate) fn next_close(stream: &[u8], mut start: usize) -> Option<usize> {
    loop {
        let frame = &stream[start..];
        let (header_len, len, _) = header(frame)?;
        if len >> 63 != 0 || ((frame.len() - header_len) as u64) < len {
            return None;
        }
        if frame[0] & 0x0F == 8 && frame[1] & 0x7F <= 125 {
            return Some(start);
        }
        start += header_len + len as usize;
    }
}

/// §5.2, §5.4, §5.5 and the limits: the rules broken by the earliest byte of a header, and the index of that byte.
fn broken_by_header(
    law: &Law,
    frame: &[u8],
    at: u64,
    message: Option<&Message>,
) -> (Vec<(&'static str, u64)>, usize) {
    let mut rules = Vec::new();
    let Some(&first) = frame.first() else {
        return (rules, 0);
    };
    let opcode = first & 0x0F;
    let control = opcode >= 8;
    let means_compressed = law.deflate.is_some() && matches!(opcode, 1 | 2);
    match first & 0x70 {
        0 => {}
        0x40 if means_compressed => {}
        0x40 if matches!(opcode, 1 | 2) => rules.push(("compression_not_agreed", at)),
        _ => rules.push(("reserved_bits", at)),
    }
    if matches!(opcode, 3..=7 | 11..=15) {
        rules.push(("reserved_opcode", at));
    }
    if control && first & 0x80 == 0 {
        rules.push(("control_fragmented", at));
    }
    if opcode == 0 && message.is_none() {
        rules.push(("continuation_without_start", at));
    }
    if (opcode == 1 || opcode == 2) && message.is_some() {
        rules.push(("message_inside_message", at));
    }
    if !rules.is_empty() {
        return (rules, 0);
    }

    let Some(&second) = frame.get(1) else {
        return (rules, 0);
    };
    match (law.masked, second & 0x80 != 0) {
        (true, false) => rules.push(("mask_missing", at)),
        (false, true) => rules.push(("mask_present", at)),
        (true, true) | (false, false) => {}
    }
    // Whether 126 announces a long frame or a length in too long a form: neither has a place in a control frame.
    if control && second & 0x7F > 125 {
        rules.push(("control_too_long", at));
    }
    if !rules.is_empty() {
        return (rules, 1);
    }

    let Some((len, shortest, proof)) = length(frame) else {
        return (rules, 0);
    };
    if len >> 63 != 0 {
        rules.push(("length_top_bit", at));
    }
    if !shortest {
        rules.push(("length_not_minimal", at));
    }
    if !control {
        let before = message.map_or(0, |m| m.payload.len() as u64);
        if len > law.max_frame_size {
            rules.push(("frame_too_big", law.max_frame_size));
        }
        let compressed = message.map_or(first & 0x40 != 0, |m| m.compressed);
        if !compressed && u128::from(before) + u128::from(len) > u128::from(law.max_message_size) {
            rules.push(("message_too_big", law.max_message_size));
        }
        if message.map_or(0, |m| m.fragments) + 1 > law.max_fragments {
            rules.push(("too_many_fragments", u64::from(law.max_fragments)));
        }
    }
    (rules, proof)
}

/// Length of the header, length of the payload, masking key (zeros where there is none).
fn header(frame: &[u8]) -> Option<(usize, u64, [u8; 4])> {
    let (len, _, last) = length(frame)?;
    if frame[1] & 0x80 == 0 {
        return Some((last + 1, len, [0; 4]));
    }
    let key = frame.get(last + 1..last + 5)?;
    Some((last + 5, len, [key[0], key[1], key[2], key[3]]))
}

/// The length, whether it is in its shortest form, and the index of its last byte.
fn length(frame: &[u8]) -> Option<(u64, bool, usize)> {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
    Some(match *frame.get(1)? & 0x7F {
        126 => {
            let len = number(frame.get(2..4)?);
            (len, len > 125, 3)
        }
        127 => {
            let len = number(frame.get(2..10)?);
            (len, len > 65535, 9)
        }
        len => (u64::from(len), true, 1),
    })
}

/// How many bytes are whole code points, and the index of the byte that no continuation can save.
fn look_at_text(text: &[u8]) -> (usize, Option<usize>) {
    let Err(error) = std::str::from_utf8(text) else {
        return (text.len(), None);
    };
    let valid = error.valid_up_to();
    let hopeless = |end: &usize| matches!(std::str::from_utf8(&text[valid..=*end]), Err(e) if e.error_len().is_some());
    (valid, (valid..text.len()).find(hopeless))
}

/// §7.4.1, §7.4.2 and the registry.
fn travels(code: u16) -> bool {
    match code {
        0..=999 => false,
        1004..=1006 | 1015 => false,
        1000..=1014 => true,
        1016..=2999 => false,
        3000..=4999 => true,
        5000.. => false,
    }
}
