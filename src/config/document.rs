//! The files of a configuration as one tree of TOML values: included files are merged in, references to the environment
//! are replaced, and mistakes of form are collected.
//!
//! Nothing here knows what a key means.

mod environment;
mod include;

pub(super) use environment::{Lookup, of_process};
pub(super) use include::read_files;

use super::error::{Error, Errors, MOST};
use super::source::Source;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue, Deserializer};

/// The keys of lists of tables, to which the tables of an included file are appended.
const LISTS: [&str; 2] = ["listener", "route"];

/// All files of a configuration together.
#[derive(Debug)]
pub(super) struct Document<'s> {
    source: &'s Source,
    table: DeTable<'s>,
    /// The strings in which a reference to the environment was replaced, by their position.
    replaced: HashMap<usize, String>,
}

impl<'s> Document<'s> {
    /// The tree of all files of `source`.
    ///
    /// # Errors
    /// Mistakes of syntax, references to the environment that cannot be replaced, and keys of included files
    /// that are there already.
    pub(super) fn new(source: &'s Source, environment: &Lookup) -> Result<Document<'s>, Errors> {
        let mut document = Document {
            source,
            table: DeTable::new(),
            replaced: HashMap::new(),
        };
        let mut errors = Vec::new();
        for (index, (text, base)) in source.texts().enumerate() {
            let (table, mut mistakes) = DeTable::parse_recoverable(text);
            mistakes.sort_by_key(|mistake| mistake.span().map(|span| span.start));
            let mut before = None;
            for mistake in &mistakes {
                let error = source.read_error(mistake, base);
                let line = error.place.as_ref().map_or(0, |place| place.line);
                // An error in the same line or the next may be a consequence of this one: a list may be unclosed.
                let follows = before.is_some_and(|before| line <= before + 1);
                before = Some(line);
                if !follows {
                    errors.push(error);
                }
            }
            for (key, mut value) in shifted(table.into_inner(), base) {
                match (key.get_ref().as_ref(), index) {
                    // `include::read_files` has read it.
                    ("include", 0) => {}
                    ("include", _) => {
                        let message = "an included file cannot include others";
                        let help = "list the file in `include` of the first file";
                        errors.push(source.error(key.span(), message, help));
                    }
                    _ => {
                        document.replace(&mut value, environment, &mut errors);
                        document.add(key, value, &mut errors);
                    }
                }
            }
        }
        match Errors::of(errors) {
            Some(errors) => Err(errors),
            None => Ok(document),
        }
    }

    /// Replaces the references to the environment in the strings of a value.
    fn replace(
        &mut self,
        value: &mut Spanned<DeValue<'s>>,
        environment: &Lookup,
        errors: &mut Vec<Error>,
    ) {
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) => match environment::replace(text, environment) {
                Ok(None) => {}
                Ok(Some(replaced)) => {
                    *text = DeString::Owned(replaced.clone());
                    self.replaced.insert(span.start, replaced);
                }
                Err((message, help)) => errors.push(self.source.error(span, message, help)),
            },
            DeValue::Array(values) => {
                for value in values.iter_mut() {
                    self.replace(value, environment, errors);
                }
            }
            DeValue::Table(table) => {
                for (_, value) in table.iter_mut() {
                    self.replace(value, environment, errors);
                }
            }
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }

    /// Adds one top-level key of a file. Lists of tables (`[[route]]`) are appended, named tables (`[upstream.NAME]`) join
    /// the others; any other key has one place.
    fn add(
        &mut self,
        key: Spanned<DeString<'s>>,
        value: Spanned<DeValue<'s>>,
        errors: &mut Vec<Error>,
    ) {
        let source = self.source;
        let twice = |key: &Spanned<DeString<'_>>, first: Range<usize>| {
            let message = format!("`{}` is in two files", key.get_ref().escape_debug());
            let first = source.line(first.start);
            let help = format!("the first is in {first}; remove one of them");
            source.error(key.span(), message, help)
        };
        let name = key.get_ref().as_ref();
        let Some((there, _)) = self.table.get_key_value(name) else {
            self.table.insert(key, value);
            return;
        };
        let first = there.span();
        let Some(there) = self.table.get_mut(name) else {
            return;
        };
        match (there.get_mut(), value.into_inner()) {
            (DeValue::Array(all), DeValue::Array(more)) if LISTS.contains(&name) => {
                for value in more {
                    all.push(value);
                }
            }
            (DeValue::Table(all), DeValue::Table(more)) if name == "upstream" => {
                for (name, upstream) in more {
                    match all.get_key_value(name.get_ref().as_ref()) {
                        Some((first, _)) => errors.push(twice(&name, first.span())),
                        None => {
                            all.insert(name, upstream);
                        }
                    }
                }
            }
            (_, _) => errors.push(twice(&key, first)),
        }
    }

    /// Reads the tree as a `T`. A key or value that does not fit is reported and left out, so that the others are read.
    pub(super) fn read<T: DeserializeOwned>(&self) -> (Option<T>, Vec<Error>) {
        let (mut table, mut errors) = (self.table.clone(), Vec::new());
        loop {
            let root = Spanned::new(0..0, table.clone());
            let error = match T::deserialize(Deserializer::from(root)) {
                Ok(file) => return (Some(file), errors),
                Err(error) => error,
            };
            let span = error.span();
            if let Some(span) = &span
                && let Some(typed) = self.replaced.get(&span.start)
                && let Some(typed) = number_or_flag(typed)
                && let Some(value) = find(&mut table, span)
                && value.get_ref().is_str()
            {
                *value.get_mut() = typed;
                continue;
            }
            errors.push(self.source.read_error(&error, 0));
            if errors.len() > MOST || !span.is_some_and(|span| remove(&mut table, &span)) {
                return (None, errors);
            }
        }
    }
}

/// The number or boolean that the text of an environment variable is: a reference stands in quotes, even if its key has
/// a number.
fn number_or_flag(text: &str) -> Option<DeValue<'_>> {
    let value = DeValue::parse(text).ok()?.into_inner();
    (value.is_integer() || value.is_bool()).then_some(value)
}

/// The value that is written at `span`.
fn find<'t, 's>(
    table: &'t mut DeTable<'s>,
    span: &Range<usize>,
) -> Option<&'t mut Spanned<DeValue<'s>>> {
    fn within<'t, 's>(
        value: &'t mut Spanned<DeValue<'s>>,
        span: &Range<usize>,
    ) -> Option<&'t mut Spanned<DeValue<'s>>> {
        if value.span() == *span {
            return Some(value);
        }
        match value.get_mut() {
            DeValue::Table(table) => find(table, span),
            DeValue::Array(values) => values.iter_mut().find_map(|value| within(value, span)),
            _ => None,
        }
    }
    table.iter_mut().find_map(|(_, value)| within(value, span))
}

/// Removes what is written at `span`, a key with its value or a value. Returns false if nothing is.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    fn remove_within(value: &mut DeValue<'_>, span: &Range<usize>) -> bool {
        match value {
            DeValue::Table(table) => remove(table, span),
            DeValue::Array(values) if values.iter().any(|value| value.span() == *span) => {
                let kept = std::mem::replace(values, DeArray::new()).into_iter();
                *values = kept.filter(|value| value.span() != *span).collect();
                true
            }
            DeValue::Array(values) => values
                .iter_mut()
                .any(|value| remove_within(value.get_mut(), span)),
            _ => false,
        }
    }
    let found = table
        .iter()
        .find(|(key, value)| key.span() == *span || value.span() == *span);
    if let Some(name) = found.map(|(key, _)| key.get_ref().clone()) {
        return table.remove(name.as_ref()).is_some();
    }
    table
        .iter_mut()
        .any(|(_, value)| remove_within(value.get_mut(), span))
}

/// The same table with each position moved by `base`.
fn shifted(table: DeTable<'_>, base: usize) -> DeTable<'_> {
    let moved = |span: Range<usize>| span.start + base..span.end + base;
    let entries = table.into_iter().map(|(key, value)| {
        let key = Spanned::new(moved(key.span()), key.into_inner());
        (key, shifted_value(value, base))
    });
    entries.collect()
}

fn shifted_value(value: Spanned<DeValue<'_>>, base: usize) -> Spanned<DeValue<'_>> {
    let span = value.span().start + base..value.span().end + base;
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shifted(table, base)),
        DeValue::Array(values) => {
            let values = values.into_iter().map(|value| shifted_value(value, base));
            DeValue::Array(values.collect())
        }
        value => value,
    };
    Spanned::new(span, value)
}
