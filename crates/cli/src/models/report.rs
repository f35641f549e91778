//! Two versions of a model beside each other, for people and for programs: shown before one is kept, and kept beside it.

use std::{fs, io, path::Path, time::Duration};

use inference::{Agreement, Comparison, Divergence, Machine, Measured, Removed};
use prediction::{ModelName, Version};
use serde::{Deserialize, Serialize};
use settings::{Fatal, say};

use crate::screen::{brief, bytes, thousands};

/// What a comparison found, and what was removed from the model, if anything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// How many inputs were run.
    inputs: usize,
    original: Side,
    result: Side,
    agreement: Agreed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed: Option<Lost>,
    machine: On,
}

/// One of the two.
#[derive(Debug, Serialize, Deserialize)]
struct Side {
    name: ModelName,
    version: Version,
    /// None where it cannot be chosen.
    precision: Option<String>,
    file_bytes: u64,
    weight_bytes: u64,
    /// The time of one input alone, or of one token.
    seconds_each: f64,
}

/// How far their answers are the same; shares are 0 to 1.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Agreed {
    Embeddings { mean_cosine: f64, worst_cosine: f64 },
    Labels { same_label: f64, largest_difference: f64 },
    Tags { same_tag: f64, tokens: usize },
    Tokens { same_token: f64, mean_divergence: f64, tokens: usize, inputs_cut: usize, cut_after: usize },
}

/// What was removed, counted from 0.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Lost {
    Heads { heads: Vec<Vec<usize>> },
    Layers { layers: Vec<usize> },
    Weights { zeros: u64, parameters: u64 },
}

/// What times are of.
#[derive(Debug, Serialize, Deserialize)]
struct On {
    isa: String,
    threads: usize,
}

impl Report {
    /// The file that keeps it, in the directory of the version that was made. It is none of those that make the version.
    pub(crate) const FILE: &str = "augur-report.json";

    /// Of what was compared on this machine.
    pub(crate) fn of(comparison: &Comparison, removed: Option<Removed>, machine: Machine) -> Self {
        let side = |Measured { description: found, each }: &Measured| Side {
            name: found.spec.name.clone(),
            version: found.spec.version.clone(),
            precision: found.precision.map(str::to_owned),
            file_bytes: found.file_bytes(),
            weight_bytes: found.weight_bytes,
            seconds_each: each.as_secs_f64(),
        };
        Self {
            inputs: comparison.inputs,
            original: side(&comparison.original),
            result: side(&comparison.made),
            agreement: (&comparison.agreement).into(),
            removed: removed.map(Lost::from),
            machine: On { isa: machine.cpu.isa().to_string(), threads: machine.threads.get() },
        }
    }

    /// Reads that of a version; none where it was not made here, or its files have been changed since.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub(crate) fn read(dir: &Path, version: &Version) -> Result<Option<Self>, String> {
        let wrong = |reason: String| format!("{}: {reason}", Self::FILE);
        match fs::read(dir.join(Self::FILE)) {
            Ok(text) => {
                let report: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
                Ok((report.result.version == *version).then_some(report))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(wrong(format!("cannot be read: {error}"))),
        }
    }

    /// Writes it into the directory of the version that was made.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), Fatal> {
        let path = dir.join(Self::FILE);
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).map_err(|error| Fatal::new(format!("{} cannot be written: {error}", path.display())))
    }

    /// Prints it.
    ///
    /// # Errors
    /// When it is no JSON.
    pub(crate) fn print(&self, is_json: bool) -> Result<(), Fatal> {
        if is_json {
            say(serde_json::to_string(self)?)
        } else {
            self.lines().iter().for_each(say)
        }
        Ok(())
    }

    /// What the version was made of.
    pub(crate) fn origin(&self) -> String {
        format!("{}, version {}", self.original.name, self.original.version)
    }

    /// For people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Self { inputs, original, result, agreement, removed, machine: On { isa, threads } } = self;
        let row = |what: &str, value: &dyn Fn(&Side) -> String, number: &dyn Fn(&Side) -> f64| {
            let ratio = number(result) / number(original).max(f64::MIN_POSITIVE);
            format!("{what:<12}  {:>10}  {:>10}  {ratio:>5.2} ×", value(original), value(result))
        };
        let each = if matches!(agreement, Agreed::Tokens { .. }) { "a token" } else { "an input" };
        let mut lines = vec![
            format!("{:<12}  {:>10}  {:>10}", "", "ORIGINAL", "RESULT"),
            row("files", &|side| bytes(side.file_bytes), &|side| side.file_bytes as f64),
            row("memory, most", &|side| bytes(side.weight_bytes), &|side| side.weight_bytes as f64),
            row(each, &|side| brief(side.each()), &|side| side.seconds_each),
            String::new(),
            format!("on {inputs} inputs: {}", agreement.words()),
            format!("times with {isa}, {threads} threads"),
        ];
        lines.extend(removed.as_ref().map(|removed| format!("removed: {}", removed.words())));
        lines
    }
}

impl Side {
    /// What no clock says is taken for nothing.
    fn each(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds_each).unwrap_or_default()
    }
}

impl From<&Agreement> for Agreed {
    fn from(agreement: &Agreement) -> Self {
        match *agreement {
            Agreement::Embeddings { mean_cosine, worst_cosine } => Self::Embeddings { mean_cosine, worst_cosine },
            Agreement::Labels { same, largest_difference } => Self::Labels { same_label: same, largest_difference },
            Agreement::Tags { same, tokens } => Self::Tags { same_tag: same, tokens },
            Agreement::Tokens(Divergence { same, mean_divergence, tokens, cut, longest }) => {
                Self::Tokens { same_token: same, mean_divergence, tokens, inputs_cut: cut, cut_after: longest }
            }
        }
    }
}

impl Agreed {
    fn words(&self) -> String {
        match self {
            Self::Embeddings { mean_cosine, worst_cosine } => {
                format!("cosine with the original {mean_cosine:.6} on average, {worst_cosine:.6} at worst")
            }
            Self::Labels { same_label, largest_difference } => {
                let same = same_label * 100.0;
                format!("the same label for {same:.1} %, scores differ by at most {largest_difference:.6}")
            }
            Self::Tags { same_tag, tokens } => {
                format!("the same tag for {:.1} % of {tokens} tokens that either tags", same_tag * 100.0)
            }
            Self::Tokens { same_token, mean_divergence, tokens, inputs_cut, cut_after } => {
                let cut = match inputs_cut {
                    0 => String::new(),
                    cut => format!(" (of {cut} prompts only the first {cut_after})"),
                };
                format!(
                    "the same next token for {:.1} % of {tokens} tokens{cut}, mean divergence (KL) {mean_divergence:.6} nats",
                    same_token * 100.0
                )
            }
        }
    }
}

impl From<Removed> for Lost {
    fn from(removed: Removed) -> Self {
        match removed {
            Removed::Heads(heads) => Self::Heads { heads },
            Removed::Layers(layers) => Self::Layers { layers },
            Removed::Weights { zeros, parameters } => Self::Weights { zeros, parameters },
        }
    }
}

impl Lost {
    fn words(&self) -> String {
        let list = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Heads { heads: layers } => {
                let each = layers.iter().enumerate().map(|(layer, heads)| format!("{} of layer {layer}", list(heads)));
                format!("heads {} (counted from 0)", each.collect::<Vec<_>>().join("; "))
            }
            Self::Layers { layers } => format!("layers {} (counted from 0)", list(layers)),
            Self::Weights { zeros, parameters } => format!(
                "nothing, but {} of {} numbers are 0, {:.1} %; files are as large as before, unless they are compressed, and products \
                 take as long",
                thousands(*zeros),
                thousands(*parameters),
                *zeros as f64 / (*parameters as f64).max(1.0) * 100.0
            ),
        }
    }
}
