//! The families of encoders that run here: what their tensors are called, and in what else they differ.

use kernels::Activation;
use serde::Deserialize;

use crate::transformer::LayerNames;

/// A family, as `config.json` calls it in `model_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Family {
    #[default]
    Bert,
    Roberta,
    XlmRoberta,
    Camembert,
    #[serde(rename = "distilbert")]
    DistilBert,
    Electra,
    Mpnet,
}

/// How a classifier of whole texts begins, with the hidden state of the first token.
pub(super) struct ClassifierNames {
    /// A dense part as wide as hidden states.
    pub(super) dense: &'static str,
    /// Whether that part's name has the encoder's prefix.
    pub(super) within_encoder: bool,
    pub(super) squash: Squash,
    /// The dense part with an output for each label.
    pub(super) last: &'static str,
}

/// What stands between the two dense parts of a classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Squash {
    Tanh,
    By(Activation),
}

const LAYER: LayerNames = LayerNames {
    query_key_value: ["attention.self.query", "attention.self.key", "attention.self.value"],
    attended: "attention.output.dense",
    attended_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

const DISTILLED_LAYER: LayerNames = LayerNames {
    query_key_value: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    attended: "attention.out_lin",
    attended_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
};

const BIASED_LAYER: LayerNames = LayerNames {
    query_key_value: ["attention.attn.q", "attention.attn.k", "attention.attn.v"],
    attended: "attention.attn.o",
    attended_norm: "attention.LayerNorm",
    ..LAYER
};

/// The words for all families.
pub(crate) fn model_types() -> impl Iterator<Item = &'static str> {
    Family::ALL.into_iter().map(|(name, _)| name)
}

impl Family {
    /// Every family, by the word in `model_type`.
    pub(super) const ALL: [(&'static str, Self); 7] = [
        ("bert", Self::Bert),
        ("roberta", Self::Roberta),
        ("xlm-roberta", Self::XlmRoberta),
        ("camembert", Self::Camembert),
        ("distilbert", Self::DistilBert),
        ("electra", Self::Electra),
        ("mpnet", Self::Mpnet),
    ];

    /// What the names of transformers' classes begin with.
    pub(super) const CLASSES: [&'static str; 7] =
        ["Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "Electra", "MPNet"];

    /// What the encoder's tensors begin with in a file that holds more than the encoder.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Roberta | Self::XlmRoberta | Self::Camembert => "roberta.",
            Self::DistilBert => "distilbert.",
            Self::Electra => "electra.",
            Self::Mpnet => "mpnet.",
        }
    }

    /// Whether positions are counted from the one after the padding token's, and padding is not counted.
    pub(super) fn counts_past_padding(self) -> bool {
        matches!(self, Self::Roberta | Self::XlmRoberta | Self::Camembert | Self::Mpnet)
    }

    /// Whether the encoder has an embedding for the type of a token at all.
    pub(super) fn has_types(self) -> bool {
        !matches!(self, Self::DistilBert | Self::Mpnet)
    }

    /// Whether attention adds a number to scores by how far apart two tokens stand.
    pub(super) fn has_bias(self) -> bool {
        self == Self::Mpnet
    }

    /// Whether the family's own tokenizer tells the types of tokens; where it does not, all are of type 0.
    pub(super) fn is_told_types(self) -> bool {
        matches!(self, Self::Bert | Self::Electra)
    }

    /// What the names of a layer's tensors begin with, before its number.
    pub(super) fn layers(self) -> &'static str {
        if self == Self::DistilBert { "transformer.layer" } else { "encoder.layer" }
    }

    pub(super) fn layer(self) -> LayerNames {
        match self {
            Self::DistilBert => DISTILLED_LAYER,
            Self::Mpnet => BIASED_LAYER,
            Self::Bert | Self::Roberta | Self::XlmRoberta | Self::Camembert | Self::Electra => LAYER,
        }
    }

    pub(super) fn classifier(self) -> ClassifierNames {
        let names = |dense, squash, last| ClassifierNames { dense, within_encoder: false, squash, last };
        match self {
            Self::Bert => ClassifierNames { within_encoder: true, ..names("pooler.dense", Squash::Tanh, "classifier") },
            Self::Roberta | Self::XlmRoberta | Self::Camembert | Self::Mpnet => {
                names("classifier.dense", Squash::Tanh, "classifier.out_proj")
            }
            Self::DistilBert => names("pre_classifier", Squash::By(Activation::Relu), "classifier"),
            // Whatever hidden_act says.
            Self::Electra => names("classifier.dense", Squash::By(Activation::GeluErf), "classifier.out_proj"),
        }
    }
}
