//! Messages of serde and of the TOML reader in the words of this project, and suggestions of what was probably meant.
//!
//! Every message has a remedy: a message that this file does not know is passed on with a pointer to the reference.

use strsim::levenshtein;

/// Splits `said` into what is wrong and what would be right. `line` is the line of the file at which it was said.
pub(super) fn of(said: &str, line: &str) -> (String, String) {
    let (first, rest) = said.split_once('\n').unwrap_or((said, ""));
    if let Some(unknown) = unknown(said) {
        return unknown;
    }
    if let Some(wrong) = wrong_type(first, rest, line) {
        return wrong;
    }
    let help = match first {
        _ if !rest.is_empty() => rest,
        "duplicate key" if line.trim_start().starts_with('[') => {
            "it is above already; several listeners or routes have double brackets: [[listener]], [[route]]"
        }
        "duplicate key" => "it is above already, in the same table; remove one of them",
        _ => syntax(first),
    };
    (first.to_owned(), help.replace('\n', "; "))
}

/// A key or a value that nobody knows, and those that there are.
fn unknown(said: &str) -> Option<(String, String)> {
    for (what, kind) in [("unknown field `", "key"), ("unknown variant `", "value")] {
        if let Some((wrong, expected)) = said
            .strip_prefix(what)
            .and_then(|rest| rest.split_once('`'))
        {
            let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
            return Some((
                format!("unknown {kind} `{}`", wrong.escape_debug()),
                suggestion(wrong, &known),
            ));
        }
    }
    None
}

/// A value of another type than its key has.
fn wrong_type(said: &str, rest: &str, line: &str) -> Option<(String, String)> {
    if said == "wanted string or table" {
        // Only the keys with a list of values are read in this way.
        let help = "write one of the values of this key in quotes; conf/reference.toml names them";
        return Some(("expected a string".to_owned(), help.to_owned()));
    }
    let (found, expected) = said
        .strip_prefix("invalid type: ")?
        .rsplit_once(", expected ")?;
    let number = found
        .strip_prefix("integer `")
        .or(found.strip_prefix("floating point `"));
    let number = number.and_then(|rest| rest.split('`').next());
    if found.contains("` as ") {
        let number = number.unwrap_or_default();
        let help = format!("the largest is {}", i64::MAX);
        return Some((format!("the number `{number}` is too large"), help));
    }
    let found = match (number, found) {
        (Some(number), _) => format!("the number `{number}`"),
        (None, "sequence") => "a list".to_owned(),
        (None, "map") => "a table".to_owned(),
        (None, other) => format!("the {other}"),
    };
    let header = line.trim().trim_start_matches('[').split(']').next();
    let (expected, help) = match expected {
        "a string" => ("a string", "write it in quotes: \"...\"".to_owned()),
        "i64" => (
            "a whole number",
            "write it without quotes and without a point: 1024".to_owned(),
        ),
        "a sequence" if line.trim_start().starts_with('[') => {
            let help = match header {
                Some(name @ ("listener" | "route")) => {
                    format!("write [[{name}]] with double brackets: there may be several")
                }
                _ => "write it as a list: NAME = [\"...\"]".to_owned(),
            };
            ("a list", help)
        }
        "a sequence" => ("a list", "write it in brackets: [\"...\"]".to_owned()),
        "a map" => (
            "a table",
            "write [upstream.NAME], and its `servers` below".to_owned(),
        ),
        // The keys with a form of their own say it in a second line.
        other => (other, rest.to_owned()),
    };
    let help = if help.is_empty() {
        REFERENCE.to_owned()
    } else {
        help
    };
    Some((format!("expected {expected}, found {found}"), help))
}

/// The remedy for invalid TOML.
fn syntax(said: &str) -> &'static str {
    const HINTS: &[(&str, &str)] = &[
        (
            "string values must be quoted",
            "write it in quotes: \"...\"",
        ),
        ("key with no value", "write KEY = VALUE, one on each line"),
        (
            "unexpected key or value",
            "write KEY = VALUE, one on each line",
        ),
        ("unquoted keys", "write KEY = VALUE, one on each line"),
        (
            "missing comma",
            "put a comma between the elements, and close the list: [\"a\", \"b\"]",
        ),
        ("unclosed array", "close the list: [\"a\", \"b\"]"),
        ("unclosed table", "close the header: [NAME] or [[NAME]]"),
        ("unclosed array of tables", "close the header: [[NAME]]"),
        (
            "invalid basic string",
            "close the string with `\"`, on the same line",
        ),
        (
            "invalid literal string",
            "close the string with `'`, on the same line",
        ),
        ("missing escaped value", "write a backslash as `\\\\`"),
        ("unexpected leading zero", "write the number without it"),
    ];
    let hint = HINTS.iter().find(|(start, _)| said.starts_with(start));
    hint.map_or(REFERENCE, |(_, help)| help)
}

const REFERENCE: &str = "conf/reference.toml shows how each key is written";

/// "did you mean" the nearest of `known`, and what else there is.
pub(super) fn suggestion(wrong: &str, known: &[&str]) -> String {
    let list = known
        .iter()
        .map(|name| format!("`{}`", name.escape_debug()))
        .collect::<Vec<_>>()
        .join(", ");
    let nearest = known.iter().min_by_key(|name| levenshtein(wrong, name));
    match nearest {
        // Nearer than a third of its letters: a typo, not another word.
        Some(nearest) if levenshtein(wrong, nearest) <= nearest.chars().count() / 3 + 1 => {
            format!(
                "did you mean `{}`? there are: {list}",
                nearest.escape_debug()
            )
        }
        _ => format!("there are: {list}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_typos_are_suggested() {
        assert!(suggestion("mod", &["mode", "path"]).starts_with("did you mean `mode`?"));
        assert_eq!(
            suggestion("zebra", &["mode", "path"]),
            "there are: `mode`, `path`"
        );
    }

    #[test]
    fn what_is_quoted_in_a_sentence_does_not_cut_it() {
        let (message, _) = of("unknown field `a\nb`, expected `ab` or `c`", "");
        assert_eq!(message, "unknown key `a\\nb`");
        let (message, _) = of("invalid type: string \"a, expected b\", expected i64", "");
        assert_eq!(
            message,
            "expected a whole number, found the string \"a, expected b\""
        );
    }

    #[test]
    fn a_sentence_that_nobody_knows_is_passed_on() {
        let (message, help) = of("the moon is wrong", "a = 1");
        assert_eq!(
            (message.as_str(), help.as_str()),
            ("the moon is wrong", REFERENCE)
        );
    }
}
