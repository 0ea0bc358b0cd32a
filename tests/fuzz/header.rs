//! The header decoder against the definition of §5.2, read bit by bit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wsgate::frame::header::{self, First, MAX_LEN, Second};

fuzz_target!(|bytes: &[u8]| {
    let bit = |i: usize| bytes[i / 8] >> (7 - i % 8) & 1;
    let number = |from: usize, to: usize| (from..to).fold(0, |n, i| n << 1 | u64::from(bit(i)));
    if bytes.len() < 2 {
        assert_eq!(header::decode(bytes), None);
        return;
    }
    let first = First(bytes[0]);
    assert_eq!(first.fin(), bit(0) == 1);
    assert_eq!(u64::from(first.rsv()), number(1, 4));
    let opcode = number(4, 8);
    assert_eq!(first.is_control(), opcode >= 8);
    assert_eq!(
        first.opcode().is_some(),
        [0, 1, 2, 8, 9, 10].contains(&opcode)
    );

    let masked = bit(8) == 1;
    let (length_end, smallest) = match number(9, 16) {
        126 => (4, 126),
        127 => (10, 65536),
        _ => (2, 0),
    };
    let len = length_end + if masked { 4 } else { 0 };
    assert_eq!(Second(bytes[1]).header_len(), len);
    let there = bytes.len() >= length_end;
    let length = header::payload_len(bytes);
    assert_eq!(length.is_some(), there);
    let decoded = header::decode(bytes);
    assert_eq!(decoded.is_some(), bytes.len() >= len);
    let Some(length) = length else { return };
    let value = if length_end == 2 {
        number(9, 16)
    } else {
        number(16, length_end * 8)
    };
    assert_eq!(length.value, value);
    assert_eq!(length.minimal, value >= smallest);
    let Some(decoded) = decoded else { return };
    assert_eq!((decoded.payload_len, decoded.len), (value, len));
    assert_eq!(decoded.mask.is_some(), masked);

    // Written again it is the same, unless it was in a form that is never written.
    let Some(opcode) = first.opcode() else { return };
    if length.minimal && first.fin() && first.rsv() == 0 {
        let mut out = [0; MAX_LEN];
        let end = header::encode(opcode, value, decoded.mask, &mut out);
        assert_eq!(out[..end], bytes[..len]);
    }
});
