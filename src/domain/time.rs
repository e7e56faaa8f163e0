//! Points in time: milliseconds since 1970 in UTC inside, RFC 3339 with milliseconds outside.

use time::OffsetDateTime;
use time::macros::format_description;

/// This machine's clock. Leases use the database's clock instead.
#[must_use]
pub fn now_ms() -> i64 {
    i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// `2025-07-22T10:30:00.000Z`.
#[must_use]
pub fn rfc3339(at_ms: i64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000)
        .ok()
        .and_then(|t| t.format(&format).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00.000Z".to_owned())
}

/// The calendar month that `at_ms` lies in, as `2025-07` (UTC).
#[must_use]
pub fn month(at_ms: i64) -> String {
    rfc3339(at_ms)[..7].to_owned()
}

#[must_use]
pub fn now() -> String {
    rfc3339(now_ms())
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_shown_in_utc_with_milliseconds() {
        assert_eq!(super::rfc3339(1_753_180_200_000), "2025-07-22T10:30:00.000Z");
        assert_eq!(super::month(1_753_180_200_000), "2025-07");
    }
}
