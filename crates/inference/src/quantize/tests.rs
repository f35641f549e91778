//! Files in fewer bits, read back, by candle's own reader too, and compared with the numbers that they were made of.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use candle_core::{
    Device,
    quantized::{GgmlDType, gguf_file},
};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use super::{Form, decoder, quantize};
use crate::{
    Machine,
    generate::{self, Generator},
    gguf::{Gguf, Value},
    inspect,
};

#[path = "../../tests/wide/mod.rs"]
mod wide;

/// The largest difference allowed between the reference's logits and ours: what blocks are multiplied with is rounded to 8 bits here,
/// which the reference does not do; 0.108 was seen. The standard deviation of these logits is 1.2, and those of the floats are
/// up to 1.2 away from those of 4 bits.
const TOLERANCE: f32 = 0.16;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/generators").join(file)
}

fn written(from: &Path, form: Form) -> Result<(TempDir, PathBuf), String> {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("made.gguf");
    let gguf = Gguf::open(from).expect("sound");
    decoder::write(&gguf, form, &path).map_err(|error| error.to_string())?;
    Ok((home, path))
}

#[test]
fn matrices_become_blocks_and_all_else_stays() {
    for (file, kind) in [("llama-f32.gguf", GgmlDType::F32), ("qwen2-f16.gguf", GgmlDType::F16)] {
        let (_home, path) = written(&golden(file), Form::Q8_0).expect("can be q8_0");
        let (before, after) = (Gguf::open(&golden(file)).expect("sound"), Gguf::open(&path).expect("sound"));
        let keys = |gguf: &Gguf| gguf.keys().map(str::to_owned).collect::<Vec<_>>();
        let mut expected = keys(&before);
        expected.extend(["general.file_type", "general.quantization_version"].map(str::to_owned));
        expected.sort();
        expected.dedup();
        assert_eq!(keys(&after), expected);
        for key in before.keys().filter(|key| *key != "general.file_type") {
            let value = |gguf: &Gguf| gguf.find(key, |value| Some(value.clone())).expect("there");
            assert_eq!(value(&before), value(&after), "{key}");
        }
        assert_eq!(after.need("general.file_type", Value::count), Ok(7));
        let mut reader = File::open(&path).expect("opens");
        let content = gguf_file::Content::read(&mut reader).expect("candle reads it");
        for (name, stored, shape) in before.stored() {
            let numbers = before.numbers(name, shape).expect("numbers");
            let theirs = content.tensor(&mut reader, name, &Device::Cpu).expect("candle reads it");
            assert_eq!(theirs.shape().dims(), shape);
            if shape.len() == 1 {
                assert_eq!((theirs.dtype(), stored == kind || stored == GgmlDType::F32), (stored, true), "{name}");
                assert_eq!(after.numbers(name, shape).expect("numbers"), numbers, "{name}");
                continue;
            }
            assert_eq!((stored, theirs.dtype()), (kind, GgmlDType::Q8_0), "{name}");
            let theirs = theirs.dequantize(&Device::Cpu).and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
            for (ours, theirs) in numbers.chunks(32).zip(theirs.expect("numbers").chunks(32)) {
                let largest = ours.iter().fold(0.0_f32, |most, number| most.max(number.abs()));
                // Half a step, and the rounding of the scale to 16 bits.
                let most = largest / 127.0 * 0.5 + largest * 1e-3;
                assert!(ours.iter().zip(theirs).all(|(ours, theirs)| (ours - theirs).abs() <= most), "{name}");
            }
        }
        assert!(fs::metadata(&path).expect("there").len() < fs::metadata(golden(file)).expect("there").len());
    }
}

#[test]
fn what_cannot_be_in_blocks_is_refused() {
    let again = written(&golden("llama-q8_0.gguf"), Form::Q8_0).expect_err("already");
    assert!(again.contains("is q8_0 already"), "{again}");
    let twice = written(&golden("qwen2-q4_0.gguf"), Form::Q8_0).expect_err("blocks of blocks");
    assert!(twice.contains("Q4_0 already; begin with the file of floats"), "{twice}");
    let narrow = written(&golden("llama-f32.gguf"), Form::Q4K).expect_err("narrow");
    assert!(narrow.contains("no multiple of 256, the blocks of q4_k; q8_0 is possible"), "{narrow}");
}

/// A file of a norm and of two matrices of 256 columns, with numbers between -1 and 1.
pub(crate) fn wide() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let tensors: [(&str, &[u64]); 3] =
        [("blk.0.attn_norm.weight", &[256]), ("token_embd.weight", &[256, 8]), ("blk.0.attn_q.weight", &[256, 4])];
    let (mut file, mut data) = (b"GGUF".to_vec(), Vec::new());
    [3_u32.to_le_bytes().to_vec(), 3_u64.to_le_bytes().to_vec(), 1_u64.to_le_bytes().to_vec()]
        .iter()
        .for_each(|part| file.extend(part));
    file.extend([text("general.architecture"), 8_u32.to_le_bytes().to_vec(), text("llama")].concat());
    for (name, sides) in tensors {
        file.extend([text(name), (sides.len() as u32).to_le_bytes().to_vec()].concat());
        sides.iter().for_each(|side| file.extend(side.to_le_bytes()));
        file.extend([&0_u32.to_le_bytes()[..], &(data.len() as u64).to_le_bytes()].concat());
        let count = sides.iter().product::<u64>() as u32;
        let number = |index: u32| (index.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        (0..count).for_each(|index| data.extend(number(index).to_le_bytes()));
    }
    file.resize(file.len().next_multiple_of(32), 0);
    [file, data].concat()
}

#[test]
fn four_bits_leave_six_to_what_makes_logits() {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("wide.gguf");
    fs::write(&path, wide()).expect("writes");
    let before = Gguf::open(&path).expect("sound");
    let (_home, made) = written(&path, Form::Q4K).expect("can be q4_k");
    let after = Gguf::open(&made).expect("sound");
    assert_eq!(after.need("general.file_type", Value::count), Ok(14));
    let kinds: Vec<_> = after.stored().into_iter().map(|(name, kind, _)| (name, kind)).collect();
    let expected = [
        ("blk.0.attn_norm.weight", GgmlDType::F32),
        // There is no output.weight: the embeddings make logits too.
        ("token_embd.weight", GgmlDType::Q6K),
        ("blk.0.attn_q.weight", GgmlDType::Q4K),
    ];
    assert_eq!(kinds, expected);
    for (name, shape, most) in [("token_embd.weight", [8, 256], 0.04), ("blk.0.attn_q.weight", [4, 256], 0.12)] {
        let [ours, theirs] = [&before, &after].map(|gguf| gguf.numbers(name, &shape).expect("numbers"));
        let apart = ours.iter().zip(&theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
        // Half a step of 2 ÷ 63 and of 2 ÷ 15, and as much again for scales of 6 and 8 bits.
        assert!(apart > 1e-3 && apart < most, "{name}: {apart}");
    }
}

#[test]
fn agreement_is_that_of_the_logits() {
    let (_home, path) = written(&golden("llama-f32.gguf"), Form::Q8_0).expect("can be q8_0");
    let load = |path: &Path| Generator::load(&Gguf::open(path).expect("sound"), Machine::default()).expect("loads");
    let (original, made) = (load(&golden("llama-f32.gguf")), load(&path));
    let inputs = ["The lighthouse", "one two three"].map(|prompt| json!({"prompt": prompt, "max_tokens": 1}));
    let (same, _) = generate::compare(&original, &original, &inputs).expect("compares");
    assert_eq!((same.same, same.mean_divergence), (1.0, 0.0));

    let (found, _) = generate::compare(&original, &made, &inputs).expect("compares");
    let (mut same, mut divergence, mut tokens) = (0, 0.0, 0);
    for input in ["The lighthouse", "one two three"] {
        let [one, other] = [&original, &made].map(|generator| generator.logits_after_each_token(input));
        for (one, other) in one.iter().zip(&other) {
            let chances = |logits: &[f32]| {
                let powers: Vec<f64> = logits.iter().map(|logit| f64::from(*logit).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.into_iter().map(|power| power / sum).collect::<Vec<_>>()
            };
            let best = |chances: &[f64]| (0..chances.len()).max_by(|a, b| chances[*a].total_cmp(&chances[*b]));
            let (p, q) = (chances(one), chances(other));
            same += usize::from(best(&p) == best(&q));
            divergence += p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
            tokens += 1;
        }
    }
    assert_eq!((found.tokens, found.same), (tokens, same as f64 / tokens as f64));
    assert!(found.mean_divergence > 0.0, "8 bits are not 32");
    assert!((found.mean_divergence - divergence / tokens as f64).abs() < 1e-9, "{found:?}, not {divergence}");
}

/// What a reference computes with a version in blocks (`goldens/make_wide.py`).
#[derive(Deserialize)]
struct Reference {
    prompt: String,
    /// What tensors are stored as there.
    kinds: BTreeMap<String, String>,
    /// After each token of the prompt.
    logits: Vec<Vec<f32>>,
}

#[test]
fn a_decoder_in_blocks_computes_what_a_reference_computes_with_their_numbers() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("test/wide");
    fs::create_dir_all(&dir).expect("makes a directory");
    fs::write(dir.join("wide.gguf"), wide::gguf()).expect("writes");
    let found = inspect(&dir).expect("sound");
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/wide.json");
    let goldens: serde_json::Value = serde_json::from_slice(&fs::read(goldens).expect("goldens")).expect("JSON");
    for form in [Form::Q4K, Form::Q8_0] {
        let theirs: Reference = Reference::deserialize(&goldens[form.word()]).expect("goldens");
        let to = home.path().join(form.word());
        fs::create_dir(&to).expect("makes a directory");
        quantize(&found, form, &found.spec.name, &to).expect("its rows divide into such blocks");
        let gguf = Gguf::open(&to.join("wide.gguf")).expect("sound");
        for (name, kind, _) in gguf.stored() {
            let kind = format!("{kind:?}").replace('_', "");
            assert!(theirs.kinds.get(name).is_none_or(|their| their.replace('_', "") == kind), "{name} is {kind}");
        }
        let generator = Generator::load(&gguf, Machine::default()).expect("loads");
        let ours = generator.logits_after_each_token(&theirs.prompt);
        assert_eq!(ours.len(), theirs.logits.len());
        let apart = ours.iter().flatten().zip(theirs.logits.iter().flatten()).map(|(ours, their)| (ours - their).abs());
        let apart = apart.fold(0.0, f32::max);
        assert!(apart <= TOLERANCE, "{form:?}: {apart} apart");
    }
}
