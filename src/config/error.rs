//! Errors of a configuration: the mistake, its place, and the remedy.

use super::wording;
use std::fmt;
use std::ops::Range;

/// One mistake. Its `Display` is what the user sees:
///
/// ```text
/// error: unknown key `max_mesage_size`
///   --> wsgate.toml:12:1
///    |
/// 12 | max_mesage_size = "1MiB"
///    | ^^^^^^^^^^^^^^^
///    = help: did you mean `max_message_size`?
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) place: Option<Place>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    text: String,
    /// In characters, at least 1.
    width: usize,
}

impl Error {
    /// A mistake that has no place in a file.
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Error {
            message: message.into(),
            help: Some(help.into()),
            place: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let mut margin = 2;
        if let Some(place) = &self.place {
            let number = place.line.to_string();
            margin = number.len();
            // Tabs stay tabs, so that the caret stands below its character however wide they are shown.
            let indent: String = place
                .text
                .chars()
                .take(place.column - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            write!(
                f,
                "\n{:margin$}--> {}:{}:{}",
                "", place.file, place.line, place.column
            )?;
            write!(f, "\n{:margin$} |", "")?;
            write!(f, "\n{number} | {}", place.text)?;
            write!(f, "\n{:margin$} | {indent}{}", "", "^".repeat(place.width))?;
        }
        match &self.help {
            Some(help) => write!(f, "\n{:margin$} = help: {help}", ""),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// A file while it is read: its name and its text.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

impl Source<'_> {
    /// A mistake at this range of bytes.
    pub(super) fn error(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Error {
        Error {
            message: message.into(),
            help: Some(help.into()),
            place: Some(self.place(span)),
        }
    }

    /// The number of the line in which a byte is, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.place(at..at).line
    }

    fn place(&self, span: Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(span.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.text[start..]
            .find('\n')
            .map_or(self.text.len(), |at| start + at);
        // A line of a file with CRLF ends before the CR; an error of the reader may point at the CR or behind it.
        let shown = self.text[line_start..line_end].trim_end_matches('\r');
        let end = self
            .text
            .floor_char_boundary(span.end)
            .clamp(start, start.max(line_start + shown.len()));
        Place {
            file: self.name.to_owned(),
            line: self.text[..start].matches('\n').count() + 1,
            column: self.text[line_start..start].chars().count() + 1,
            text: shown.to_owned(),
            width: self.text[start..end].chars().count().max(1),
        }
    }

    /// An error of the TOML reader, in the words of wsgate.
    pub(super) fn read_error(&self, error: &toml::de::Error) -> Error {
        let end = self.text.len();
        let place = self.place(error.span().unwrap_or(end..end));
        let (message, help) = wording::of(error.message(), &place.text);
        Error {
            message,
            help: Some(help),
            place: Some(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_below_its_character() {
        let text = "a = 1\n\tnäme = \"ü\" # x\n";
        let source = Source {
            name: "x.toml",
            text,
        };
        let at = text.find('"').unwrap();
        let error = source.error(at..at + 4, "no", "yes");
        let expected = "error: no\n --> x.toml:2:9\n  |\n2 | \tnäme = \"ü\" # x\n  | \t       ^^^\n  = help: yes";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_place_beyond_the_end_is_the_end() {
        let source = Source {
            name: "x.toml",
            text: "a = ",
        };
        let place = source.place(4..9);
        assert_eq!((place.line, place.column, place.width), (1, 5, 1));
    }
}
