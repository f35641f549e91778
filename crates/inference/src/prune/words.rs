//! What was removed, in words: in the names of models, and in sentences behind their descriptions.

use std::fmt;

use super::Cut;

impl Cut {
    /// For the names of what it makes.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Heads(count) => format!("less-{count}-head{}", plural(count)),
            Self::Layers(count) => format!("less-{count}-layer{}", plural(count)),
            Self::Sparsity(share) => format!("sparse-{share}"),
        }
    }
}

/// The name under which a GGUF file has the sentences that say what its model lacks.
pub(crate) const IN_GGUF: &str = "augur.lacks";
/// The same for `config.json`, where there is no manifest.
pub(crate) const IN_CONFIG: &str = "augur_lacks";

/// A description of a model whose file has these sentences of what it lacks. Whatever else stands there is none of ours.
pub(crate) fn with_sentences(description: &str, said: Option<&str>) -> String {
    let lacks = said.map(Lacks::behind).filter(|(own, _)| own.is_empty()).map(|(_, lacks)| lacks);
    format!("{description} {}", lacks.unwrap_or_default()).trim_end().to_owned()
}

/// The sentences for the file of a model less this, by its description.
pub(super) fn sentences(description: &str, cut: Cut) -> String {
    less(description, cut).1.to_string()
}

/// A description of a model less this.
pub(super) fn described(description: &str, cut: Cut) -> String {
    let (own, lacks) = less(description, cut);
    format!("{own} {lacks}").trim().to_owned()
}

/// What stands before the last sentences of a description, and what the model lacks less this: what they say of that counts.
fn less(description: &str, cut: Cut) -> (&str, Lacks) {
    let (own, mut lacks) = Lacks::behind(description);
    match cut {
        Cut::Heads(count) => lacks.heads = lacks.heads.saturating_add(count),
        Cut::Layers(count) => lacks.layers = lacks.layers.saturating_add(count),
        // What is 0 already is among the smallest.
        Cut::Sparsity(share) => lacks.share = lacks.share.max(share),
    }
    (own, lacks)
}

/// What a model lacks.
#[derive(Debug, Default, PartialEq)]
struct Lacks {
    /// Heads of each layer.
    heads: usize,
    layers: usize,
    share: f64,
}

const HEADS: (&str, &str) = ("Each layer lacks ", " attention head");
const LAYERS: (&str, &str) = ("It lacks ", " layer");
const WEIGHTS: (&str, &str) = ("Of each matrix of its layers, the smallest ", " % were set to 0");

impl Lacks {
    /// What the last sentences of a description say of it, and what stands before them.
    fn behind(description: &str) -> (&str, Self) {
        let (mut own, mut lacks) = (description.trim_end(), Self::default());
        while let Some(text) = own.strip_suffix('.') {
            let said = |(begin, end): (&str, &str)| {
                let (before, number) = text.rsplit_once(begin)?;
                Some((before, number.strip_suffix('s').unwrap_or(number).strip_suffix(end)?))
            };
            let count = |words| said(words).and_then(|(before, number)| Some((before, number.parse::<usize>().ok()?)));
            if let Some((before, heads)) = count(HEADS) {
                (own, lacks.heads) = (before.trim_end(), lacks.heads.saturating_add(heads));
            } else if let Some((before, layers)) = count(LAYERS) {
                (own, lacks.layers) = (before.trim_end(), lacks.layers.saturating_add(layers));
            } else if let Some((before, percent)) = said(WEIGHTS)
                && let Some(percent) = percent.parse().ok().filter(|percent| (0.0..100.0).contains(percent))
            {
                (own, lacks.share) = (before.trim_end(), lacks.share.max(percent / 100.0));
            } else {
                break;
            }
        }
        (own, lacks)
    }
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |(begin, end): (&str, &str), count: usize| {
            (count > 0).then(|| format!("{begin}{count}{end}{}.", plural(count)))
        };
        let zeros = (self.share > 0.0).then(|| format!("{}{}{}.", WEIGHTS.0, percent(self.share), WEIGHTS.1));
        let sentences = [counted(HEADS, self.heads), counted(LAYERS, self.layers), zeros];
        f.write_str(&sentences.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// A share in hundredths, to four places.
fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_adds_up() {
        let mut description = "Embeds texts.".to_owned();
        for (cut, expected) in [
            (Cut::Heads(1), "Embeds texts. Each layer lacks 1 attention head."),
            (Cut::Heads(2), "Embeds texts. Each layer lacks 3 attention heads."),
            (Cut::Layers(1), "Embeds texts. Each layer lacks 3 attention heads. It lacks 1 layer."),
            (Cut::Layers(3), "Embeds texts. Each layer lacks 3 attention heads. It lacks 4 layers."),
        ] {
            description = described(&description, cut);
            assert_eq!(description, expected);
        }
        let sparse = described("It lacks 4 layers.", Cut::Sparsity(0.07));
        assert_eq!(sparse, "It lacks 4 layers. Of each matrix of its layers, the smallest 7 % were set to 0.");
        for (share, expected) in [(0.05, "7 %"), (0.1234567, "12.3457 %"), (0.29, "29 %"), (0.58, "58 %")] {
            let sentence = described(&sparse, Cut::Sparsity(share));
            assert!(sentence.ends_with(&format!("smallest {expected} were set to 0.")), "{share}: {sentence}");
            assert_eq!(sentence.matches("smallest").count(), 1);
        }
    }

    #[test]
    fn what_files_say_comes_back() {
        let first = sentences("Goes on from a text.", Cut::Layers(1));
        assert_eq!(with_sentences("Goes on from a text.", Some(&first)), "Goes on from a text. It lacks 1 layer.");
        let second = sentences(&with_sentences("Goes on.", Some(&first)), Cut::Sparsity(0.5));
        let both = "It lacks 1 layer. Of each matrix of its layers, the smallest 50 % were set to 0.";
        assert_eq!(with_sentences("Goes on.", Some(&second)), format!("Goes on. {both}"));
        for other in [None, Some(""), Some("Buy this. It lacks 1 layer."), Some("Buy this.")] {
            assert_eq!(with_sentences("Goes on.", other), "Goes on.", "{other:?}");
        }
    }

    #[test]
    fn what_others_say_stays() {
        let infinite = "Of each matrix of its layers, the smallest inf % were set to 0.";
        for own in
            ["", "It lacks layers.", "It lacks -1 layers.", "Each layer lacks 1 attention head, or two.", infinite]
        {
            let expected = format!("{own} It lacks 2 layers.");
            assert_eq!(described(own, Cut::Layers(2)), expected.trim());
        }
        let most = format!("It lacks {} layers.", usize::MAX);
        assert_eq!(described(&most, Cut::Layers(1)), most);
    }
}
