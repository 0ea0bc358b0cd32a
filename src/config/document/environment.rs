//! References to environment variables in the strings of a configuration: `${NAME}` and `${NAME:-default}`, as shells and
//! Compose files have them; `$${` is a literal `${`.

use std::borrow::Cow;
use std::env::VarError;

/// Looks an environment variable up.
pub(in crate::config) type Lookup = dyn Fn(&str) -> Result<String, VarError>;

/// Looks a variable up in the environment of the process.
pub(in crate::config) fn of_process(name: &str) -> Result<String, VarError> {
    std::env::var(name)
}

/// A message and its remedy.
type Wrong = (String, String);

/// The text with its references replaced; `None` if it has none.
///
/// # Errors
/// A variable that is not set and has no default, or that is not UTF-8; a reference that is not closed or names nothing.
pub(super) fn replace(text: &str, environment: &Lookup) -> Result<Option<String>, Wrong> {
    if !text.contains("${") {
        return Ok(None);
    }
    let (mut replaced, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            replaced += before;
            replaced += "${";
            rest = &rest[at + 2..];
            continue;
        }
        replaced += &rest[..at];
        let Some((reference, behind)) = rest[at + 2..].split_once('}') else {
            let message = format!("`{}` is not closed", rest[at..].escape_debug());
            let help = "write ${NAME} or ${NAME:-default}; a literal `${` is written $${";
            return Err((message, help.to_owned()));
        };
        replaced += &value(reference, environment)?;
        rest = behind;
    }
    replaced += rest;
    Ok(Some(replaced))
}

/// The value of `NAME` or `NAME:-default`. As in a shell, the default also stands for an empty value.
fn value<'a>(reference: &'a str, environment: &Lookup) -> Result<Cow<'a, str>, Wrong> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let is_name = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !is_name {
        let message = format!(
            "`{}` is not the name of an environment variable",
            name.escape_debug()
        );
        let help = "write ${NAME} or ${NAME:-default}; a literal `${` is written $${";
        return Err((message, help.to_owned()));
    }
    match (environment(name), default) {
        (Ok(value), Some(default)) if value.is_empty() => Ok(Cow::Borrowed(default)),
        (Ok(value), _) => Ok(Cow::Owned(value)),
        (Err(VarError::NotPresent), Some(default)) => Ok(Cow::Borrowed(default)),
        (Err(VarError::NotPresent), None) => Err((
            format!("the environment variable `{name}` is not set"),
            format!("set it, or write a default: ${{{name}:-value}}"),
        )),
        (Err(VarError::NotUnicode(_)), _) => Err((
            format!("the value of the environment variable `{name}` is not UTF-8"),
            "set it to UTF-8 text".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> Result<Option<String>, Wrong> {
        replace(text, &|name| match name {
            "HOST" => Ok("10.0.0.5".to_owned()),
            "EMPTY" => Ok(String::new()),
            _ => Err(VarError::NotPresent),
        })
    }

    #[test]
    fn references_are_replaced() {
        for (text, expected) in [
            ("${HOST}:9000", "10.0.0.5:9000"),
            ("${HOST}${HOST}", "10.0.0.510.0.0.5"),
            ("${NONE:-a:-b}", "a:-b"),
            ("${NONE:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("$${HOST} ${HOST}", "${HOST} 10.0.0.5"),
            ("a $HOST $", "a $HOST $"),
        ] {
            let found = replaced(text).unwrap();
            assert_eq!(found.as_deref().unwrap_or(text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_an_error() {
        for (text, expected) in [
            ("${NONE}", "the environment variable `NONE` is not set"),
            ("a ${HOST", "`${HOST` is not closed"),
            ("${}", "`` is not the name of an environment variable"),
            ("${1A}", "`1A` is not the name of an environment variable"),
            (
                "${HOST-x}",
                "`HOST-x` is not the name of an environment variable",
            ),
        ] {
            assert_eq!(replaced(text).unwrap_err().0, expected);
        }
    }
}
