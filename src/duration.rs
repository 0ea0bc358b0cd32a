//! Durations as people write them: `"250ms"`, `"30s"`, `"5m"`, `"1h"`.

use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A duration of at most a day.
///
/// # Errors
/// What is wrong; behind a line end what would be right.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "`{text}` is not a duration\nwrite a whole number with a unit: \"250ms\", \"30s\", \"5m\", \"1h\""
        )
    };
    let (number, unit) = number_and_unit(text.trim()).ok_or_else(wrong)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err(wrong()),
    };
    let duration = Duration::from_millis(number.saturating_mul(factor));
    if duration > DAY {
        return Err(format!(
            "`{text}` is too long\nthe longest duration is \"24h\""
        ));
    }
    Ok(duration)
}

/// A whole number and the unit behind it.
pub(crate) fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}
