//! Dates in words.

use jiff::civil::DateTime;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};

/// A time as C's `strftime` writes it, in English; what it does not know stands as it is.
pub(super) fn strftime(format: &str, time: DateTime) -> String {
    let config = Config::new().lenient(true).custom(PosixCustom::new());
    // A time without a zone has no zone to write, as in Python.
    let format = without_zones(format);
    BrokenDownTime::from(time).to_string_with_config(&config, &format).unwrap_or(format)
}

/// The format without `%z` and `%Z`.
fn without_zones(format: &str) -> String {
    let mut out = String::with_capacity(format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, chars.as_str().chars().next()) {
            ('%', Some('z' | 'Z')) => {
                chars.next();
            }
            ('%', Some(next)) => {
                out.extend([c, next]);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_c_writes_them() {
        let time = jiff::civil::date(2026, 3, 7).at(9, 5, 2, 34_000);
        for (format, written) in [
            ("%Y-%m-%d", "2026-03-07"),
            ("%d %b %Y", "07 Mar 2026"),
            ("%A, %B %-d, %Y", "Saturday, March 7, 2026"),
            ("%H:%M:%S %p %I %y %j %a", "09:05:02 AM 09 26 066 Sat"),
            ("%e|%%|%n|%D %T %F %R", " 7|%|\n|03/07/26 09:05:02 2026-03-07 09:05"),
            ("%z%Z|%f|100%", "|000034|100%"),
            ("%c", "Sat Mar  7 09:05:02 2026"),
            ("%x %X %h %U %w %u", "03/07/26 09:05:02 Mar 09 6 6"),
            ("", ""),
        ] {
            assert_eq!(strftime(format, time), written, "{format}");
        }
    }
}
