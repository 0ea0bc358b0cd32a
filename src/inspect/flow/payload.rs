//! The rules for payload: text, compressed messages, Close frames; and the Pongs that may answer wsgate's own Pings.

use super::state::{Form, MessageState, Payload};
use crate::frame::close;
use crate::frame::header::MAX_CONTROL_PAYLOAD;
use crate::frame::ping;
use crate::inspect::inflation::{Content, InflateLimits, Inflation, Progress};
use crate::inspect::{Block, Kind, Mode, Place, Rules, Violation};

/// A violation in a chunk of payload.
pub(super) struct ChunkViolation {
    pub violation: Violation,
    /// How many bytes of the chunk come before it and are proven; `None` where this is not known.
    pub proven: Option<usize>,
}

/// Inspects a chunk of uncompressed text.
#[inline(always)]
pub(super) fn inspect_text(
    content: &mut Content,
    payload: &mut Payload,
    chunk: &[u8],
    block: &mut Block,
) -> Result<(), ChunkViolation> {
    let invalid = |len: u64, proven: usize| ChunkViolation {
        violation: Violation::new(Kind::TextNotUtf8, Place::Message(len + proven as u64)),
        proven: Some(proven),
    };
    match &mut payload.mask {
        None => content
            .utf8
            .feed(chunk)
            .map_err(|at| invalid(content.len, at))?,
        Some(mask) => {
            for (i, piece) in chunk.chunks(Block::LEN).enumerate() {
                let result = if content.utf8.is_complete() && mask.is_ascii(piece) {
                    mask.advance(piece.len());
                    Ok(())
                } else {
                    mask.apply_to(piece, &mut block.copy[..]);
                    content.utf8.feed(&block.copy[..piece.len()])
                };
                result.map_err(|at| invalid(content.len, i * Block::LEN + at))?;
            }
        }
    }
    content.len += chunk.len() as u64;
    Ok(())
}

/// Inflates a chunk of a message with reserved bits, as far as the budget goes, and inspects the inflated bytes: how much of the chunk
/// was used, and what is wrong. Which byte of the chunk brings out a wrong one is not known, so nothing of it is proven then.
#[inline(never)]
pub(super) fn inspect_compressed(
    inflation: &mut Inflation,
    message: &mut MessageState,
    rules: &Rules,
    payload: &mut Payload,
    chunk: &[u8],
    block: &mut Block,
) -> (usize, Result<(), ChunkViolation>) {
    let (used, found) = match message.form {
        Form::Plain | Form::Inflated | Form::Opaque => (chunk.len(), inflation.take_owed()),
        Form::Compressed => {
            let fin = payload.fin && payload.remaining == chunk.len() as u64;
            let limits = InflateLimits {
                limit: rules.max_message_size,
                observing: rules.mode == Mode::Observe,
            };
            let mask = payload.mask.as_mut();
            let content = &mut message.content;
            let fed = inflation.feed(chunk, mask, fin, content, limits, block);
            message.form = match fed.progress {
                Progress::UnderWay => Form::Compressed,
                Progress::Whole => Form::Inflated,
                Progress::Lost => Form::Opaque,
            };
            (fed.used, fed.found)
        }
    };
    let result = found.map_or(Ok(()), |violation| {
        Err(ChunkViolation {
            violation,
            proven: None,
        })
    });
    (used, result)
}

/// A Close frame that breaks a rule.
pub(super) struct InvalidClose {
    pub violation: Violation,
    /// Its code, where that is valid.
    pub code: Option<u16>,
}

/// The code of a complete Close frame, which begins at byte `begin` of the stream.
pub(super) fn read_close(
    payload: &Payload,
    frame: &[u8],
    begin: u64,
) -> Result<Option<u16>, InvalidClose> {
    let mut copy = [0; MAX_CONTROL_PAYLOAD as usize];
    let copy = &mut copy[..payload.len as usize];
    copy.copy_from_slice(&frame[frame.len() - payload.len as usize..]);
    if let Some(mut mask) = payload.mask {
        mask.apply(copy);
    }
    let (kind, place, code) = match close::parse(copy) {
        Ok(close) => return Ok(close.code),
        Err(close::Malformed::OneByte) => (Kind::CloseOneByte, Place::Frame(begin), None),
        Err(close::Malformed::Code(code)) => (Kind::CloseCode, Place::CloseCode(code), None),
        Err(close::Malformed::Reason(_)) => {
            let code = close::code(copy);
            (Kind::CloseReasonNotUtf8, Place::Frame(begin), code)
        }
    };
    let violation = Violation::new(kind, place);
    Err(InvalidClose { violation, code })
}

/// The payload of a complete Pong, if it is as long as those of wsgate's own Pings.
pub(super) fn read_pong(payload: &Payload, frame: &[u8]) -> Option<[u8; ping::LEN]> {
    let mut copy: [u8; ping::LEN] = *frame.last_chunk()?;
    if payload.len != ping::LEN as u64 {
        return None;
    }
    if let Some(mut mask) = payload.mask {
        mask.apply(&mut copy);
    }
    Some(copy)
}
