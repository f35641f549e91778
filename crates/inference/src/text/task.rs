//! What text encoders are asked to do, in the field's standard words.

/// A task, by what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// One vector for a text.
    FeatureExtraction,
    /// Labels of a text or of a pair of texts, with scores.
    TextClassification,
    /// Stretches of a text, with labels.
    TokenClassification,
    /// Scores of labels that come with the text, by a classifier that knows whether one text follows from another.
    ZeroShotClassification,
}

impl Task {
    const ALL: [Self; 4] =
        [Self::FeatureExtraction, Self::TextClassification, Self::TokenClassification, Self::ZeroShotClassification];

    /// The word for it in specifications and manifests.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FeatureExtraction => "feature-extraction",
            Self::TextClassification => "text-classification",
            Self::TokenClassification => "token-classification",
            Self::ZeroShotClassification => "zero-shot-classification",
        }
    }

    /// The task that this word is for.
    pub(crate) fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.name() == word)
    }

    /// The task of a class of transformers, by its name without the family's.
    pub(super) fn of_class(rest: &str) -> Option<Self> {
        match rest {
            "Model" | "ForMaskedLM" | "ForPreTraining" | "LMHeadModel" => Some(Self::FeatureExtraction),
            "ForSequenceClassification" => Some(Self::TextClassification),
            "ForTokenClassification" => Some(Self::TokenClassification),
            _ => None,
        }
    }

    /// The task that a manifest asks of a model that was made for this one.
    ///
    /// # Errors
    /// Says what the model does, when that is something else.
    pub(super) fn asked(self, word: &str) -> Result<Self, String> {
        match (self, Self::named(word)) {
            (Self::TextClassification, Some(Self::ZeroShotClassification)) => Ok(Self::ZeroShotClassification),
            (own, Some(asked)) if own == asked => Ok(asked),
            _ => Err(format!("architectures are for {}, but the manifest's task is {word:?}", self.name())),
        }
    }
}
