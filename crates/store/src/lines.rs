//! How a claim divides what is due: deliveries wait in lines, one for each endpoint.

use std::{cmp::Reverse, collections::HashMap};

use crate::{ClaimedDelivery, Line, Room, apart::Apart, numbers::count};

/// A claim looks at so many lines, so that thousands in which nothing is due do not make each claim slow.
pub(crate) const LOOKS: u32 = 256;

/// Sorts behind every endpoint of an origin: URLs are printable.
pub(crate) const PAST_ENDPOINTS: &str = "\u{7f}";

/// A line, and when the first in it fell due: as many of those that are due as may be taken.
pub(crate) struct Front<T> {
    pub(crate) line: Line,
    pub(crate) due: Vec<T>,
}

/// How many to take from each line, of those from which any are taken. Each origin has its turns, at most as many as there is
/// room for; first come the first of its lines, then the second. Among those the endpoint with the most to spare goes first: one
/// that was found ill has a single attempt, and would otherwise use up the single attempt of an origin in doubt each time.
/// Turns that go off the room that origins share end where that ends, and leave the rest to those known to be well.
pub(crate) fn shares<'a, T: Ord>(fronts: &'a [Front<T>], room: &Room, limit: u32) -> Vec<Share<'a>> {
    let mut waiting: Vec<_> = fronts
        .iter()
        .flat_map(|Front { line, due }| {
            let spare = room.endpoints.of(&line.endpoint);
            let due = due.iter().take(spare as usize).enumerate();
            due.map(move |(place, due)| (&line.origin, place, Reverse(spare), due, line))
        })
        .collect();
    waiting.sort_by(|one, other| (one.0, one.1, one.2, one.3).cmp(&(other.0, other.1, other.2, other.3)));
    let mut turns: HashMap<&str, u32> = HashMap::new();
    let mut turned: Vec<_> = waiting
        .into_iter()
        .filter_map(|(origin, _, _, due, line)| {
            let turn = turns.entry(origin).or_default();
            *turn += 1;
            (*turn <= room.origins.of(origin)).then_some((*turn, due, line))
        })
        .collect();
    turned.sort_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)));
    let mut shared = 0;
    turned.retain(|(_, _, line)| {
        room.shared(&line.origin).is_none_or(|spare| {
            shared += 1;
            shared <= spare
        })
    });
    turned.truncate(limit as usize);
    let mut shares: HashMap<&str, (&Line, u32)> = HashMap::new();
    for (_, _, line) in turned {
        shares.entry(&line.endpoint).or_insert((line, 0)).1 += 1;
    }
    shares.into_values().map(|(line, number)| (line, count(number))).collect()
}

/// How many to take from a line.
pub(crate) type Share<'a> = (&'a Line, i32);

/// What was taken, and the endpoints of which nothing could be.
pub(crate) fn taken(apart: Apart<'_, Share<'_>, Vec<ClaimedDelivery>>) -> (Vec<ClaimedDelivery>, Vec<String>) {
    let refused = apart.refused.into_iter().map(|((line, _), error)| {
        // The rest of an endpoint may be a secret.
        tracing::error!(%error, origin = line.origin, "no delivery of an endpoint can be claimed");
        line.endpoint.clone()
    });
    (apart.done.into_iter().flatten().collect(), refused.collect())
}

/// Where the next claim goes on, when this one has not come to the last line.
pub(crate) fn looked_to<T>(fronts: Vec<Front<T>>) -> Option<Line> {
    let all = fronts.len() < LOOKS as usize;
    fronts.into_iter().next_back().map(|front| front.line).filter(|_| !all)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::Others;

    fn front(origin: &str, path: &str, due: &[u32]) -> Front<u32> {
        let line = Line { origin: origin.to_owned(), endpoint: format!("{origin}/{path}") };
        Front { line, due: due.to_vec() }
    }

    fn taken(fronts: &[Front<u32>], room: &Room, limit: u32) -> Vec<(String, i32)> {
        let shares = shares(fronts, room, limit).into_iter();
        let mut shares: Vec<_> = shares.map(|(line, number)| (line.endpoint.clone(), number)).collect();
        shares.sort();
        shares
    }

    #[test]
    fn origins_take_turns_and_so_do_the_endpoints_of_one() {
        let fronts = [front("a", "x", &[1, 2, 3, 4]), front("a", "y", &[5, 6]), front("b", "z", &[7, 8, 9])];
        let of =
            |limit| taken(&fronts, &Room::each(16), limit).into_iter().map(|(_, number)| number).collect::<Vec<_>>();
        assert_eq!(of(1), [1]);
        assert_eq!(of(2), [1, 1]);
        assert_eq!(of(4), [1, 1, 2]);
        assert_eq!(of(100), [4, 2, 3]);
        assert!(of(0).is_empty());
    }

    #[test]
    fn both_limits_hold() {
        let fronts = [front("a", "x", &[1, 2, 3, 4]), front("a", "y", &[5, 6]), front("b", "z", &[7, 8, 9])];
        let mut room = Room::each(2);
        room.origins.usual = 3;
        assert_eq!(taken(&fronts, &room, 100), [("a/x".into(), 2), ("a/y".into(), 1), ("b/z".into(), 2)]);
        room.endpoints.known.insert("a/x".to_owned(), 0);
        assert_eq!(taken(&fronts, &room, 100), [("a/y".into(), 2), ("b/z".into(), 2)]);
        room.origins.known.insert("b".to_owned(), 0);
        assert_eq!(taken(&fronts, &room, 100), [("a/y".into(), 2)]);
    }

    #[test]
    fn origins_not_known_to_be_well_share_their_room() {
        let fronts = [front("a", "x", &[1, 2, 3]), front("b", "y", &[4]), front("c", "z", &[5, 6, 7])];
        let share = |spare| {
            let others = Some(Others { spare, well: HashSet::from(["c".to_owned()]) });
            taken(&fronts, &Room { others, ..Room::each(16) }, 6)
        };
        assert_eq!(share(0), [("c/z".into(), 3)]);
        assert_eq!(share(1), [("a/x".into(), 1), ("c/z".into(), 3)]);
        assert_eq!(share(2), [("a/x".into(), 1), ("b/y".into(), 1), ("c/z".into(), 3)]);
        assert_eq!(share(9), [("a/x".into(), 3), ("b/y".into(), 1), ("c/z".into(), 2)], "six in all");
    }

    #[test]
    fn an_origin_in_doubt_is_tried_where_it_is_most_likely_well() {
        let fronts = [front("a", "ill", &[1, 2]), front("a", "well", &[5])];
        let mut room = Room::each(16);
        room.origins.known.insert("a".to_owned(), 1);
        room.endpoints.known.insert("a/ill".to_owned(), 1);
        assert_eq!(taken(&fronts, &room, 100), [("a/well".into(), 1)]);
    }
}
