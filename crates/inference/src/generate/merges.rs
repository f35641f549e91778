//! Which tokens are joined first, for a vocabulary that has scores: SentencePiece joins the neighbours whose joint token has the
//! highest score, which is a byte pair encoding whose pairs are ranked by those scores.

use super::vocabulary::{Kind, Vocabulary};

/// The most bytes of all pairs: more than ten times those of the largest known vocabularies.
const MOST_BYTES: usize = 64 << 20;

/// All pairs of tokens that make a third, the first to be joined first; `None` when they take more memory than any real
/// vocabulary's.
pub(super) fn of_scores(vocabulary: &Vocabulary, scores: &[f32]) -> Option<Vec<(String, String)>> {
    let is_word = |kind: Kind| matches!(kind, Kind::Normal | Kind::UserDefined);
    let known = |part: &str| vocabulary.ids.get(part).copied().filter(|id| is_word(vocabulary.kinds[*id as usize]));
    let (mut ranked, mut bytes) = (Vec::new(), 0);
    for (id, token, _) in vocabulary.iter().filter(|(_, _, kind)| is_word(*kind)) {
        for (at, _) in token.char_indices().skip(1) {
            let (first, second) = token.split_at(at);
            if let (Some(first), Some(second)) = (known(first), known(second)) {
                bytes += token.len();
                if bytes > MOST_BYTES {
                    return None;
                }
                ranked.push((id, first, second));
            }
        }
    }
    ranked.sort_by(|one, other| {
        let score = |ranked: &(u32, u32, u32)| scores[ranked.0 as usize];
        score(other).total_cmp(&score(one)).then_with(|| one.cmp(other))
    });
    ranked.dedup();
    let text = |id: u32| vocabulary.tokens[id as usize].clone();
    Some(ranked.into_iter().map(|(_, first, second)| (text(first), text(second))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(tokens: Vec<String>) -> Vocabulary {
        let ids = tokens.iter().cloned().zip(0..).collect();
        let kinds = vec![Kind::Normal; tokens.len()];
        Vocabulary { tokens, kinds, ids, begin: None, ends: Vec::new(), unknown: None, pieces: Vec::new() }
    }

    #[test]
    fn pairs_of_the_best_token_come_first() {
        let tokens = ["a", "b", "c", "ab", "bc", "abc"].map(str::to_owned).to_vec();
        let pairs = of_scores(&vocabulary(tokens), &[0.0, 0.0, 0.0, -3.0, -2.0, -1.0]).expect("few");
        let pairs: Vec<_> = pairs.iter().map(|(first, second)| (first.as_str(), second.as_str())).collect();
        assert_eq!(pairs, [("a", "bc"), ("ab", "c"), ("b", "c"), ("a", "b")]);
    }

    #[test]
    fn a_vocabulary_of_nothing_but_pairs_is_refused() {
        // Every cut of every token gives two others.
        let all = |longest: usize| {
            let tokens =
                (1..=longest).flat_map(|length| (0..=length).map(move |a| "a".repeat(a) + &"b".repeat(length - a)));
            vocabulary(tokens.collect())
        };
        let (few, many) = (all(20), all(140));
        assert!(of_scores(&few, &vec![0.0; few.tokens.len()]).is_some());
        assert!(of_scores(&many, &vec![0.0; many.tokens.len()]).is_none());
    }
}
