//! Pages of a list: one row more than asked for says whether the list goes on.

use prediction::Prediction;
use time::OffsetDateTime;

use crate::{Cursor, Page, PageOf, Place};

/// Makes a page of the rows found beside `place`: at most `limit + 1` of them, the nearest first. `key` says what a row is
/// listed by.
pub(crate) fn page_of<T, I: Copy>(
    mut found: Vec<T>,
    place: Option<Place<I>>,
    limit: u32,
    key: impl Fn(&T) -> (OffsetDateTime, I),
) -> PageOf<T, I> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let goes_on = found.len() > limit;
    found.truncate(limit);
    let newer = place.is_some_and(|place| place.newer);
    if newer {
        found.reverse();
    }
    // The side that the page was entered from has at least the row that the place names.
    let (has_older, has_newer) = if newer { (true, goes_on) } else { (goes_on, place.is_some()) };
    let beside = |entry: Option<&T>, newer: bool| match entry.map(&key) {
        Some((created_at, id)) => Some(Place { created_at, id, newer }),
        None => place.map(|place| Place { newer, ..place }),
    };
    PageOf {
        next: beside(found.last(), false).filter(|_| has_older),
        previous: beside(found.first(), true).filter(|_| has_newer),
        entries: found,
    }
}

/// A page of predictions.
pub(crate) fn page(found: Vec<Prediction>, cursor: Option<Cursor>, limit: u32) -> Page {
    let place = cursor.map(|Cursor { created_at, id, newer }| Place { created_at, id, newer });
    let page = page_of(found, place, limit, |prediction| (prediction.created_at, prediction.id));
    let cursor = |place: Place<_>| Cursor { created_at: place.created_at, id: place.id, newer: place.newer };
    Page { predictions: page.entries, next: page.next.map(cursor), previous: page.previous.map(cursor) }
}
