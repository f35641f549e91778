//! The encoder itself: embeddings, and layers of attention and two dense parts, on kernels.
//!
//! After Devlin et al., "BERT" (2018, arXiv 1810.04805), as transformers computes it and the families that follow it, layer norm
//! after each sum.
//! Hidden states are one matrix, a row for each token of each text, one text after the other: nothing is padded.

use std::{io, mem, num::NonZeroUsize, path::Path, slice};

use kernels::{Activation, Cpu, Precision, Rows, Scratch};

use super::{
    config::Config,
    embeddings::{self, Embeddings},
    family::Family,
    files::Settings,
    head::Head,
    relative,
    task::Task,
    tokenize::Tokens,
};
use crate::{
    LoadError, Machine,
    map::Weights,
    plain::WEIGHTS,
    transformer::{Crew, Hidden, Layer, Order, Room, Shape, States, Tensors, room_for, view, view_mut},
    turn::Turn,
};

/// A loaded text encoder, from tokens to embeddings or a classifier's outputs, without the queue and the JSON around it. Its
/// weights are packed once for the machine's instructions; a batch is shared by all threads of the machine.
pub struct Encoder {
    cpu: Cpu,
    embeddings: Embeddings,
    shape: Shape,
    layers: Vec<Layer>,
    head: Head,
    room: Room<States>,
}

/// An engine beside an encoder's own: it has the same weights, and threads of its own.
pub struct Sharer<'a> {
    encoder: &'a Encoder,
    room: Room<States>,
}

/// The tokens of a text, or of a pair of texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) ids: &'a [u32],
    /// The type of each; empty where all are 0.
    pub(super) types: &'a [u32],
}

impl<'a> From<&'a Tokens> for Text<'a> {
    fn from(Tokens { ids, types }: &'a Tokens) -> Self {
        Self { ids, types }
    }
}

/// The encoder's tensors in its file, which may hold more than the encoder.
pub(super) fn tensors<'a>(config: &Config, weights: &'a Weights, cpu: Cpu, precision: Precision) -> Tensors<'a> {
    let prefix = prefix(config.family, weights);
    Tensors { weights, prefix, cpu, precision, epsilon: config.layer_norm_eps as f32 }
}

/// What its layers have in common.
pub(super) fn shape(config: &Config) -> Shape {
    Shape {
        order: Order::NormLast,
        width: config.hidden_size,
        between: config.intermediate_size,
        head_width: config.head_width(),
        activation: config.hidden_act.into(),
    }
}

impl Encoder {
    /// Reads the encoder of a Hugging Face directory whose model embeds text.
    ///
    /// # Errors
    /// When a file cannot be read, the files do not fit each other, a tensor is missing or of another shape, and when the model
    /// was made for something else.
    pub fn open(dir: &Path, machine: Machine, precision: Precision) -> Result<Self, LoadError> {
        let settings = Settings::read(dir, Some(Task::FeatureExtraction.name()))?;
        Self::load(&settings, &Weights::open(&dir.join(WEIGHTS))?, machine, precision)
    }

    /// Reads the tensors that the configuration asks for.
    ///
    /// # Errors
    /// When one is missing or of another shape, and when the system gives no threads.
    pub(super) fn load(
        settings: &Settings,
        weights: &Weights,
        machine: Machine,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        let config = &settings.config;
        let cpu = machine.cpu;
        let (tensors, shape) = (tensors(config, weights, cpu, precision), shape(config));
        let dense =
            |tensors: &Tensors<'_>, name: &str, outputs, inputs| tensors.dense(&[name.to_owned()], outputs, inputs);
        let embeddings =
            Embeddings::load(&tensors, config, |name, outputs, inputs| dense(&tensors, name, outputs, inputs))?;
        let bias = relative::load(&tensors, config)?;
        let layer = |index: usize| {
            let (name, heads) = (format!("{}.{index}", config.family.layers()), config.heads(index));
            let bias = bias.as_ref().map(|bias| bias.of(&heads));
            Layer::load(&tensors, &name, &config.family.layer(), &shape, heads.len(), bias)
        };
        // Where digests are taken meanwhile, the other threads have to do.
        let readers = if weights.is_trusted() { machine } else { Machine { threads: NonZeroUsize::MIN, ..machine } };
        let room = Room::new(machine, precision)
            .map_err(|error| LoadError::new(weights.path(), format!("no threads to run it: {error}")))?;
        Ok(Self {
            cpu,
            embeddings,
            shape,
            layers: readers.each(config.num_hidden_layers, layer)?,
            head: Head::load(tensors, settings, dense)?,
            room,
        })
    }

    /// What `finish` makes of the embedding of each text, which is not normalised, on the thread that computed it; `None` when
    /// `stop` said so between two layers. Texts are ids of tokens, at least one and at most as many as there are positions
    /// each.
    ///
    /// # Panics
    /// When a text has too many tokens, or one that the vocabulary lacks.
    pub fn embed<T: Send>(
        &self,
        texts: &[&[u32]],
        stop: impl Fn() -> bool + Sync,
        finish: impl Fn(Vec<f32>) -> T + Sync,
    ) -> Option<Vec<T>> {
        let texts: Vec<_> = texts.iter().map(|ids| Text { ids, types: &[] }).collect();
        self.run(&texts, &mut Turn::kept(), stop, |_, embedding| finish(embedding))
    }

    /// As [`embed`](Self::embed), of texts that somebody wants. Where texts are dealt to threads and some would have nothing to do,
    /// `passes` is asked whether another caller begins at once; then what is left is theirs to finish.
    ///
    /// # Panics
    /// As [`embed`](Self::embed).
    pub fn embed_in_turn(&self, texts: &[&[u32]], passes: &mut dyn FnMut() -> bool) -> Vec<Vec<f32>> {
        self.embed_in(&self.room, texts, &mut Turn::new(passes))
    }

    /// An engine of so many threads beside this one, which shares its weights: both compute at the same time.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn beside(&self, threads: NonZeroUsize) -> io::Result<Sharer<'_>> {
        Ok(Sharer { encoder: self, room: self.room.beside(threads)? })
    }

    fn embed_in(&self, room: &Room<States>, texts: &[&[u32]], turn: &mut Turn<'_>) -> Vec<Vec<f32>> {
        let texts: Vec<_> = texts.iter().map(|ids| Text { ids, types: &[] }).collect();
        self.run_in(room, &texts, turn, || false, |_, embedding| embedding).expect("nothing stops it")
    }

    /// As [`embed`](Self::embed), for whatever the model's head gives of a text; `finish` is also told the text's place.
    ///
    /// # Panics
    /// As [`embed`](Self::embed), and when a token has a type that the encoder lacks.
    pub(super) fn run<T: Send>(
        &self,
        texts: &[Text<'_>],
        turn: &mut Turn<'_>,
        stop: impl Fn() -> bool + Sync,
        finish: impl Fn(usize, Vec<f32>) -> T + Sync,
    ) -> Option<Vec<T>> {
        self.run_in(&self.room, texts, turn, stop, finish)
    }

    fn run_in<T: Send>(
        &self,
        room: &Room<States>,
        texts: &[Text<'_>],
        turn: &mut Turn<'_>,
        stop: impl Fn() -> bool + Sync,
        finish: impl Fn(usize, Vec<f32>) -> T + Sync,
    ) -> Option<Vec<T>> {
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        room.run(&lengths, turn, |group, crew, states| {
            let chosen: Vec<_> = group.iter().map(|text| texts[*text]).collect();
            let numbers = self.forward(&chosen, crew, states, &stop)?;
            Some(group.iter().zip(numbers).map(|(text, numbers)| finish(*text, numbers)).collect())
        })
    }

    /// Takes texts through all layers, and what the head gives of each.
    fn forward(
        &self,
        texts: &[Text<'_>],
        crew: &mut Crew<'_>,
        states: &mut States,
        stop: &impl Fn() -> bool,
    ) -> Option<Vec<Vec<f32>>> {
        let mut hidden = self.begin(texts, crew, states);
        let is_done = Layer::pass_all(&self.layers, &self.shape, crew, states, &mut hidden, stop);
        let head = |hidden: &mut Vec<f32>| self.head.of(hidden, self.shape.width, crew, states);
        let results = is_done.then(|| hidden.apply("head", head));
        states.end(hidden);
        results
    }

    /// Reads what it did not need so far.
    ///
    /// # Errors
    /// When that cannot be read, or is not what it was; then [`is_broken`](Self::is_broken).
    pub(super) fn complete(&self) -> Result<(), LoadError> {
        self.embeddings.words.complete()
    }

    /// Whether it lost weights that it had not read yet, so that what it computes is worth nothing.
    pub(super) fn is_broken(&self) -> bool {
        self.embeddings.words.is_lost()
    }

    /// The layers, first to last: whoever asks what one is worth runs the others.
    pub(super) fn layers_mut(&mut self) -> &mut Vec<Layer> {
        &mut self.layers
    }

    /// Takes text after text through all layers, and shows of each layer what its heads gathered, side by side: a row for each token.
    pub(super) fn observe(&self, texts: &[Text<'_>], mut see: impl FnMut(usize, Rows<'_>)) {
        let mut scratch = [Scratch::default()];
        let mut crew = Crew::seen(self.cpu, &mut scratch);
        let mut states = States::default();
        for text in texts {
            let mut hidden = self.begin(slice::from_ref(text), &mut crew, &mut states);
            for (index, layer) in self.layers.iter().enumerate() {
                layer.pass(&self.shape, &mut crew, &mut states, &mut hidden);
                see(index, view(&states.context, states.rows(), layer.context_width()));
            }
            states.end(hidden);
        }
    }

    /// Hidden states before the first layer.
    fn begin(&self, texts: &[Text<'_>], crew: &mut Crew<'_>, states: &mut States) -> Hidden {
        let mut hidden = states.begin(texts.iter().map(|text| text.ids.len()), self.shape.width);
        hidden.apply("embeddings", |hidden| {
            let (rows, narrow) = (states.rows(), self.embeddings.width);
            let sum = &mut states.sum;
            self.embeddings.of(self.cpu, texts, room_for(sum, rows * narrow), room_for(hidden, rows * narrow));
            if let Some(widen) = &self.embeddings.widen {
                let to = view_mut(sum, rows, self.shape.width);
                crew.multiply(widen, Activation::None, view(hidden, rows, narrow), None, to);
                mem::swap(hidden, sum);
            }
        });
        hidden
    }
}

impl Sharer<'_> {
    /// The embedding of each text, which is not normalised, as [`Encoder::embed`] gives it.
    ///
    /// # Panics
    /// As [`Encoder::embed`].
    pub fn embed(&self, texts: &[&[u32]]) -> Vec<Vec<f32>> {
        self.encoder.embed_in(&self.room, texts, &mut Turn::kept())
    }
}

/// What the names of the encoder's tensors begin with in this file: nothing, where it holds no more than the encoder.
pub(super) fn prefix(family: Family, weights: &Weights) -> &'static str {
    let prefix = family.prefix();
    if weights.shape(&format!("{prefix}{}", embeddings::WORDS)).is_some() { prefix } else { "" }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use candle_core::DType;

    use super::{
        super::{
            files::Pooling,
            tests::{Tiny, tiny_goldens},
        },
        *,
    };

    #[test]
    fn engines_that_share_weights_give_what_one_alone_does() {
        let tiny = Tiny::new(&tiny_goldens());
        tiny.write("gelu", DType::F32, str::to_owned);
        let (settings, weights) = tiny.read(Pooling::Mean).expect("is read");
        let two = NonZeroUsize::new(2).expect("more than none");
        let machine = Machine { threads: two, ..Machine::default() };
        let encoder = Encoder::load(&settings, &weights, machine, Precision::F32).expect("loads");
        let texts: Vec<Vec<u32>> = (0..12_u32).map(|text| (0..=text % 9).collect()).collect();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let expected = encoder.embed(&texts, || false, |embedding| embedding).expect("was not stopped");

        let mut asked = 0;
        let in_turn = encoder.embed_in_turn(&texts, &mut || {
            asked += 1;
            false
        });
        assert!(in_turn == expected && asked > 0, "asked {asked} times whether another begins");
        let sharers = [NonZeroUsize::MIN, two].map(|threads| encoder.beside(threads).expect("threads"));
        thread::scope(|scope| {
            let under_way = sharers.each_ref().map(|sharer| scope.spawn(|| sharer.embed(&texts)));
            for found in under_way {
                assert_eq!(found.join().expect("does not panic"), expected);
            }
        });
    }
}
