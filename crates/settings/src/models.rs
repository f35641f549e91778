//! `augur models`: what it can do, and which settings each takes.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use prediction::{Label, ModelName};

use crate::{
    FileSettings, IsaSettings, MachineSettings, ModelVersion, ModelsDirSettings, commands::model_name,
    groups::positive_duration, model_version::model_version,
};

/// What `augur models` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelsCommand {
    /// Lists what is in the directory of models
    ///
    /// What is broken is listed with its reason: a server would not start with it. Files are read and compared with what pins
    /// them, but models are not loaded; `augur models inspect` does.
    Ls(ListModels),
    /// Loads one model, and shows what it is, takes, gives and costs
    ///
    /// Exit status: 0 when it loads and runs its example, 1 otherwise.
    Inspect(InspectModel),
    /// Copies a model into the directory of models, once it has loaded and run its example
    ///
    /// What that found out of its weights and packed is kept for the first start of a server, in .prepared of that directory.
    ///
    /// A model is a directory with a model.toml, or one as Hugging Face has it: config.json, model.safetensors, and tokenizer.json
    /// or preprocessor_config.json; or a GGUF file, or a directory with one. Running servers that serve the directory of models
    /// load it by themselves.
    Add(AddModel),
    /// Fetches a model from the Hugging Face hub into the directory of models, once it has loaded and run its example
    ///
    /// Of a repository with GGUF files, one is fetched: --file says which, where there are several.
    ///
    /// Only what the model reads is fetched, each file compared with the digest that the hub states. What a broken connection
    /// leaves is kept, and fetched on from there the next time. The commit that was fetched is written down beside the files, in
    /// augur-source.json. For the first start of a server the same is kept as by `augur models add`.
    #[command(after_help = "Examples:\n  \
        augur models pull sentence-transformers/all-MiniLM-L6-v2\n  \
        augur models pull sentence-transformers/all-MiniLM-L6-v2@c9745ed1d9f207416be6d2e6f8de32d1f16199bf\n  \
        augur models pull Qwen/Qwen2.5-0.5B-Instruct-GGUF --file qwen2.5-0.5b-instruct-q4_k_m.gguf")]
    Pull(PullModel),
    /// Makes a smaller version of a model, beside it, after showing what it is worth
    ///
    /// Encoders of texts become bf16 or int8, text generators (GGUF files of floats) q8_0 or q4_k, and of networks for images the
    /// weights become bf16. It is made in a hidden directory of the directory of models; size, speed and agreement with the original
    /// on a set of inputs are shown, and only then it is put into its place, as another version of the same model, owner/name@FORM:
    /// who asks for the name alone goes on getting the default version, until `augur models default` declares another. What was shown is
    /// kept in augur-report.json beside its files; `augur models inspect` shows it again. For the first start of a server the same is kept as by
    /// `augur models add`.
    ///
    /// Exit status: 0 when it is in its place; 3 when it was shown and nothing is kept, because nobody said yes; 1 when it cannot be
    /// made.
    #[command(after_help = "Examples:\n  \
        augur models quantize sentence-transformers/all-minilm-l6-v2 --to int8\n  \
        augur models quantize my/generator --to q4_k --calibration inputs.jsonl --yes")]
    Quantize(QuantizeModel),
    /// Makes a version of a model without what matters least in it, beside it, after showing what it is worth
    ///
    /// Of each layer some attention heads are removed, or whole layers are: what is left is smaller and faster. Which ones, a set of
    /// inputs says. Or the smallest weights become 0, which makes nothing faster here. There is no training afterwards. Encoders of texts,
    /// vision transformers and text generators can be pruned so, other networks for images by --sparsity alone. It is made, shown and put
    /// into its place as by `augur models quantize`.
    ///
    /// Exit status: 0 when it is in its place; 3 when it was shown and nothing is kept, because nobody said yes; 1 when it cannot be
    /// made.
    #[command(after_help = "Examples:\n  \
        augur models prune sentence-transformers/all-minilm-l6-v2 --layers 1\n  \
        augur models prune my/classifier --heads 2 --calibration inputs.jsonl --yes\n  \
        augur models prune my/generator --layers 4 --calibration inputs.jsonl")]
    Prune(PruneModel),
    /// Says which version of a model its name alone means, or changes that
    ///
    /// Of the versions of a model that lie beside each other, owner/name/ and owner/name@label/, the name alone means the one without
    /// a label, until another is declared here, in the file owner/name@default. Running servers that serve the directory of models
    /// follow within seconds.
    #[command(after_help = "Examples:\n  \
        augur models default my/encoder                # says which it is\n  \
        augur models default my/encoder@int8           # by label\n  \
        augur models default my/encoder:0123456789ab   # by digits")]
    Default(DefaultModel),
    /// Measures one model on this machine: latency and throughput, by length of text and by how many ask at once
    ///
    /// It runs in the engine that servers run it in, without their store and queue. A text generator goes on from prompts by one token,
    /// which shows how fast it reads them, and by 32.
    Bench(BenchModel),
}

/// The settings of `augur models ls`.
#[derive(Args, Clone, Debug)]
pub struct ListModels {
    /// How it is printed.
    #[command(flatten)]
    pub print: PrintSettings,
    /// Where models are.
    #[command(flatten)]
    pub dir: ModelsDirSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// The settings of `augur models inspect`.
#[derive(Args, Clone, Debug)]
pub struct InspectModel {
    /// The model, as owner/name, which means its default version, owner/name@label or owner/name:digits; a name alone means
    /// augur/NAME.
    #[arg(value_parser = model_version)]
    pub model: ModelVersion,
    /// How it is printed.
    #[command(flatten)]
    pub print: PrintSettings,
    /// What it computes with.
    #[command(flatten)]
    pub instructions: IsaSettings,
    /// Where models are.
    #[command(flatten)]
    pub dir: ModelsDirSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// The settings of `augur models add`.
#[derive(Args, Clone, Debug)]
pub struct AddModel {
    /// The model's directory, or its GGUF file.
    #[arg(value_name = "DIR")]
    pub from: PathBuf,
    /// What to call it, as owner/name, if not as its manifest, its directory or its file says; a name alone means augur/NAME.
    #[arg(long, value_parser = model_name)]
    pub name: Option<ModelName>,
    /// Adds it beside other versions of that name, as owner/name@LABEL.
    #[arg(long)]
    pub label: Option<Label>,
    /// What to do with one that is there.
    #[command(flatten)]
    pub replace: ReplaceSettings,
    /// What it computes with.
    #[command(flatten)]
    pub instructions: IsaSettings,
    /// Where models are.
    #[command(flatten)]
    pub dir: ModelsDirSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// The settings of `augur models pull`.
#[derive(Args, Clone, Debug)]
pub struct PullModel {
    /// The repository, and a branch, tag or commit if not main.
    #[arg(value_name = "OWNER/NAME[@REVISION]")]
    pub repository: Repository,
    /// The GGUF file to fetch, where the repository has several.
    #[arg(long = "file", value_name = "NAME.gguf")]
    pub gguf: Option<String>,
    /// Puts it beside other versions of that name, as owner/name@LABEL.
    #[arg(long)]
    pub label: Option<Label>,
    /// What to do with one that is there.
    #[command(flatten)]
    pub replace: ReplaceSettings,
    /// Where the hub is, and who asks.
    #[command(flatten)]
    pub hub: HubSettings,
    /// What it computes with.
    #[command(flatten)]
    pub instructions: IsaSettings,
    /// Where models are.
    #[command(flatten)]
    pub dir: ModelsDirSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// The settings of `augur models quantize`.
#[derive(Args, Clone, Debug)]
pub struct QuantizeModel {
    /// The model, as owner/name, which means its default version, owner/name@label or owner/name:digits; a name alone means
    /// augur/NAME.
    #[arg(value_parser = model_version)]
    pub model: ModelVersion,
    /// What its weights become.
    #[arg(long, value_name = "FORM")]
    pub to: WeightForm,
    /// What becomes of the result.
    #[command(flatten)]
    pub derive: DeriveSettings,
}

/// The settings of `augur models prune`.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("cut").required(true).args(["heads", "layers", "sparsity"]))]
pub struct PruneModel {
    /// The model, as owner/name, which means its default version, owner/name@label or owner/name:digits; a name alone means
    /// augur/NAME.
    #[arg(value_parser = model_version)]
    pub model: ModelVersion,
    /// Removes so many attention heads of each layer: those that add least to hidden states. Of a text generator as many of each group
    /// that shares keys and values, or whole groups.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub heads: Option<usize>,
    /// Removes so many layers: those without which the answers change least.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub layers: Option<usize>,
    /// Makes this share, above 0 and below 1, of each matrix of each layer 0: the weights nearest to it.
    #[arg(long, value_name = "SHARE", value_parser = part)]
    pub sparsity: Option<f64>,
    /// What becomes of the result.
    #[command(flatten)]
    pub derive: DeriveSettings,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "a whole number above 0 is expected".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "a number above 0 and below 1 is expected".to_owned())
}

/// What becomes of a model that is made of another.
#[derive(Args, Clone, Debug)]
pub struct DeriveSettings {
    /// Another model that the result shall be, as owner/name, instead of a version of the same; a name alone means augur/NAME.
    #[arg(long, value_parser = model_name)]
    pub name: Option<ModelName>,
    /// The label that sets the result apart from other versions, if not what was made of it, such as int8 or less-1-layer.
    #[arg(long)]
    pub label: Option<Label>,
    /// Inputs to compare both on, one in JSON on each line, instead of the model's example and some sentences.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Puts it into its place without asking.
    #[arg(long)]
    pub yes: bool,
    /// How it is printed.
    #[command(flatten)]
    pub print: PrintSettings,
    /// What it computes with.
    #[command(flatten)]
    pub instructions: IsaSettings,
    /// Where models are.
    #[command(flatten)]
    pub dir: ModelsDirSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// What weights become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightForm {
    /// Floats of 8 significant bits.
    Bf16,
    /// Whole numbers of 8 bits when they are multiplied, bf16 in the file.
    Int8,
    /// Blocks of 32 numbers of 8 bits.
    #[value(name = "q8_0")]
    Q8_0,
    /// Blocks of 256 numbers of 4 bits.
    #[value(name = "q4_k")]
    Q4K,
}

/// The settings of `augur models default`.
#[derive(Args, Clone, Debug)]
pub struct DefaultModel {
    /// The version that becomes the default, as owner/name@label or owner/name:digits; owner/name says which one is; a name alone
    /// means augur/NAME.
    #[arg(value_parser = model_version)]
    pub model: ModelVersion,
    /// Where models are.
    #[command(flatten)]
    pub dir: ModelsDirSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// The settings of `augur models bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchModel {
    /// The model, as owner/name, which means its default version, owner/name@label or owner/name:digits; a name alone means
    /// augur/NAME.
    #[arg(value_parser = model_version)]
    pub model: ModelVersion,
    /// How long each measurement takes.
    #[arg(long, default_value = "1s", value_parser = positive_duration, value_name = "DURATION")]
    pub each: Duration,
    /// How it is printed.
    #[command(flatten)]
    pub print: PrintSettings,
    /// What it computes with.
    #[command(flatten)]
    pub machine: MachineSettings,
    /// Where models are.
    #[command(flatten)]
    pub dir: ModelsDirSettings,
    /// Where the configuration file is.
    #[command(flatten)]
    pub file: FileSettings,
}

/// How something is printed.
#[derive(Args, Clone, Copy, Debug)]
pub struct PrintSettings {
    /// Prints JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// What is done with a model that is there.
#[derive(Args, Clone, Copy, Debug)]
pub struct ReplaceSettings {
    /// Puts it in the place of a model of that name, which is refused otherwise.
    #[arg(long)]
    pub replace: bool,
}

/// Where the Hugging Face hub is.
#[derive(Args, Clone)]
#[command(next_help_heading = "Hub")]
pub struct HubSettings {
    /// The hub that `augur models pull` asks, or a mirror of it.
    #[arg(long, env = "HF_ENDPOINT", default_value = "https://huggingface.co", value_name = "URL")]
    pub hf_endpoint: String,
    /// The token that it shows the hub, and nobody else, for models that not everybody may fetch.
    #[arg(long, env = "HF_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub hf_token: Option<String>,
}

impl std::fmt::Debug for HubSettings {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubSettings").field("hf_endpoint", &self.hf_endpoint).finish_non_exhaustive()
    }
}

/// A model's repository on the hub, at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// `owner/name`, as the hub writes it.
    pub id: String,
    /// What it is called here.
    pub name: ModelName,
    /// A branch, tag or commit.
    pub revision: String,
}

impl FromStr for Repository {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        if revision.is_empty() || !revision.chars().all(|c| c.is_ascii_graphic() && !"\\%?#:".contains(c)) {
            return Err("after @ comes a branch, a tag or a commit".to_owned());
        }
        let name = id.parse::<ModelName>().map_err(|error| error.to_string())?;
        Ok(Self { id: id.to_owned(), name, revision: revision.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_read_with_its_revision() {
        let read = |text: &str| text.parse::<Repository>().map(|read| (read.id, read.name.to_string(), read.revision));
        let of = |id: &str, name: &str, revision: &str| Ok((id.to_owned(), name.to_owned(), revision.to_owned()));
        assert_eq!(read("Owner/Some-Model"), of("Owner/Some-Model", "owner/some-model", "main"));
        assert_eq!(read("owner/name@refs/pr/1"), of("owner/name", "owner/name", "refs/pr/1"));
        for wrong in
            ["name", "owner/name/more", "owner/../name", "owner/name@", "owner/name@a b", "owner/name@a?b", "@main"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
