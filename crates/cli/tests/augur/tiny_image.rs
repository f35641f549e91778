//! A tiny classifier of images with made-up weights, as Hugging Face's directories have them.

use std::{fs, path::Path};

use serde_json::json;

use crate::tiny;

const WIDTH: usize = 8;
const BETWEEN: usize = 12;
const LABELS: [&str; 3] = ["cat", "dog", "ship"];

/// Its files. What nobody reads is among them.
pub(crate) fn files(seed: u8) -> Vec<(&'static str, Vec<u8>)> {
    let config = json!({
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": WIDTH,
        "intermediate_size": BETWEEN, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4,
        "id2label": {"0": LABELS[0], "1": LABELS[1], "2": LABELS[2]},
    });
    let preprocessor = json!({
        "image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "resample": 2,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    });
    vec![
        ("config.json", config.to_string().into_bytes()),
        ("preprocessor_config.json", preprocessor.to_string().into_bytes()),
        ("README.md", b"---\nlicense: mit\n---\n# Tiny".to_vec()),
        (tiny::WEIGHTS, tiny::safetensors(&tensors(), seed)),
        ("pytorch_model.bin", b"a pickle".to_vec()),
        ("onnx/config.json", b"{}".to_vec()),
    ]
}

/// Writes it into a directory.
pub(crate) fn write(dir: &Path, seed: u8) {
    for (path, content) in files(seed) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("writes");
    }
}

fn tensors() -> Vec<(String, Vec<usize>)> {
    let named = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
    let dense = |name: &str, outputs: usize, inputs: usize| {
        [named(&format!("{name}.weight"), &[outputs, inputs]), named(&format!("{name}.bias"), &[outputs])]
    };
    let norm = |name: &str| [named(&format!("{name}.weight"), &[WIDTH]), named(&format!("{name}.bias"), &[WIDTH])];
    let (embeddings, layer) = ("vit.embeddings", "vit.encoder.layer.0");
    [
        named(&format!("{embeddings}.cls_token"), &[1, 1, WIDTH]),
        named(&format!("{embeddings}.position_embeddings"), &[1, 5, WIDTH]),
        named(&format!("{embeddings}.patch_embeddings.projection.weight"), &[WIDTH, 3, 4, 4]),
        named(&format!("{embeddings}.patch_embeddings.projection.bias"), &[WIDTH]),
    ]
    .into_iter()
    .chain(
        ["query", "key", "value"]
            .iter()
            .flat_map(|part| dense(&format!("{layer}.attention.attention.{part}"), WIDTH, WIDTH)),
    )
    .chain(dense(&format!("{layer}.attention.output.dense"), WIDTH, WIDTH))
    .chain(dense(&format!("{layer}.intermediate.dense"), BETWEEN, WIDTH))
    .chain(dense(&format!("{layer}.output.dense"), WIDTH, BETWEEN))
    .chain(norm(&format!("{layer}.layernorm_before")))
    .chain(norm(&format!("{layer}.layernorm_after")))
    .chain(norm("vit.layernorm"))
    .chain(dense("classifier", LABELS.len(), WIDTH))
    .collect()
}
