//! Names in the paths of the admin API (RFC 3986 §2.1): an upstream may be called anything.

use std::fmt::Write;

/// A name as one segment of a path.
pub fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The name that a segment of a path stands for; `None` where that is not UTF-8, or a `%` without its two digits.
pub(super) fn decode(segment: &str) -> Option<String> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_comes_back() {
        for (name, encoded) in [
            ("chat", "chat"),
            ("a/b", "a%2Fb"),
            ("a b", "a%20b"),
            ("50%", "50%25"),
            ("what?#", "what%3F%23"),
            ("größe", "gr%C3%B6%C3%9Fe"),
            ("%2F", "%252F"),
            ("..", ".."),
            ("+", "%2B"),
        ] {
            assert_eq!(encode(name), encoded);
            assert_eq!(decode(encoded).as_deref(), Some(name));
        }
        assert_eq!(decode("a%2fb").as_deref(), Some("a/b"));
        for wrong in ["%", "a%2", "%zz", "%+1", "%FF", "%C3"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
