//! Pages of a list: one row more than asked for says whether the list goes on.

use prediction::Prediction;

use crate::{Cursor, Page};

/// Makes a page of the rows found beside `cursor`: at most `limit + 1` of them, the nearest first.
pub(crate) fn page(mut found: Vec<Prediction>, cursor: Option<Cursor>, limit: u32) -> Page {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let goes_on = found.len() > limit;
    found.truncate(limit);
    let newer = cursor.is_some_and(|cursor| cursor.newer);
    if newer {
        found.reverse();
    }
    // The side that the page was entered from has at least the row that the cursor names.
    let (has_older, has_newer) = if newer { (true, goes_on) } else { (goes_on, cursor.is_some()) };
    let place = |prediction: Option<&Prediction>, newer: bool| match prediction {
        Some(prediction) => Some(Cursor { created_at: prediction.created_at, id: prediction.id, newer }),
        None => cursor.map(|cursor| Cursor { newer, ..cursor }),
    };
    Page {
        next: place(found.last(), false).filter(|_| has_older),
        previous: place(found.first(), true).filter(|_| has_newer),
        predictions: found,
    }
}
