//! Date and time of day, for the names of files.

use std::time::{SystemTime, UNIX_EPOCH};

/// A date and a time of day as they stand in file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// `2026-11-23`.
    pub date: String,
    /// `234501`.
    pub time: String,
}

impl Moment {
    /// This moment in UTC; the library reads no time zone.
    pub fn utc() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::of_seconds(since.as_secs())
    }

    /// The moment so many seconds after the beginning of 1970, UTC.
    ///
    /// # Source
    /// Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
    fn of_seconds(seconds: u64) -> Self {
        let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // Months begin with March.
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year + u64::from(month <= 2);
        Self {
            date: format!("{year:04}-{month:02}-{day:02}"),
            time: format!("{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, date, time) in [
            (0, "1970-01-01", "000000"),
            (951_782_399, "2000-02-28", "235959"),
            (951_782_400, "2000-02-29", "000000"),
            (1_795_824_000, "2026-11-28", "000000"),
            (4_107_542_400, "2100-03-01", "000000"),
        ] {
            let moment = Moment::of_seconds(seconds);
            assert_eq!((moment.date.as_str(), moment.time.as_str()), (date, time));
        }
    }
}
