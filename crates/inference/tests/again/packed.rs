//! Packed weights that an earlier start has kept: they are used while they are what was written, and else packed again.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use inference::{Look, Models};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use super::{Home, fetched, output, outputs, served, settled};

#[tokio::test(flavor = "multi_thread")]
async fn packed_weights_are_kept_and_not_needed_any_more_when_they_are_in_memory() {
    let home = Home::new();
    let file = home.kept(&fetched::dir());
    let written = fs::metadata(&file).expect("is there").ino();
    let expected = outputs(&home.start(&fetched::dir())).await;
    let second = home.start(&fetched::dir());
    assert_eq!(outputs(&second).await, expected);
    assert!(second.look(Look::AtOnce).is_empty());
    assert_eq!(outputs(&second).await, expected);
    // A file that is mapped must not become shorter.
    fs::write(&file, "").expect("writes in place");
    assert_eq!(outputs(&second).await, expected);
    drop(second);
    // It is written again where it is of no use.
    let third = home.start(&fetched::dir());
    assert_eq!(outputs(&third).await, expected);
    assert!(third.look(Look::AtOnce).is_empty());
    assert_ne!(fs::metadata(&file).expect("is there").ino(), written);
    assert_eq!(outputs(&home.start(&fetched::dir())).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_weights_that_are_not_what_was_written_are_found_out_and_written_again() {
    let home = Home::new();
    let (file, truth) = (home.kept(&fetched::dir()), outputs(&home.start(&fetched::dir())).await);
    let sound = fs::read(&file).expect("reads");
    let (mut zeros, middle) = (sound.clone(), sound.len() / 2);
    zeros[middle..middle + 4096].fill(0);
    // Two matrices of the same shape change places.
    let (length, mut header) = header(&sound);
    let [one, two] = [0, 1].map(|layer| format!("encoder.layer.{layer}.output.dense 384x1536 F32 "));
    let places = header["places"].as_object_mut().expect("matrices");
    let [one, two] =
        [one, two].map(|name| places.keys().find(|key| key.starts_with(&name)).expect("it is kept").clone());
    let (of_one, of_two) = (places[&one].clone(), places[&two].clone());
    (places[&one], places[&two]) = (of_two, of_one);
    for spoilt in [zeros, with_header(&sound, length, &header.to_string())] {
        fs::write(&file, spoilt).expect("writes");
        let models = home.start(&fetched::dir());
        assert_ne!(outputs(&models).await, truth, "it is what is used");
        let changes = models.look(Look::AtOnce);
        assert!(changes.faults[0].reason.contains("not what an earlier start has written"), "{:?}", changes.faults);
        let version = vec![served(&models)];
        assert_eq!((changes.retired, changes.served), (version.clone(), version));
        assert_eq!(outputs(&models).await, truth);
        assert_eq!(home.packed(), Vec::<PathBuf>::new());
        assert_eq!(home.remembered().as_object().expect("files").len(), 1, "the weights are what they were");
        let models = home.start(&fetched::dir());
        assert!(models.look(Look::AtOnce).is_empty());
        assert!(fs::read(&file).expect("reads") == sound);
    }
}

/// The header of a file of packed weights, and its length.
fn header(file: &[u8]) -> (usize, Value) {
    let length = usize::try_from(u64::from_le_bytes(file[..8].try_into().expect("eight"))).expect("a length");
    (length, serde_json::from_slice(&file[8..8 + length]).expect("JSON"))
}

/// The file with another header; its own is of this length.
fn with_header(file: &[u8], length: usize, header: &str) -> Vec<u8> {
    let mut header = header.as_bytes().to_vec();
    header.resize(header.len().max(length), b' ');
    [&(header.len() as u64).to_le_bytes(), header.as_slice(), &file[8 + length..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_weights_of_another_program_or_of_none_are_packed_again() {
    let home = Home::new();
    let (file, truth) = (home.kept(&fetched::dir()), outputs(&home.start(&fetched::dir())).await);
    let sound = fs::read(&file).expect("reads");
    let (length, stated) = header(&sound);
    let packed_by = stated["packed_by"].as_str().expect("text");
    let changed = |from: &str, to: &str| {
        let header = String::from_utf8(sound[8..8 + length].to_vec()).expect("text");
        assert!(header.contains(from), "{header}");
        let mut file = with_header(&sound, length, &header.replacen(from, to, 1));
        // What it holds is wrong, too: nothing of it may be used.
        file[8 + 2 * length..].fill(0);
        file
    };
    let spoilt = [
        Vec::new(),
        sound[..20].to_vec(),
        sound[..8 + length].to_vec(),
        sound[..sound.len() - 1].to_vec(),
        [&[u8::MAX; 8], &sound[8..]].concat(),
        vec![0; 100_000],
        changed(packed_by, &"0".repeat(packed_by.len())),
        changed(stated["version"].as_str().expect("text"), &"0".repeat(64)),
        changed("\"version\":\"", "\"versjon\":\""),
        changed("\"packing\":\"", "\"packing\":\"-"),
    ];
    for spoilt in spoilt {
        fs::write(&file, &spoilt).expect("writes");
        assert_eq!(outputs(&home.start(&fetched::dir())).await, truth);
    }
}

#[test]
fn packed_weights_of_versions_that_are_not_remembered_are_removed() {
    let home = Home::new();
    let file = home.kept(&fetched::dir());
    let named = |name: &str| {
        let other = file.with_file_name(name);
        fs::write(&other, "").expect("writes");
        other
    };
    let old = |file: &Path| {
        let file = fs::File::options().write(true).open(file).expect("opens");
        file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("can be set");
    };
    let version = "0".repeat(64);
    let kept_name = file.file_name().and_then(|name| name.to_str()).expect("text").to_owned();
    let gone = [format!("{version}-avx2"), format!("{kept_name}.new")].map(|name| named(&name));
    let stays = [file.clone(), named(&format!("{version}-avx512")), named(&format!("{kept_name}.1"))];
    for file in gone.iter().chain(&stays[..1]) {
        old(file);
    }
    // Of another machine, and of a version that is remembered; and whatever else.
    let others = [format!("{}-other", kept_name.split_once('-').expect("a processor").0), "whatever".to_owned()];
    let others = others.map(|name| named(&name));
    others.iter().for_each(|file| old(file));
    assert!(home.start(&fetched::dir()).look(Look::AtOnce).is_empty());
    assert_eq!(gone.map(|file| file.exists()), [false; 2]);
    assert!(stays.iter().chain(&others).all(|file| file.exists()));
}

/// A residual network of one stage, of many channels, whose files are no longer ones that were written just now. It is of no use.
fn residual_network(home: &Home) -> PathBuf {
    let dir = home.dir.path().join("owner/residual");
    fs::create_dir_all(&dir).expect("a directory");
    let config = json!({
        "model_type": "resnet", "architectures": ["ResNetForImageClassification"], "embedding_size": 8, "hidden_sizes": [192],
        "depths": [1], "layer_type": "basic", "id2label": {"0": "cat", "1": "dog", "2": "ship"},
    });
    let preprocessor = json!({
        "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 1.0, "resample": 2, "do_normalize": true,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    });
    for (name, value) in [("config.json", config), ("preprocessor_config.json", preprocessor)] {
        fs::write(dir.join(name), value.to_string()).expect("writes");
    }
    let filters = [
        ("embedder.embedder", [8, 3, 7]),
        ("encoder.stages.0.layers.0.shortcut", [192, 8, 1]),
        ("encoder.stages.0.layers.0.layer.0", [192, 8, 3]),
        ("encoder.stages.0.layers.0.layer.1", [192, 192, 3]),
    ];
    let mut shapes = vec![("classifier.1.weight".to_owned(), vec![3, 192]), ("classifier.1.bias".to_owned(), vec![3])];
    for (name, [outputs, inputs, side]) in filters {
        shapes.push((format!("resnet.{name}.convolution.weight"), vec![outputs, inputs, side, side]));
        let norm = ["weight", "bias", "running_mean", "running_var"];
        shapes.extend(norm.map(|part| (format!("resnet.{name}.normalization.{part}"), vec![outputs])));
    }
    // Positive, because variances are.
    let number = |index: usize| (index * 7919 % 1000) as f32 / 50_000.0 + 0.001;
    let bytes = |shape: &[usize]| (0..shape.iter().product()).flat_map(|index| number(index).to_le_bytes()).collect();
    let numbers: Vec<Vec<u8>> = shapes.iter().map(|(_, shape)| bytes(shape)).collect();
    let view = |shape, bytes| TensorView::new(Dtype::F32, shape, bytes).expect("a tensor");
    let named = shapes.into_iter().zip(&numbers).map(|((name, shape), bytes)| (name, view(shape, bytes)));
    let tensors: HashMap<_, _> = named.collect();
    safetensors::serialize_to_file(tensors, None, &dir.join("model.safetensors")).expect("writes");
    settled();
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_kept_with_their_batch_norms() {
    /// A picture of one pixel.
    const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYOACAAAOAAveix9kAAAAAElFTkSuQmCC";
    let home = Home::new();
    let (model, picture) = (residual_network(&home), json!({"image": format!("data:image/png;base64,{PIXEL}")}));
    let file = home.kept(&model);
    let truth = output(&home.start(&model), &picture).await;
    let mut kept = fs::read(&file).expect("reads");
    let (length, header) = header(&kept);
    let keys: Vec<&String> = header["places"].as_object().expect("matrices").keys().collect();
    for name in ["embedder.embedder", "layers.0.shortcut", "layers.0.layer.0 ", "layers.0.layer.1 "] {
        assert!(keys.iter().any(|key| key.contains(name)), "{name} is not among {keys:?}");
    }
    // It is what is used: without one layer's filters the labels' scores are others.
    let (key, places) = header["places"]
        .as_object()
        .expect("matrices")
        .iter()
        .find(|(key, _)| key.contains("layer.1 "))
        .expect("it is kept");
    let place = |end: &str| 64 * usize::try_from(places[0][end].as_u64().expect("a line")).expect("few");
    let begin = (8 + length).next_multiple_of(kernels::KEPT_ALIGNMENT);
    kept[begin + place("start")..begin + place("end")].fill(0);
    assert!(key.contains("192x1728") && place("end") - place("start") >= 4 * 192 * 1728, "{key}");
    fs::write(&file, &kept).expect("writes");
    let models = home.start(&model);
    assert_ne!(output(&models, &picture).await, truth);
    assert!(!models.look(Look::AtOnce).is_empty());
    assert_eq!(output(&models, &picture).await, truth);
}

#[test]
fn filters_that_are_kept_are_missed_where_the_file_has_none() {
    let home = Home::new();
    let model = residual_network(&home);
    home.kept(&model);
    let (weights, name) = (model.join("model.safetensors"), b"layer.1.convolution.weight");
    let mut bytes = fs::read(&weights).expect("reads");
    let begin = bytes.windows(name.len()).position(|some| some == name).expect("it is there");
    bytes[begin] = b'L';
    fs::write(&weights, bytes).expect("writes in place");
    settled();
    home.overlook(&weights);
    let error = Models::load(&home.config(&model)).err().expect("the network has filters there");
    assert!(error.reason.contains("layer.1.convolution.weight\" is missing"), "{error:?}");
}
