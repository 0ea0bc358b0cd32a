//! Compressed messages for the tests of a relay.

use super::*;
use crate::frame::deflate::{DeflateParams as Window, TAIL};
use zlib_rs::{Deflate as Deflater, DeflateFlush};

/// What both sides agreed on, where messages share a window or do not.
pub(super) fn agreed(takeover: bool) -> Option<Deflate> {
    let terms = Window {
        takeover,
        ..Window::default()
    };
    Some(Deflate {
        client: terms,
        server: terms,
    })
}

/// A whole binary message that inflates to so many zeros, and refers to nothing before it.
pub(super) fn zeros(from: Side, count: usize) -> Vec<u8> {
    let mut deflater = Deflater::new(9, false, 15);
    let mut out = vec![0; count / 100 + 100];
    let status = deflater.compress(&vec![0; count], &mut out, DeflateFlush::SyncFlush);
    status.expect("it compresses");
    out.truncate(deflater.total_out() as usize);
    assert!(out.ends_with(&TAIL));
    out.truncate(out.len() - TAIL.len());
    frame(from, 0xc2, &out)
}
