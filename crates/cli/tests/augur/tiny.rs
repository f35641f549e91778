//! A tiny text encoder with made-up weights, as Hugging Face's directories have them.

use std::{fs, path::Path};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The repository that it is fetched from.
pub(crate) const REPOSITORY: &str = "Test-Org/Tiny-Encoder";
/// What it is called here.
pub(crate) const NAME: &str = "test-org/tiny-encoder";
/// The weights' file.
pub(crate) const WEIGHTS: &str = "model.safetensors";

const WIDTH: usize = 8;
const BETWEEN: usize = 16;
const WORDS: usize = 32;
const POSITIONS: usize = 16;

/// Its files; another `seed` gives other weights. What nobody reads is among them.
pub(crate) fn files(seed: u8) -> Vec<(&'static str, Vec<u8>)> {
    let words: serde_json::Map<String, Value> =
        (0..WORDS).map(|id| (if id == 0 { "[UNK]".to_owned() } else { format!("w{id}") }, json!(id))).collect();
    let config = json!({
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": WIDTH, "intermediate_size": BETWEEN,
        "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": WORDS, "max_position_embeddings": POSITIONS,
    });
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("w1"), {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [special("w1"), {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"w1": {"id": "w1", "ids": [1], "tokens": ["w1"]}},
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    });
    let modules = json!([
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ]);
    vec![
        ("config.json", config.to_string().into_bytes()),
        ("tokenizer.json", tokenizer.to_string().into_bytes()),
        ("modules.json", modules.to_string().into_bytes()),
        ("1_Pooling/config.json", json!({"pooling_mode_mean_tokens": true}).to_string().into_bytes()),
        ("README.md", b"---\nlicense: apache-2.0\n---\n# Tiny".to_vec()),
        (WEIGHTS, weights(seed)),
        ("pytorch_model.bin", b"a pickle".to_vec()),
        ("onnx/model.onnx", vec![0; 1000]),
        ("onnx/config.json", b"{}".to_vec()),
    ]
}

/// Those that the model reads, its card included.
pub(crate) fn read(path: &str) -> bool {
    !path.starts_with("onnx/") && path != "pytorch_model.bin"
}

/// Writes it into a directory.
pub(crate) fn write(dir: &Path, seed: u8) {
    for (path, content) in files(seed) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("writes");
    }
}

fn weights(seed: u8) -> Vec<u8> {
    let dense = |name: &str, outputs: usize, inputs: usize| {
        [(format!("{name}.weight"), vec![outputs, inputs]), (format!("{name}.bias"), vec![outputs])]
    };
    let norm = |name: &str| [(format!("{name}.weight"), vec![WIDTH]), (format!("{name}.bias"), vec![WIDTH])];
    let layer = "encoder.layer.0";
    let tensors: Vec<(String, Vec<usize>)> = [
        ("embeddings.word_embeddings.weight".to_owned(), vec![WORDS, WIDTH]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![POSITIONS, WIDTH]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, WIDTH]),
    ]
    .into_iter()
    .chain(norm("embeddings.LayerNorm"))
    .chain(
        ["query", "key", "value"]
            .iter()
            .flat_map(|part| dense(&format!("{layer}.attention.self.{part}"), WIDTH, WIDTH)),
    )
    .chain(dense(&format!("{layer}.attention.output.dense"), WIDTH, WIDTH))
    .chain(norm(&format!("{layer}.attention.output.LayerNorm")))
    .chain(dense(&format!("{layer}.intermediate.dense"), BETWEEN, WIDTH))
    .chain(dense(&format!("{layer}.output.dense"), WIDTH, BETWEEN))
    .chain(norm(&format!("{layer}.output.LayerNorm")))
    .collect();
    safetensors(&tensors, seed)
}

/// A file of these tensors, by name and shape, with small numbers that another `seed` makes others.
pub(crate) fn safetensors(tensors: &[(String, Vec<usize>)], seed: u8) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut numbers = Numbers(Sha256::digest([seed]).to_vec());
    for (name, shape) in tensors {
        let (name, shape) = (name.clone(), shape.clone());
        let begin = data.len();
        (0..shape.iter().product()).for_each(|_| data.extend(numbers.next().to_le_bytes()));
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    let header = Value::Object(header).to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// Small numbers without end, the same for the same seed.
struct Numbers(Vec<u8>);

impl Numbers {
    fn next(&mut self) -> f32 {
        if self.0.len() < 34 {
            let more = Sha256::digest(&self.0);
            self.0.extend(more);
        }
        let [low, high] = [self.0.remove(0), self.0.remove(0)];
        f32::from(i16::from_le_bytes([low, high])) / 65536.0
    }
}
