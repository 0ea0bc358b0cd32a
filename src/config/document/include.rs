//! The files that `include` names.

use super::environment::{self, Lookup};
use crate::config::error::{Error, Errors};
use crate::config::source::Source;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, ValueDeserializer};

/// Text without the byte order mark that some editors put at the begin of a file; no column counts it.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The first file and the files that it includes. Their paths are relative to `directory`.
///
/// # Errors
/// All patterns of `include` that name nothing, and all files that cannot be read.
pub(in crate::config) fn read_files(
    name: &str,
    text: &str,
    directory: &Path,
    environment: &Lookup,
) -> Result<Source, Errors> {
    let text = without_mark(text);
    let (mut source, mut errors) = (Source::new(name, text), Vec::new());
    // Mistakes of syntax are reported when all files are read.
    let (tree, _) = DeTable::parse_recoverable(text);
    let mut tree = tree.into_inner();
    let Some(written) = tree.remove("include") else {
        return Ok(source);
    };
    let patterns = Vec::<Spanned<String>>::deserialize(ValueDeserializer::from(written))
        .map_err(|error| source.read_error(&error, 0))?;
    // A file that two patterns match is read once.
    let mut seen = BTreeSet::new();
    for pattern in patterns {
        let refuse = |(message, help): (String, String)| -> Error {
            source.error(pattern.span(), message, help)
        };
        let text = environment::replace(pattern.get_ref(), environment)
            .map(|replaced| replaced.unwrap_or_else(|| pattern.get_ref().clone()));
        let files = text.and_then(|text| matching(directory, &text));
        let files = match files {
            Ok(files) => files,
            Err(wrong) => {
                errors.push(refuse(wrong));
                continue;
            }
        };
        let mut read = Vec::new();
        for file in files {
            if !seen.insert(file.clone()) {
                continue;
            }
            match contents(&file) {
                Ok(text) => read.push((file, text)),
                Err(wrong) => errors.push(refuse(wrong)),
            }
        }
        for (file, text) in read {
            source.add(&file.display().to_string(), without_mark(&text));
        }
    }
    match Errors::of(errors) {
        Some(errors) => Err(errors),
        None => Ok(source),
    }
}

/// The files that a pattern matches, sorted by name. A pattern with `*`, `?` or `[` may match none.
fn matching(directory: &Path, pattern: &str) -> Result<Vec<PathBuf>, (String, String)> {
    let shown = pattern.escape_debug();
    if !pattern.contains(['*', '?', '[']) {
        return Ok(vec![directory.join(pattern)]);
    }
    let whole = glob::Pattern::escape(&directory.display().to_string());
    let whole = match Path::new(pattern).is_absolute() {
        true => PathBuf::from(pattern),
        false => Path::new(&whole).join(pattern),
    };
    let help = "write the path of a file, or a pattern: \"conf.d/*.toml\"".to_owned();
    let paths = glob::glob(&whole.display().to_string())
        .map_err(|error| (format!("`{shown}` is not a pattern: {}", error.msg), help))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| {
            let help = "the user that runs wsgate has to be able to read the directory";
            (
                format!("`{shown}` cannot be searched: {error}"),
                help.to_owned(),
            )
        })?;
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn contents(file: &Path) -> Result<String, (String, String)> {
    let name = file.display();
    match std::fs::read(file).map(String::from_utf8) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => {
            let at = error.utf8_error().valid_up_to();
            let message = format!("`{name}` is not UTF-8 at byte {at}");
            Err((message, "save it as UTF-8".to_owned()))
        }
        Err(error) => {
            let help = "`include` names files relative to the directory of this file";
            Err((format!("`{name}` cannot be read: {error}"), help.to_owned()))
        }
    }
}
