//! The fields of a request that the log can have: which of them are written, and their values, kept as long as the connection lives.

use super::Excerpt;
use serde::Deserialize;
use std::fmt;

crate::with_all! {
    /// A field of a request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Field {
        /// The host that the client asked for.
        Host,
        /// The path, without the query.
        Path,
        /// The subprotocol that was agreed.
        Protocol,
        /// `Origin`.
        Origin,
        /// `User-Agent`.
        UserAgent,
        /// The id of the request, accepted or made.
        RequestId,
        /// `traceparent` (W3C Trace Context).
        Traceparent,
    }
}

impl Field {
    /// Its name in the configuration and in the log.
    pub const fn label(self) -> &'static str {
        match self {
            Field::Host => "host",
            Field::Path => "path",
            Field::Protocol => "protocol",
            Field::Origin => "origin",
            Field::UserAgent => "user_agent",
            Field::RequestId => "request_id",
            Field::Traceparent => "traceparent",
        }
    }
}

/// A set of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields(u8);

impl Fields {
    /// The set with this field.
    pub const fn with(self, field: Field) -> Self {
        Fields(self.0 | 1 << field as u8)
    }

    /// Whether the field is one of the set.
    pub const fn contains(self, field: Field) -> bool {
        self.0 & 1 << field as u8 != 0
    }
}

/// Most bytes of a value that are kept, escaped.
const MOST: usize = 200;

/// Ends a value. Escaped values hold no control character.
const END: char = '\n';

/// A value, escaped: what is longer than [`MOST`] then is cut.
fn shown(value: &[u8]) -> String {
    let mut shown = Excerpt(value, MOST).to_string();
    if shown.len() > MOST {
        // Escaped text is ASCII.
        shown.truncate(MOST);
        shown += "...";
    }
    shown
}

/// The values of some fields, escaped, in one allocation; none where there is no value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Details(Option<Box<str>>);

impl Details {
    /// The values of these fields, of those that have one.
    pub fn of<'a>(fields: Fields, value: impl Fn(Field) -> Option<&'a [u8]>) -> Self {
        let mut text = String::new();
        let wanted = Field::ALL.iter().filter(|field| fields.contains(**field));
        for field in wanted {
            if let Some(value) = value(*field).filter(|value| !value.is_empty()) {
                text.push(char::from(b'a' + *field as u8));
                text += &shown(value);
                text.push(END);
            }
        }
        Details((!text.is_empty()).then(|| text.into_boxed_str()))
    }

    /// The value of a field, if there is one.
    pub fn get(&self, field: Field) -> Option<&str> {
        let tag = char::from(b'a' + field as u8);
        let mut values = self.0.as_deref()?.split_terminator(END);
        values.find_map(|value| value.strip_prefix(tag))
    }
}

impl fmt::Debug for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = Field::ALL
            .iter()
            .filter_map(|field| Some((field.label(), self.get(*field)?)));
        f.debug_map().entries(values).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_kept_and_nothing_else() {
        let fields = Fields::default().with(Field::Path).with(Field::UserAgent);
        let details = Details::of(fields, |field| match field {
            Field::Host => Some(b"a.example"),
            Field::Path => Some(b"/a\nb\xff"),
            Field::UserAgent => Some(b""),
            _ => None,
        });
        assert_eq!(details.get(Field::Path), Some("/a\\nb\\xff"));
        for field in [Field::Host, Field::UserAgent, Field::Traceparent] {
            assert_eq!(details.get(field), None, "{field:?}");
        }
        let long = Details::of(fields, |_| Some(&[b'a'; 300]));
        assert_eq!(long.get(Field::Path).map(str::len), Some(MOST + 3));
        let escaped = Details::of(fields, |_| Some(&[0xff; 199]));
        assert_eq!(escaped.get(Field::Path).map(str::len), Some(MOST + 3));
        assert_eq!(
            Details::of(Fields::default(), |_| Some(b"a")),
            Details::default()
        );
    }
}
