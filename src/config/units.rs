//! Durations, ranges of them, and sizes, as they are written: `"30s"`, `"1s-5s"`, `"64KiB"`.

use crate::duration::{number_and_unit, parse as duration};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// `"250ms"`, `"30s"`, `"5m"`, `"1h"`: more than nothing and at most a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub Duration);

/// `"adaptive"`, or so many a second: `"200/s"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    Adaptive,
    Rate(u32),
}

/// `"adaptive"`, or a number without a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adaptive {
    Adaptive,
    Number(NonZeroU32),
}

/// `"10%"`: a whole number of hundredths, 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percent(pub u8);

/// As [`Time`], and `"0s"` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait(pub Duration);

/// `"1s-5s"`: the second no shorter than the first; `"0s-5s"` and a single duration are fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeRange(pub Duration, pub Duration);

/// `"512B"`, `"64KiB"`, `"16MiB"`, `"1GiB"`, and in powers of ten `"64KB"`, `"16MB"`, `"1GB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub u64);

const UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", 1000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

impl Time {
    fn parse(text: &str) -> Result<Time, String> {
        match duration(text)? {
            Duration::ZERO => Err(format!(
                "`{text}` leaves no time\nthe shortest duration is \"1ms\""
            )),
            time => Ok(Time(time)),
        }
    }
}

impl Pace {
    fn parse(text: &str) -> Result<Pace, String> {
        if text == "adaptive" {
            return Ok(Pace::Adaptive);
        }
        let rate = text
            .strip_suffix("/s")
            .and_then(|number| number.trim().parse().ok());
        let wrong = || {
            format!(
                "`{text}` is not a pace\nwrite \"adaptive\", or connections per second: \"200/s\""
            )
        };
        rate.filter(|rate| *rate > 0)
            .map(Pace::Rate)
            .ok_or_else(wrong)
    }
}

impl Percent {
    fn parse(text: &str) -> Result<Percent, String> {
        let number = text
            .strip_suffix('%')
            .and_then(|number| number.trim().parse().ok());
        let wrong = || format!("`{text}` is not a share\nwrite a whole number of percent: \"10%\"");
        number
            .filter(|number| *number <= 100)
            .map(Percent)
            .ok_or_else(wrong)
    }
}

impl TimeRange {
    fn parse(text: &str) -> Result<TimeRange, String> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        let (low, high) = (duration(low)?, duration(high)?);
        if low > high {
            return Err(format!(
                "`{text}` ends before it begins\nwrite the shorter one first: \"1s-5s\""
            ));
        }
        Ok(TimeRange(low, high))
    }
}

impl Size {
    fn parse(text: &str) -> Result<Size, String> {
        let wrong = || {
            format!(
                "`{text}` is not a size\nwrite a whole number with a unit: \"512B\", \"64KiB\", \"16MiB\", \"1GiB\""
            )
        };
        let (number, unit) = number_and_unit(text.trim()).ok_or_else(wrong)?;
        let factor = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, factor) = factor.ok_or_else(wrong)?;
        let too_large = || format!("`{text}` is too large\nthe largest size is \"8589934591GiB\"");
        let bytes = number
            .checked_mul(*factor)
            .filter(|bytes| *bytes <= i64::MAX as u64);
        bytes.map(Size).ok_or_else(too_large)
    }
}

impl fmt::Display for Size {
    /// As one would write it: in the largest unit that gives a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS
            .iter()
            .rev()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (unit, factor) = whole.unwrap_or(&UNITS[0]);
        write!(f, "\"{}{unit}\"", self.0 / factor)
    }
}

/// A value that is written as a string in a form of its own.
struct Written<T> {
    parse: fn(&str) -> Result<T, String>,
    what: &'static str,
    example: fn(i64) -> String,
}

impl<T> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The second line is the help.
        write!(
            f,
            "{}\nwrite it with a unit and in quotes: {}",
            self.what,
            (self.example)(30)
        )
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        if number < 0 {
            return Err(E::invalid_type(Unexpected::Signed(number), &self));
        }
        let (what, example) = (self.what, (self.example)(number));
        Err(E::custom(format!("{what} needs a unit\nwrite {example}")))
    }
}

impl<'de> Deserialize<'de> for Pace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written {
            parse: Pace::parse,
            what: "a pace",
            example: |n| format!("\"{n}/s\""),
        })
    }
}

impl<'de> Deserialize<'de> for Adaptive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Adaptive;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 1 on, or \"adaptive\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Adaptive, E> {
                match text {
                    "adaptive" => Ok(Adaptive::Adaptive),
                    _ => Err(E::custom(format!(
                        "`{text}` is no number\nwrite \"adaptive\", or a number from 1 on: 50"
                    ))),
                }
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Adaptive, E> {
                let given = u32::try_from(number).ok().and_then(NonZeroU32::new);
                given.map(Adaptive::Number).ok_or_else(|| {
                    E::custom(format!(
                        "`{number}` is out of range\nwrite \"adaptive\", or a number from 1 to 4294967295: 50"
                    ))
                })
            }
        }

        deserializer.deserialize_any(Number)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written {
            parse: Percent::parse,
            what: "a share",
            example: |n| format!("\"{n}%\""),
        })
    }
}

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let example = |n| format!("\"{n}s\" or \"{n}ms\"");
        deserializer.deserialize_any(Written {
            parse: |text| duration(text).map(Wait),
            what: "a duration",
            example,
        })
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let example = |n| format!("\"{n}s\" or \"{n}ms\"");
        deserializer.deserialize_any(Written {
            parse: Time::parse,
            what: "a duration",
            example,
        })
    }
}

impl<'de> Deserialize<'de> for TimeRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let example = |n| format!("\"{n}s\", or a range such as \"1s-5s\"");
        deserializer.deserialize_any(Written {
            parse: TimeRange::parse,
            what: "a range of durations",
            example,
        })
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let example = |n| format!("\"{n}B\", or with KiB, MiB or GiB");
        deserializer.deserialize_any(Written {
            parse: Size::parse,
            what: "a size",
            example,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("250ms", ms(250)),
            ("30s", ms(30_000)),
            ("5 m", ms(300_000)),
            ("1h", ms(3_600_000)),
            ("24h", ms(86_400_000)),
        ] {
            assert_eq!(Time::parse(text), Ok(Time(expected)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5d",
            "-5s",
            "1.5s",
            "0s",
            "25h",
            "99999999999999999999s",
            "5s-6s",
            "5ss",
            "٣s",
        ] {
            assert!(Time::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares() {
        for (text, expected) in [("0%", 0), ("10%", 10), ("7 %", 7), ("100%", 100)] {
            assert_eq!(Percent::parse(text), Ok(Percent(expected)), "{text}");
        }
        for text in ["", "%", "10", "101%", "-1%", "0.5%", "1%%", "300%"] {
            assert!(Percent::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges() {
        let s = Duration::from_secs;
        assert_eq!(TimeRange::parse("1s-5s"), Ok(TimeRange(s(1), s(5))));
        assert_eq!(TimeRange::parse("0s - 1m"), Ok(TimeRange(s(0), s(60))));
        assert_eq!(TimeRange::parse("2s"), Ok(TimeRange(s(2), s(2))));
        for text in ["5s-1s", "1s-", "-5s", "1-5s", "1s-2s-3s"] {
            assert!(TimeRange::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0B", 0),
            ("125B", 125),
            ("64KiB", 65536),
            ("64KB", 64000),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(Size::parse(text), Ok(Size(expected)), "{text}");
        }
        for text in [
            "",
            "64",
            "64K",
            "64kib",
            "1TiB",
            "-1B",
            "1.5MiB",
            "99999999999GiB",
        ] {
            assert!(Size::parse(text).is_err(), "{text}");
        }
    }
}
