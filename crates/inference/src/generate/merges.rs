//! Which tokens are joined first, for a vocabulary that has scores: SentencePiece joins the neighbours whose joint token has the
//! highest score, which is a byte pair encoding whose pairs are ranked by those scores.

use super::vocabulary::{Kind, Vocabulary};

/// All pairs of tokens that make a third, the first to be joined first.
pub(super) fn of_scores(vocabulary: &Vocabulary, scores: &[f32]) -> Vec<(String, String)> {
    let is_word = |kind: Kind| matches!(kind, Kind::Normal | Kind::UserDefined);
    let known = |part: &str| vocabulary.ids.get(part).copied().filter(|id| is_word(vocabulary.kinds[*id as usize]));
    let mut ranked = Vec::new();
    for (id, token, _) in vocabulary.iter().filter(|(_, _, kind)| is_word(*kind)) {
        for (at, _) in token.char_indices().skip(1) {
            let (first, second) = token.split_at(at);
            if let (Some(first), Some(second)) = (known(first), known(second)) {
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
    ranked.into_iter().map(|(_, first, second)| (text(first), text(second))).collect()
}
