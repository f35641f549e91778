//! The clock, and times as they are stored.

use time::{OffsetDateTime, error::ComponentRange};

/// Microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub(super) struct Stamp(pub(super) i64);

impl Stamp {
    /// This many microseconds later (earlier, when negative).
    pub(super) fn plus(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

impl TryFrom<Stamp> for OffsetDateTime {
    type Error = ComponentRange;

    fn try_from(stamp: Stamp) -> Result<Self, ComponentRange> {
        Self::from_unix_timestamp_nanos(i128::from(stamp.0) * 1000)
    }
}

impl From<OffsetDateTime> for Stamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self(i64::try_from(moment.unix_timestamp_nanos().div_euclid(1000)).unwrap_or(i64::MAX))
    }
}

/// The clock; read once per transaction, and bound wherever that transaction needs it. This process is the database's only one, so
/// its clock is the database's.
pub(super) fn now() -> Stamp {
    OffsetDateTime::now_utc().into()
}
