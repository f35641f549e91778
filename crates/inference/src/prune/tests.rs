//! Text generators without some of their heads, layers or weights, against what transformers computes
//! (`goldens/make_pruned_generators.py`), which also found by itself what to remove. Encoders are tested from outside.

#[path = "../../tests/stated/mod.rs"]
mod stated;

use std::{
    borrow::Cow,
    fs::{self, File},
    path::{Path, PathBuf},
};

use candle_core::quantized::{GgmlDType, gguf_file};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use self::stated::Stated;
use super::{Cut, Removed, decoder::write_sparse, prune};
use crate::{
    Machine,
    generate::{Anatomy, Generator},
    gguf::{Change, Gguf, Outline, Value as Said},
    inspect,
    quantize::{Form, quantize, tests::wide},
};

/// The largest difference allowed between the reference's logits and ours, where weights are floats, and where they are in blocks: candle
/// rounds what those are multiplied with.
const TOLERANCE: f32 = 1e-4;
const BLOCK_TOLERANCE: f32 = 0.1;

#[derive(Deserialize)]
struct Golden {
    file: String,
    /// Which of the file's layers the model has, in what order.
    order: Vec<usize>,
    /// Which of those add a sixteenth of what they would.
    faint: Vec<usize>,
    /// One after the other.
    cuts: Vec<Stated>,
    removed: Vec<Value>,
    /// What the model is judged by.
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    /// After the last token.
    logits: Vec<f32>,
}

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// A model in a directory of its own.
struct Home(TempDir);

impl Home {
    fn of(bytes: &[u8]) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        fs::create_dir(home.path().join("model")).expect("makes a directory");
        fs::write(home.path().join("model/model.gguf"), bytes).expect("writes");
        Self(home)
    }

    fn golden(file: &str) -> Self {
        Self::of(&fs::read(goldens("generators").join(file)).expect("a golden file"))
    }

    /// With these of its layers, in this order, and some of those fainter.
    fn stacked(&self, order: &[usize], faint: &[usize]) -> Self {
        let (gguf, made) = (self.gguf(), tempfile::tempdir().expect("a directory"));
        let of = |layer: usize| {
            let own = format!("blk.{}.", order[layer]);
            let is_own = move |tensor: &Outline<'_>| tensor.name.starts_with(&own);
            gguf.outlines().into_iter().filter(is_own).map(move |tensor| {
                (tensor.name.replacen(&format!("blk.{}", order[layer]), &format!("blk.{layer}"), 1), tensor)
            })
        };
        let others = gguf.outlines().into_iter().filter(|tensor| !tensor.name.starts_with("blk."));
        let all = others.map(|tensor| (tensor.name.to_string(), tensor)).chain((0..order.len()).flat_map(of));
        let (from, tensors): (Vec<_>, Vec<_>) =
            all.map(|(name, tensor)| (tensor.name.clone(), Outline { name: name.into(), ..tensor })).unzip();
        let family = gguf.need("general.architecture", Said::text).expect("there");
        fs::create_dir(made.path().join("model")).expect("makes a directory");
        let count = [(format!("{family}.block_count"), Change::Number(order.len() as u32))];
        let added = ["attn_output.weight", "ffn_down.weight"];
        let added: Vec<_> = faint.iter().flat_map(|layer| added.map(|part| format!("blk.{layer}.{part}"))).collect();
        let content = |place: usize| {
            let (from, tensor) = (&from[place], &tensors[place]);
            if !added.iter().any(|name| *name == tensor.name) {
                return gguf.bytes(from).map(Cow::Borrowed);
            }
            let numbers = gguf.numbers(from, &tensor.shape)?;
            gguf.encoded(numbers.into_iter().map(|number| number / 16.0).collect(), tensor).map(Cow::Owned)
        };
        gguf.write_as(&made.path().join("model/model.gguf"), &count, &tensors, content).expect("writes");
        Self(made)
    }

    fn gguf(&self) -> Gguf {
        Gguf::open(&self.0.path().join("model/model.gguf")).expect("sound")
    }

    fn pruned(&self, cut: Cut, texts: &[String]) -> Result<(Self, Removed), String> {
        let made = tempfile::tempdir().expect("a directory");
        let to = made.path().join("model");
        fs::create_dir(&to).expect("makes a directory");
        let found = inspect(&self.0.path().join("model")).expect("sound");
        let inputs: Vec<_> = texts.iter().map(|text| json!({"prompt": text})).collect();
        let name = "my/model".parse().expect("a name");
        let removed = prune(&found, cut, &inputs, &name, &to, Machine::default());
        removed.map(|removed| (Self(made), removed)).map_err(|error| error.to_string())
    }
}

#[test]
fn what_is_left_computes_what_transformers_does_without_the_rest() {
    let goldens: Value =
        serde_json::from_slice(&fs::read(goldens("pruned_generators.json")).expect("goldens")).expect("JSON");
    let goldens: Vec<Golden> = serde_json::from_value(goldens["models"].clone()).expect("goldens");
    for golden in goldens {
        let mut home = Home::golden(&golden.file).stacked(&golden.order, &golden.faint);
        let before = home.gguf();
        for (cut, expected) in golden.cuts.iter().zip(&golden.removed) {
            let who = format!("{}, {:?}", golden.file, Cut::from(*cut));
            let (made, removed) =
                home.pruned((*cut).into(), &golden.texts).unwrap_or_else(|error| panic!("{who}: {error}"));
            let removed = match removed {
                Removed::Heads(heads) => json!(heads),
                Removed::Layers(layers) => json!(layers),
                Removed::Weights { zeros, parameters } => {
                    assert_eq!(parameters, before.parameters(), "{who}");
                    json!(zeros)
                }
            };
            assert_eq!(removed, *expected, "{who}: what is removed");
            home = made;
        }
        let generator = Generator::load(&home.gguf(), Machine::default())
            .unwrap_or_else(|error| panic!("{}: {error}", golden.file));
        let most = if golden.file.contains("-q") { BLOCK_TOLERANCE } else { TOLERANCE };
        for case in &golden.cases {
            let Some(ours) = generator.logits_after_each_token(&case.text).pop() else {
                panic!("{:?} has tokens", case.text)
            };
            let apart = ours.iter().zip(&case.logits).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
            let who = format!("{}, {:?}", golden.file, golden.removed);
            assert!(ours.len() == case.logits.len() && apart <= most, "{who}: {apart} apart after {:?}", case.text);
        }
    }
}

#[test]
fn what_is_left_of_a_file_is_as_it_was() {
    let texts = ["The ships pass".to_owned()];
    for file in ["llama-q4_0.gguf", "qwen2-q4_0.gguf"] {
        let home = Home::golden(file);
        let (made, removed) = home.pruned(Cut::Layers(1), &texts).expect("prunes");
        let Removed::Layers(removed) = removed else { panic!("layers") };
        let (before, after) = (home.gguf(), made.gguf());
        let family = before.need("general.architecture", Said::text).expect("there");
        assert_eq!(after.need(&format!("{family}.block_count"), Said::count), Ok(1));
        for key in before.keys().filter(|key| !key.ends_with(".block_count")) {
            let value = |gguf: &Gguf| gguf.find(key, |value| Some(value.clone())).expect("there");
            assert_eq!(value(&before), value(&after), "{key}");
        }
        let gone = format!("blk.{}.", removed[0]);
        let kept = || before.outlines().into_iter().filter(|tensor| !tensor.name.starts_with(&gone));
        assert_eq!(kept().count(), after.outlines().len());
        for tensor in kept() {
            let new = tensor.name.replace("blk.1.", "blk.0.");
            assert_eq!(before.bytes(&tensor.name).expect("there"), after.bytes(&new).expect("there"), "{new}");
        }
        let mut reader = File::open(made.0.path().join("model/model.gguf")).expect("opens");
        gguf_file::Content::read(&mut reader).expect("candle reads it");
    }
}

#[test]
fn a_file_with_fewer_heads_says_how_wide_they_are() {
    let texts = ["The ships pass".to_owned()];
    let home = Home::golden("llama-q8_0.gguf");
    let (made, _) = home.pruned(Cut::Heads(2), &texts).expect("prunes");
    let (before, after) = (home.gguf(), made.gguf());
    for (key, expected) in [
        ("attention.head_count", 2),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 16),
        ("attention.value_length", 16),
        ("rope.dimension_count", 16),
        ("embedding_length", 64),
    ] {
        assert_eq!(after.need(&format!("llama.{key}"), Said::count), Ok(expected), "{key}");
    }
    // Columns of heads of 16 numbers are halves of blocks of 32, and are encoded anew.
    let numbers = |gguf: &Gguf, columns| gguf.numbers("blk.0.attn_output.weight", &[64, columns]).expect("numbers");
    let Removed::Heads(removed) = home.pruned(Cut::Heads(2), &texts).expect("prunes").1 else { panic!("heads") };
    let kept = (0..4).filter(|head| !removed[0].contains(head));
    let columns: Vec<_> = kept.flat_map(|head| head * 16..(head + 1) * 16).collect();
    let (before, after) = (numbers(&before, 64), numbers(&after, 32));
    for (row, (before, after)) in before.chunks(64).zip(after.chunks(32)).enumerate() {
        let largest = columns.iter().fold(0.0_f32, |most, column| most.max(before[*column].abs()));
        for (column, after) in columns.iter().zip(after) {
            let apart = (before[*column] - after).abs();
            // Half a step, and the rounding of the scale to 16 bits.
            assert!(apart <= largest / 127.0 * 0.5 + largest * 1e-3, "{row}, {column}: {apart}");
        }
    }
    // Half a block cannot be said.
    let refusal = made.pruned(Cut::Heads(1), &texts).err().expect("is refused");
    assert!(
        refusal.contains("attn_output.weight\" would have 16 columns, no multiple of 32, the blocks of Q8_0"),
        "{refusal}"
    );
}

#[test]
fn small_numbers_in_blocks_become_zeros_and_others_stay() {
    let (home, anatomy) = (tempfile::tempdir().expect("a directory"), |name| Anatomy {
        architecture: name,
        layers: 1,
        heads: 1,
        key_heads: 1,
        head_width: 4,
        width: 256,
    });
    let path = |name: &str| home.path().join(name);
    fs::write(path("floats.gguf"), wide()).expect("writes");
    let floats = Gguf::open(&path("floats.gguf")).expect("sound");
    use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    // With the most that numbers between -1 and 1 are moved by, and whether a block of the kind always holds 0.
    for (kind, most, holds_nothing) in [
        (Q8_0, 0.005, true),
        (Q6K, 0.04, true),
        (Q5_0, 0.07, true),
        (Q4_0, 0.13, true),
        (Q3K, 0.35, true),
        (Q5_1, 0.04, false),
        (Q4_1, 0.07, false),
        (Q5K, 0.06, false),
        (Q4K, 0.12, false),
        (Q2K, 0.6, false),
    ] {
        let mut tensors = floats.outlines();
        tensors.iter_mut().filter(|tensor| tensor.shape.len() > 1).for_each(|tensor| tensor.kind = kind);
        let stored = floats.stored();
        let content = |place: usize| match stored[place] {
            (name, _, [_]) => floats.bytes(name).map(Cow::Borrowed),
            (name, _, shape) => floats.encoded(floats.numbers(name, shape)?, &tensors[place]).map(Cow::Owned),
        };
        floats.write_as(&path("blocks.gguf"), &[], &tensors, content).expect("writes");
        let blocks = Gguf::open(&path("blocks.gguf")).expect("sound");
        let zeros = write_sparse(&blocks, &anatomy("llama"), 0.5, "", &path("sparse.gguf")).expect("writes");
        let sparse = Gguf::open(&path("sparse.gguf")).expect("sound");
        assert_eq!(blocks.bytes("token_embd.weight"), sparse.bytes("token_embd.weight"), "{kind:?}: no layer's");
        let [before, after] =
            [&blocks, &sparse].map(|gguf| gguf.numbers("blk.0.attn_q.weight", &[4, 256]).expect("numbers"));
        let mut order: Vec<usize> = (0..before.len()).collect();
        order.sort_by(|one, other| before[*one].abs().total_cmp(&before[*other].abs()));
        let (small, large) = order.split_at(512);
        assert!(
            small.iter().all(|place| if holds_nothing { after[*place] == 0.0 } else { after[*place].abs() < most }),
            "{kind:?}"
        );
        let apart = large.iter().map(|place| (before[*place] - after[*place]).abs()).fold(0.0, f32::max);
        assert!(apart < most, "{kind:?}: {apart}");
        let others = ["blk.0.attn_norm.weight", "token_embd.weight", "blk.0.attn_q.weight"].map(|name| {
            let (_, _, shape) = sparse.stored().into_iter().find(|(stored, ..)| *stored == name).expect("there");
            sparse.numbers(name, shape).expect("numbers").iter().filter(|number| **number == 0.0).count() as u64
        });
        assert_eq!(zeros, others.iter().sum::<u64>(), "{kind:?}: what is said to be 0 is");
    }
}

#[test]
fn what_cannot_be_removed_is_refused() {
    let texts = ["The ships pass".to_owned()];
    for (file, cut, part) in [
        ("llama-f32.gguf", Cut::Heads(0), "when nothing is removed"),
        ("llama-f32.gguf", Cut::Heads(1), "4 attention heads in 2 groups of 2"),
        ("llama-f32.gguf", Cut::Heads(4), "has 4 attention heads; at most 3 can be removed"),
        ("qwen2-f16.gguf", Cut::Heads(2), "is a qwen2, whose files cannot say that there are fewer heads"),
        ("qwen2-f16.gguf", Cut::Layers(2), "has 2 layers; at most 1 can be removed"),
        ("qwen3-f16.gguf", Cut::Layers(usize::MAX), "has 2 layers; at most 1 can be removed"),
        ("qwen3-f16.gguf", Cut::Sparsity(1e-9), "no whole number of any matrix"),
        ("qwen3-f16.gguf", Cut::Sparsity(f64::NAN), "above 0 and below 1"),
    ] {
        let refusal = Home::golden(file).pruned(cut, &texts).err().expect("is refused");
        assert!(refusal.contains(part), "{file}, {cut:?}: {refusal}");
    }
    let home = Home::golden("llama-f32.gguf");
    let unread = home.pruned(Cut::Layers(1), &[]).err().expect("nothing to judge by");
    assert!(unread.contains("without inputs"), "{unread}");
    let long = home.pruned(Cut::Layers(1), &["ships ".repeat(1000)]).map(|(_, removed)| removed);
    assert_eq!(long, Ok(Removed::Layers(vec![1])), "what is longer than the context is cut");
    // What was pruned can be in fewer bits.
    let (shorter, _) = home.pruned(Cut::Layers(1), &texts).expect("prunes");
    let (found, to) =
        (inspect(&shorter.0.path().join("model")).expect("sound"), tempfile::tempdir().expect("a directory"));
    let to = to.path().join("small");
    fs::create_dir(&to).expect("makes a directory");
    quantize(&found, Form::Q8_0, &"my/small".parse().expect("a name"), &to).expect("quantises");
    let said = inspect(&to).expect("sound").spec.description;
    assert!(said.ends_with(" tokens. It lacks 1 layer."), "{said}");
}

#[test]
fn biases_go_with_their_heads() {
    let texts = ["The ships pass".to_owned()];
    let (plain, home) = (Home::golden("llama-f32.gguf").gguf(), tempfile::tempdir().expect("a directory"));
    let numbers = |length: usize| (0..length).map(|index| index as f32).collect::<Vec<_>>();
    let biases = (0..2).flat_map(|layer| {
        [("attn_q", 64), ("attn_k", 32), ("attn_v", 32), ("attn_output", 64)].map(|(part, length)| Outline {
            name: format!("blk.{layer}.{part}.bias").into(),
            kind: GgmlDType::F32,
            shape: vec![length].into(),
        })
    });
    let tensors: Vec<_> = plain.outlines().into_iter().chain(biases).collect();
    let content = |place: usize| match plain.bytes(&tensors[place].name) {
        Ok(bytes) => Ok(Cow::Borrowed(bytes)),
        Err(_) => plain.encoded(numbers(tensors[place].shape[0]), &tensors[place]).map(Cow::Owned),
    };
    fs::create_dir(home.path().join("model")).expect("makes a directory");
    plain.write_as(&home.path().join("model/model.gguf"), &[], &tensors, content).expect("writes");
    let (first, removed) = Home(home).pruned(Cut::Heads(2), &texts).expect("prunes");
    let (second, further) = first.pruned(Cut::Heads(1), &texts).expect("prunes");
    let (Removed::Heads(removed), Removed::Heads(further)) = (removed, further) else { panic!("heads") };
    for layer in 0..2 {
        let bias = |home: &Home, part: &str, length: usize| {
            home.gguf().numbers(&format!("blk.{layer}.{part}.bias"), &[length]).expect("numbers")
        };
        let of = |heads: &[usize]| -> Vec<f32> {
            heads.iter().flat_map(|head| numbers(64)[head * 16..(head + 1) * 16].to_vec()).collect()
        };
        let left: Vec<_> = (0..4).filter(|head| !removed[layer].contains(head)).collect();
        assert_eq!((bias(&first, "attn_q", 32), bias(&first, "attn_k", 32)), (of(&left), numbers(32)));
        let kept = 1 - further[layer][0];
        assert_eq!((bias(&second, "attn_q", 16), bias(&second, "attn_v", 16)), (of(&left[kept..=kept]), of(&[kept])));
        assert_eq!(bias(&second, "attn_output", 64), numbers(64));
    }
    Generator::load(&second.gguf(), Machine::default()).expect("loads");
    let said = inspect(&second.0.path().join("model")).expect("sound").spec.description;
    assert!(said.ends_with(" tokens. Each layer lacks 3 attention heads."), "{said}");
}
