//! Durations as people write them: `"250ms"`, `"30s"`, `"5m"`, `"1h"`.

use std::fmt;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A duration of at most a day.
///
/// # Errors
/// The mistake, and behind a line end the remedy.
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

/// A duration as it would be written in a configuration, `5s`; nothing is `0s`, less than a millisecond `0ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown(pub Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        let units = [(60 * 60 * 1000, "h"), (60 * 1000, "m"), (1000, "s")];
        let whole =
            |(length, _): &(u128, &str)| milliseconds != 0 && milliseconds.is_multiple_of(*length);
        match units.into_iter().find(whole) {
            None if self.0.is_zero() => f.write_str("0s"),
            Some((length, unit)) => write!(f, "{}{unit}", milliseconds / length),
            // Milliseconds of a long time interest nobody.
            None if milliseconds >= 10_000 => write!(f, "{:.1}s", self.0.as_secs_f64()),
            None => write!(f, "{milliseconds}ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_as_they_are_written() {
        for text in ["0s", "1ms", "1500ms", "1s", "5s", "90s", "2m", "1h", "24h"] {
            assert_eq!(Shown(parse(text).unwrap()).to_string(), text);
        }
        for (duration, shown) in [
            (Duration::from_micros(300), "0ms"),
            (Duration::from_millis(63_250), "63.2s"),
            (Duration::from_secs(60), "1m"),
        ] {
            assert_eq!(Shown(duration).to_string(), shown);
        }
    }
}
