//! Which directories load, and that every kind of bad one is refused with the file's name and a reason, never a panic.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors};
use inference::{Config, LoadError, Models};
use prediction::ModelSpec;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

/// A copy of `augur/digits` that a test may spoil.
struct Copy {
    models: TempDir,
}

impl Copy {
    fn new() -> Self {
        let copy = Self { models: tempfile::tempdir().expect("a directory") };
        fs::create_dir_all(copy.dir()).expect("a directory");
        for file in ["model.toml", "input.schema.json", "output.schema.json", WEIGHTS] {
            fs::copy(shipped().join("augur/digits").join(file), copy.path(file)).expect("a copy");
        }
        copy
    }

    fn dir(&self) -> PathBuf {
        self.models.path().join("augur/digits")
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir().join(file)
    }

    fn load(&self) -> Result<ModelSpec, LoadError> {
        let config = Config { models_dir: Some(self.models.path().to_owned()), ..Config::default() };
        Models::load(&config).map(|models| models.specs().remove(0))
    }

    /// Replaces a text of the manifest, which must have it.
    fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path("model.toml")).expect("the manifest");
        assert!(text.contains(from), "{from:?} is not in the manifest");
        fs::write(self.path("model.toml"), text.replacen(from, to, 1)).expect("writes");
    }

    /// Puts other weights there, with the digest that the manifest then must have.
    fn replace_weights(&self, bytes: &[u8]) {
        let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let old = digest(&fs::read(self.path(WEIGHTS)).expect("the weights"));
        fs::write(self.path(WEIGHTS), bytes).expect("writes");
        self.edit(&old, &digest(bytes));
    }

    /// Puts the weights there with some tensors changed.
    fn change_tensors(&self, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
        let mut tensors = safetensors::load(self.path(WEIGHTS), &Device::Cpu).expect("the weights");
        change(&mut tensors);
        let file = self.models.path().join("changed");
        safetensors::save(&tensors, &file).expect("writes");
        self.replace_weights(&fs::read(file).expect("reads"));
    }

    #[track_caller]
    fn is_refused(&self, file: &str, part: &str) {
        let error = self.load().expect_err("it is refused");
        assert_eq!(error.path, self.path(file), "{error}");
        assert!(error.reason.contains(part), "{part:?} is not in: {error}");
        assert!(error.to_string().contains(file), "{error}");
    }
}

/// A whole safetensors file: the header's length, the header, the data.
fn file(length: u64, header: &str, data: &[u8]) -> Vec<u8> {
    [&length.to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn what_is_bundled_loads() {
    let config = Config { models_dir: Some(shipped()), ..Config::default() };
    let specs = Models::load(&config).expect("the bundled models load").specs();
    let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["augur/digits", "augur/iris"]);
    assert_eq!(Copy::new().load().expect("a copy loads"), specs[0]);
}

#[test]
fn a_version_is_of_all_that_matters() {
    let original = Copy::new().load().expect("it loads").version;
    let changes: [fn(&Copy); 3] = [
        |copy| copy.edit("Recognises", "Reads"),
        |copy| {
            copy.change_tensors(|tensors| {
                let bias = tensors["layers.0.bias"].affine(1.0, 0.001).expect("adds");
                tensors.insert("layers.0.bias".into(), bias);
            })
        },
        |copy| {
            let schema = fs::read_to_string(copy.path("input.schema.json")).expect("the schema");
            fs::write(copy.path("input.schema.json"), schema.replace("A handwritten", "One handwritten"))
                .expect("writes");
        },
    ];
    let mut versions = vec![original.clone()];
    for change in changes {
        let copy = Copy::new();
        change(&copy);
        versions.push(copy.load().expect("it loads").version);
    }
    versions.sort_by_key(ToString::to_string);
    versions.dedup();
    assert_eq!(versions.len(), 4, "each change makes another version");

    let copy = Copy::new();
    fs::write(copy.path("notes.txt"), "what the manifest does not name").expect("writes");
    assert_eq!(copy.load().expect("it loads").version, original);
}

#[test]
fn missing_files_are_named() {
    for file in [WEIGHTS, "input.schema.json", "output.schema.json"] {
        let copy = Copy::new();
        fs::remove_file(copy.path(file)).expect("removes");
        copy.is_refused(file, "No such file");
    }
    let copy = Copy::new();
    fs::remove_file(copy.path("model.toml")).expect("removes");
    let config = Config { model_dirs: vec![copy.dir()], ..Config::default() };
    let error = Models::load(&config).err().expect("it is refused");
    assert!(error.path == copy.dir() && error.reason.contains("no model.toml"), "{error}");
}

#[test]
fn weights_that_are_not_as_they_were_are_refused() {
    let copy = Copy::new();
    let mut bytes = fs::read(copy.path(WEIGHTS)).expect("the weights");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(copy.path(WEIGHTS), &bytes).expect("writes");
    copy.is_refused(WEIGHTS, "the manifest says");
}

#[test]
fn truncated_weights_are_refused() {
    let whole = fs::read(shipped().join("augur/digits").join(WEIGHTS)).expect("the weights");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) as usize;
    for length in [0, 1, 7, 8, 9, header / 2, header - 1, header, header + 1, whole.len() / 2, whole.len() - 1] {
        let copy = Copy::new();
        copy.replace_weights(&whole[..length]);
        copy.is_refused(WEIGHTS, "safetensors");
    }
    let copy = Copy::new();
    copy.replace_weights(&[&whole[..], &[0]].concat());
    copy.is_refused(WEIGHTS, "safetensors");
}

#[test]
fn corrupt_headers_are_refused() {
    let two = |first: &str, second: &str| {
        let header = format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{first}}},"b":{{"dtype":"F32","shape":[2],"data_offsets":{second}}}}}"#
        );
        file(header.len() as u64, &header, &[0; 16])
    };
    let many: Vec<_> =
        (0..100_000).map(|index| format!(r#""t{index}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    let many = format!("{{{}}}", many.join(","));
    let huge_shape = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
    let cases = [
        (file(2, "hello", &[]), "safetensors"),
        (file(5, "\u{fffd}..", &[]), "safetensors"),
        (file(64, &"[".repeat(64), &[]), "safetensors"),
        (file(1 << 20, &"[".repeat(1 << 20), &[]), "safetensors"),
        (file(1 << 63, "{}", &[]), "header of 9223372036854775808 bytes"),
        (file(u64::MAX, "{}", &[]), "header of 18446744073709551615 bytes"),
        (file(u64::MAX - 7, "{}", &[]), "header of"),
        (file(100 << 20, "{}", &[]), "header of"),
        (two("[0,8]", "[4,12]"), "safetensors"),
        (two("[0,8]", "[0,8]"), "safetensors"),
        (two("[0,4]", "[4,16]"), "safetensors"),
        (two("[8,0]", "[8,16]"), "safetensors"),
        (two("[0,8]", "[8,18446744073709551615]"), "safetensors"),
        (two("[0,8]", "[8,1000000]"), "safetensors"),
        (file(huge_shape.len() as u64, huge_shape, &[]), "safetensors"),
        (file(many.len() as u64, &many, &[]), "is missing"),
        (file(2, "{}", &[]), "is missing"),
    ];
    for (bytes, part) in cases {
        let copy = Copy::new();
        copy.replace_weights(&bytes);
        copy.is_refused(WEIGHTS, part);
    }
    // A header as long as it says, but longer than is read.
    let copy = Copy::new();
    let path = copy.models.path().join("sparse");
    let sparse = File::create(&path).expect("a file");
    sparse.set_len((17 << 20) + 8).expect("a sparse file");
    let mut bytes = fs::read(&path).expect("reads");
    bytes[..8].copy_from_slice(&(17_u64 << 20).to_le_bytes());
    copy.replace_weights(&bytes);
    copy.is_refused(WEIGHTS, "header of");
}

#[test]
fn weights_that_are_not_the_networks_are_refused() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).expect("a tensor");
    let cases = [
        ("layers.0.weight", Some(zeros(&[128, 63], DType::F32)), "has shape [128, 63]"),
        ("layers.0.weight", Some(zeros(&[64], DType::F32)), "is not a matrix"),
        ("layers.0.bias", Some(zeros(&[128], DType::I64)), "holds I64"),
        ("layers.0.bias", Some(zeros(&[128], DType::F64)), "holds F64"),
        ("layers.0.bias", None, "is missing"),
        ("layers.0.weight", None, "is missing"),
        ("layers.2.bias", Some(zeros(&[11], DType::F32)), "has shape [11]"),
        ("layers.2.weight", Some(zeros(&[11, 64], DType::F32)), "has shape [11, 64]"),
        ("input.scale", Some(zeros(&[8, 8], DType::F32)), "has shape [8, 8]"),
        ("layers.9.weight", Some(zeros(&[1], DType::F32)), "does not use"),
    ];
    for (name, tensor, part) in cases {
        let copy = Copy::new();
        copy.change_tensors(|tensors| {
            match tensor {
                Some(tensor) => tensors.insert(name.into(), tensor),
                None => tensors.remove(name),
            };
        });
        copy.is_refused(WEIGHTS, part);
    }
    for (number, file, part) in [(f32::NAN, WEIGHTS, "not finite"), (f32::MAX, "", "the example does not run")] {
        let copy = Copy::new();
        let bias = Tensor::full(number, 128, &Device::Cpu).expect("a tensor");
        copy.change_tensors(|tensors| drop(tensors.insert("layers.0.bias".into(), bias)));
        copy.is_refused(file, part);
    }
}

#[test]
fn half_precision_weights_load() {
    let copy = Copy::new();
    copy.change_tensors(|tensors| {
        for tensor in tensors.values_mut() {
            *tensor = tensor.to_dtype(DType::BF16).expect("rounds");
        }
    });
    copy.load().expect("it loads");
}

#[test]
fn files_outside_the_directory_are_refused() {
    for path in ["../iris/model.safetensors", "/etc/hostname", "a/../model.safetensors", "./../x", ""] {
        let copy = Copy::new();
        copy.edit("path = \"model.safetensors\"", &format!("path = \"{path}\""));
        let error = copy.load().expect_err("it is refused");
        assert!(error.reason.contains("not a plain path"), "{path}: {error}");

        let copy = Copy::new();
        copy.edit("\"input.schema.json\"", &format!("\"{path}\""));
        let error = copy.load().expect_err("it is refused");
        assert!(error.reason.contains("not a plain path"), "{path}: {error}");
    }
    let copy = Copy::new();
    let outside = copy.models.path().join("outside");
    fs::rename(copy.path(WEIGHTS), &outside).expect("moves");
    std::os::unix::fs::symlink(&outside, copy.path(WEIGHTS)).expect("a link");
    copy.is_refused(WEIGHTS, "leads out");
}

#[test]
fn pickles_are_refused_by_name() {
    for file in ["pytorch_model.bin", "model.pt", "model.PKL", "model.ckpt", "model.pth"] {
        let copy = Copy::new();
        fs::write(copy.path(file), "").expect("writes");
        copy.edit("[mlp]", &format!("[[files]]\npath = \"{file}\"\nsha256 = \"{}\"\n\n[mlp]", "0".repeat(64)));
        copy.is_refused(file, "pickle");
    }
}

#[test]
fn a_hugging_face_directory_of_pickles_is_refused() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("owner/encoder");
    fs::create_dir_all(&dir).expect("a directory");
    let config = r#"{"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 10, "max_position_embeddings": 12}"#;
    for (file, text) in [("config.json", config), ("tokenizer.json", "{}"), ("pytorch_model.bin", "")] {
        fs::write(dir.join(file), text).expect("writes");
    }
    let config = Config { model_dirs: vec![dir], ..Config::default() };
    let error = Models::load(&config).err().expect("it is refused");
    assert!(error.path.ends_with("pytorch_model.bin") && error.reason.contains("pickle"), "{error}");
}

#[test]
fn bad_manifests_are_refused() {
    let cases = [
        ("[mlp]", "[mlp", "TOML"),
        ("license", "licence", "unknown field `licence`"),
        ("task = ", "source = \"\"\n# ", "duplicate key"),
        ("task = \"image-classification\"\n", "", "missing field `task`"),
        ("\"augur/digits\"", "\"../digits\"", "owner/name"),
        ("architecture = \"mlp\"", "architecture = \"transformer\"", "unknown variant `transformer`"),
        ("task = ", "precision = \"bf16\"\ntask = ", "precision is for another architecture"),
        ("architecture = \"mlp\"", "architecture = \"mlp\"\nprecision = \"f16\"", "unknown variant `f16`"),
        ("max_batch", "max_batches", "unknown field `max_batches`"),
        ("held_out_accuracy = ", "held_out_accuracy = 1", "a share"),
        ("sha256 = \"", "sha256 = \"0", "64 hex digits"),
        ("path = \"model.safetensors\"", "path = \"model.toml\"", "files lack model.safetensors"),
        ("input_schema = \"input.schema.json\"\n", "", "input_schema is missing"),
        ("[mlp]\n", "[mlp]\nwidth = 3\n", "unknown field `width`"),
    ];
    for (from, to, part) in cases {
        let copy = Copy::new();
        copy.edit(from, to);
        copy.is_refused("model.toml", part);
    }
    let of_network = [
        ("labels = [0, 1,", "labels = [1, 0,", "numbered labels"),
        ("side = 8", "side = 0", "1 to 64 cells"),
        ("side = 8", "side = 9", "has shape [64]"),
        ("ink = 16.0", "ink = nan", "positive ink"),
    ];
    for (from, to, part) in of_network {
        let copy = Copy::new();
        copy.edit(from, to);
        copy.is_refused(WEIGHTS, part);
    }
    let of_whole = [
        ("name = \"augur/digits\"", "name = \"augur/numbers\"", "says it is augur/numbers"),
        (" 0,  0,  5, 13,", "99,  0,  5, 13,", "the example does not fit the input schema"),
        ("\"output.schema.json\"", "\"input.schema.json\"", "does not fit the output schema"),
    ];
    for (from, to, part) in of_whole {
        let copy = Copy::new();
        copy.edit(from, to);
        copy.is_refused("", part);
    }
    for (text, part) in [("{", "not JSON"), (&" ".repeat((1 << 20) + 1), "longer than")] {
        let copy = Copy::new();
        fs::write(copy.path("input.schema.json"), text).expect("writes");
        copy.is_refused("input.schema.json", part);
    }
    let copy = Copy::new();
    fs::write(copy.path("input.schema.json"), "{\"type\": 3}").expect("writes");
    copy.is_refused("", "input_schema is no JSON Schema");
}

#[test]
fn a_directory_named_by_itself_may_be_called_anything() {
    let copy = Copy::new();
    let elsewhere = copy.models.path().join("some-where/else");
    fs::create_dir_all(copy.models.path().join("some-where")).expect("a directory");
    fs::rename(copy.dir(), &elsewhere).expect("moves");
    let config = Config { model_dirs: vec![elsewhere.clone()], ..Config::default() };
    let name = |config: &Config| Models::load(config).expect("it loads").specs().remove(0).name.to_string();
    assert_eq!(name(&config), "augur/digits", "as its manifest says");
    let text = fs::read_to_string(elsewhere.join("model.toml")).expect("the manifest");
    fs::write(elsewhere.join("model.toml"), text.replace("name = \"augur/digits\"\n", "")).expect("writes");
    assert_eq!(name(&config), "some-where/else", "as its directory is called");
}

#[test]
fn only_what_was_asked_for_is_looked_at() {
    let copy = Copy::new();
    let broken = copy.models.path().join("augur/broken");
    fs::create_dir_all(&broken).expect("a directory");
    fs::write(broken.join("model.toml"), "broken").expect("writes");
    copy.load().expect_err("one of them is broken");
    let only = |name: &str| Config {
        models_dir: Some(copy.models.path().to_owned()),
        only: vec![name.parse().expect("a good name")],
        ..Config::default()
    };
    assert_eq!(Models::load(&only("augur/digits")).expect("it loads").specs().len(), 1);
    let error = Models::load(&only("augur/other")).err().expect("it is not there");
    assert!(error.path.ends_with("augur/other") && error.reason.contains("no such model"), "{error}");
}

#[test]
fn an_absent_models_directory_is_an_error_unless_there_are_others() {
    let copy = Copy::new();
    let absent = Some(copy.models.path().join("absent"));
    let config =
        |model_dirs, enable_echo| Config { models_dir: absent.clone(), model_dirs, enable_echo, ..Config::default() };
    let error = Models::load(&config(Vec::new(), false)).err().expect("it is refused");
    assert!(error.path.ends_with("absent"), "{error}");
    assert_eq!(Models::load(&config(vec![copy.dir()], true)).expect("it loads").specs().len(), 2);
    assert_eq!(Models::load(&config(Vec::new(), true)).expect("it loads").specs().len(), 1);
    let empty = tempfile::tempdir().expect("a directory");
    let config = Config { models_dir: Some(empty.path().to_owned()), ..Config::default() };
    assert!(Models::load(&config).err().expect("it is refused").reason.contains("no model"));
}
