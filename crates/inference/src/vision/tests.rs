//! Processors against those of transformers on Pillow (`tests/goldens/images.json`), bit for bit.

use std::{collections::BTreeMap, fs};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;

use super::{
    processor::{Kind, PREPROCESSOR, Processor},
    *,
};

#[derive(Deserialize)]
struct Goldens {
    images: BTreeMap<String, Golden>,
    models: Vec<Tiny>,
}

#[derive(Deserialize)]
struct Golden {
    file: String,
}

#[derive(Deserialize)]
struct Tiny {
    name: String,
    preprocessor: Value,
    /// The number of each sample, by channel.
    levels: [Vec<f32>; 3],
    /// What the network sees, by image.
    seen: BTreeMap<String, String>,
}

#[test]
fn networks_see_what_transformers_shows_them() {
    let goldens: Goldens = serde_json::from_str(include_str!("../../tests/goldens/images.json")).expect("goldens");
    for tiny in &goldens.models {
        let home = tempfile::tempdir().expect("a directory");
        fs::write(home.path().join(PREPROCESSOR), tiny.preprocessor.to_string()).expect("writes");
        let processor = Processor::read(home.path(), Kind::Vit).expect(&tiny.name);
        for (name, seen) in &tiny.seen {
            let (image, _room) = image::read(&goldens.images[name].file, BOUNDS).expect(name);
            let ours = processor.apply(&image).pixels;
            assert!(ours == STANDARD.decode(seen).expect("base64"), "{}: {name}", tiny.name);
        }
        for (channel, levels) in tiny.levels.iter().enumerate() {
            let ours = (0..=u8::MAX).map(|sample| processor.levels().of(channel, sample));
            assert!(ours.eq(levels.iter().copied()), "{}: channel {channel}", tiny.name);
        }
    }
}
