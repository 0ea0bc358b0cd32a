//! Errors of a configuration: the mistake, its place, and the remedy.

use std::fmt;

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
    pub(super) place: Option<Box<Place>>,
    /// Whether the mistake is that something is not there.
    pub(super) is_absence: bool,
    /// Whether it is about this machine: a file, a user. The same configuration may be good on another one.
    pub(super) is_local: bool,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub text: String,
    /// In characters, at least 1.
    pub width: usize,
    /// The position among all files, by which mistakes are sorted.
    pub at: usize,
}

impl Error {
    /// A mistake that has no place in a file.
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Error {
            message: message.into(),
            help: Some(help.into()),
            place: None,
            is_absence: false,
            is_local: false,
        }
    }

    /// The same mistake, as one about this machine.
    pub(super) fn local(self) -> Self {
        Error {
            is_local: true,
            ..self
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

/// The mistakes of a configuration, in the order of their places; at least one. Its `Display` shows the first twenty, with an empty line
/// between two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Error>);

/// More than these would not be read, and each has to be found.
pub(super) const MOST: usize = 20;

impl Errors {
    /// `None` if there is no mistake.
    pub(super) fn of(mut errors: Vec<Error>) -> Option<Errors> {
        errors.sort_by_key(|error| error.place.as_ref().map(|place| place.at));
        errors.dedup();
        (!errors.is_empty()).then_some(Errors(errors))
    }
}

impl From<Error> for Errors {
    fn from(error: Error) -> Self {
        Errors(vec![error])
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().take(MOST).enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{error}")?;
        }
        // `document` gives up after these, so their number is not known.
        match self.0.len() > MOST {
            true => f.write_str("\n\nerror: more mistakes are not shown"),
            false => Ok(()),
        }
    }
}

impl std::error::Error for Errors {}
