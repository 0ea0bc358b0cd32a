//! The files of a configuration while it is read: their names, their texts, and the place of every byte.
//!
//! The files share one range of positions: the first file begins at 0, each other file behind the end of the one before
//! it. So a span says which file it is in.

use super::error::{Error, Place};
use super::wording;
use std::ops::Range;

/// One file.
#[derive(Debug)]
struct Text {
    name: String,
    text: String,
    /// The position of its first byte.
    start: usize,
}

/// All files of a configuration, the one that the command line names first. There is at least one.
#[derive(Debug)]
pub(super) struct Source {
    files: Vec<Text>,
}

impl Source {
    pub(super) fn new(name: &str, text: &str) -> Source {
        let mut source = Source { files: Vec::new() };
        source.add(name, text);
        source
    }

    /// Adds a file.
    pub(super) fn add(&mut self, name: &str, text: &str) {
        // One more than its length, so that the end of a file is not the begin of the next.
        let start = self
            .files
            .last()
            .map_or(0, |last| last.start + last.text.len() + 1);
        self.files.push(Text {
            name: name.to_owned(),
            text: text.to_owned(),
            start,
        });
    }

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
            place: Some(Box::new(self.place(span))),
            is_absence: false,
            is_local: false,
        }
    }

    /// The mistake that a table, or the file, lacks a key. Such a mistake is not reported beside a mistake in the form of
    /// a key, because it may be that key that is lacking.
    pub(super) fn absent(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Error {
        Error {
            is_absence: true,
            ..self.error(span, message, help)
        }
    }

    /// The line in which a byte is, to be named in a sentence: `line 7`, or `line 7 of conf.d/chat.toml` if there are
    /// several files.
    pub(super) fn line(&self, at: usize) -> String {
        let place = self.place(at..at);
        match self.files.len() {
            1 => format!("line {}", place.line),
            _ => format!("line {} of {}", place.line, place.file),
        }
    }

    /// File and line of a byte, before a warning: `wsgate.toml:7`.
    pub(super) fn file_and_line(&self, at: usize) -> String {
        let place = self.place(at..at);
        format!("{}:{}", place.file, place.line)
    }

    /// The text of each file, and the position of its first byte.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.files
            .iter()
            .map(|file| (file.text.as_str(), file.start))
    }

    fn file(&self, at: usize) -> &Text {
        let index = self.files.partition_point(|file| file.start <= at);
        &self.files[index.saturating_sub(1)]
    }

    fn place(&self, span: Range<usize>) -> Place {
        let file = self.file(span.start);
        let text = file.text.as_str();
        let start = text.floor_char_boundary(span.start - file.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        // A line of a file with CRLF ends before the CR; an error of the reader may point at the CR or behind it.
        let shown = text[line_start..line_end].trim_end_matches('\r');
        let end = text
            .floor_char_boundary(span.end.saturating_sub(file.start))
            .clamp(start, start.max(line_start + shown.len()));
        Place {
            file: file.name.clone(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            text: shown.to_owned(),
            width: text[start..end].chars().count().max(1),
            at: span.start,
        }
    }

    /// An error of the TOML reader, in the words of wsgate. `base` is the position that the reader's positions count from.
    pub(super) fn read_error(&self, error: &toml::de::Error, base: usize) -> Error {
        let file = self.file(base);
        let end = file.start + file.text.len();
        let span = error
            .span()
            .map_or(end..end, |span| base + span.start..base + span.end);
        let line = self.place(span.clone()).text;
        let (message, help) = wording::of(error.message(), &line);
        self.error(span, message, help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_below_its_character() {
        let text = "a = 1\n\tnäme = \"ü\" # x\n";
        let source = Source::new("x.toml", text);
        let at = text.find('"').unwrap();
        let error = source.error(at..at + 4, "no", "yes");
        let expected = "error: no\n --> x.toml:2:9\n  |\n2 | \tnäme = \"ü\" # x\n  | \t       ^^^\n  = help: yes";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_place_beyond_the_end_is_the_end() {
        let place = Source::new("x.toml", "a = ").place(4..9);
        assert_eq!((place.line, place.column, place.width), (1, 5, 1));
    }

    #[test]
    fn each_position_is_in_one_file() {
        let mut source = Source::new("a.toml", "a = 1\n");
        source.add("b.toml", "\nb = 2");
        let base = "a = 1\n".len() + 1;
        assert_eq!(source.file_and_line(0), "a.toml:1");
        assert_eq!(source.file_and_line(base - 1), "a.toml:2");
        assert_eq!(source.line(base), "line 1 of b.toml");
        assert_eq!(source.line(base + 6), "line 2 of b.toml");
    }
}
