//! The bundled models: their weights load and reach what their manifests say, alone and in batches, from numbers and pictures.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use inference::{Abandon, Config, Model, Models, Output};
use prediction::{Failure, FailureCode};
use serde_json::{Value, json, value::to_raw_value};
use tokio::task::JoinSet;

fn models_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

fn model(name: &str) -> Model {
    let name: prediction::ModelName = format!("augur/{name}").parse().expect("a good name");
    let config = Config { models_dir: Some(models_dir()), only: vec![name.clone()], ..Config::default() };
    let models = Models::load(&config).expect("the bundled models load");
    let [spec] = &models.specs()[..] else { panic!("one model was asked for") };
    models.get(&name, &spec.version).expect("it is served")
}

async fn predict(model: &Model, input: &Value) -> Result<Output, Failure> {
    model.predict(&to_raw_value(input).expect("JSON"), Abandon::default()).await
}

async fn output(model: &Model, input: &Value) -> Value {
    let output = predict(model, input).await.unwrap_or_else(|failure| panic!("{input}: {failure}"));
    serde_json::from_str(output.value.get()).expect("outputs are JSON")
}

/// The rows that the training program held out, every fifth: inputs and label.
fn held_out(name: &str, header_lines: usize) -> Vec<(Vec<f64>, usize)> {
    let path = models_dir().join(format!("augur/{name}/data/{name}.csv"));
    let text = fs::read_to_string(path).expect("the data is there");
    let rows = text.lines().skip(header_lines).skip(4).step_by(5);
    let numbers = rows.map(|row| row.split(',').map(|number| number.parse().expect("a number")).collect::<Vec<f64>>());
    numbers.map(|mut row| (row.split_off(row.len() - 1)[0] as usize, row)).map(|(label, row)| (row, label)).collect()
}

fn training(name: &str, key: &str) -> f64 {
    let text =
        fs::read_to_string(models_dir().join(format!("augur/{name}/model.toml"))).expect("the manifest is there");
    let manifest: toml::Table = text.parse().expect("TOML");
    let value = &manifest["training"][key];
    value.as_float().or_else(|| value.as_integer().map(|value| value as f64)).expect("a number")
}

fn iris(row: &[f64]) -> Value {
    json!({"sepal_length": row[0], "sepal_width": row[1], "petal_length": row[2], "petal_width": row[3]})
}

fn probabilities(output: &Value) -> Vec<f64> {
    let values: Vec<_> = match &output["probabilities"] {
        Value::Array(values) => values.iter().collect(),
        Value::Object(values) => values.values().collect(),
        other => panic!("probabilities are {other}"),
    };
    values.into_iter().map(|value| value.as_f64().expect("a number")).collect()
}

/// Runs all the rows at once; checks every output, and gives the share that is right.
async fn accuracy(model: &Model, rows: &[(Value, Value)]) -> f64 {
    let (input_schema, output_schema) = (&model.spec().input_schema, &model.spec().output_schema);
    let mut running = JoinSet::new();
    for (input, label) in rows.iter().cloned() {
        assert!(jsonschema::is_valid(input_schema, &input), "{input}");
        let model = model.clone();
        running.spawn(async move { (predict(&model, &input).await.expect("no failure"), label) });
    }
    let mut right = 0;
    for (output, label) in running.join_all().await {
        let output: Value = serde_json::from_str(output.value.get()).expect("outputs are JSON");
        assert!(jsonschema::is_valid(output_schema, &output), "{output}");
        assert!((probabilities(&output).iter().sum::<f64>() - 1.0).abs() < 1e-5, "{output}");
        right += usize::from(output["label"] == label);
    }
    right as f64 / rows.len() as f64
}

#[tokio::test]
async fn digits_reach_their_accuracy_on_rows_never_trained_on() {
    let rows: Vec<_> =
        held_out("digits", 0).into_iter().map(|(row, label)| (json!({"pixels": row}), json!(label))).collect();
    assert_eq!(rows.len() as f64, training("digits", "held_out_rows"));
    let accuracy = accuracy(&model("digits"), &rows).await;
    assert!((accuracy - training("digits", "held_out_accuracy")).abs() < 5e-5 && accuracy >= 0.97, "{accuracy}");
}

#[tokio::test]
async fn iris_reaches_its_accuracy_on_rows_never_trained_on() {
    let names = ["setosa", "versicolor", "virginica"];
    let rows: Vec<_> = held_out("iris", 1).into_iter().map(|(row, label)| (iris(&row), json!(names[label]))).collect();
    assert_eq!(rows.len() as f64, training("iris", "held_out_rows"));
    let accuracy = accuracy(&model("iris"), &rows).await;
    assert!((accuracy - training("iris", "held_out_accuracy")).abs() < 5e-5 && accuracy >= 0.9, "{accuracy}");
}

#[tokio::test]
async fn alone_and_in_a_batch_agree() {
    let model = model("digits");
    let rows = held_out("digits", 0);
    let mut alone = Vec::new();
    for (row, _) in &rows[..40] {
        let output = predict(&model, &json!({"pixels": row})).await.expect("no failure");
        assert_eq!(output.batch_size, 1);
        alone.push(probabilities(&serde_json::from_str(output.value.get()).expect("JSON")));
    }
    let mut running = JoinSet::new();
    for (index, (row, _)) in rows.iter().enumerate().take(200) {
        let (model, input) = (model.clone(), json!({"pixels": row}));
        running.spawn(async move { (index, output(&model, &input).await) });
    }
    for (index, output) in running.join_all().await.into_iter().filter(|(index, _)| *index < 40) {
        for (alone, together) in alone[index].iter().zip(probabilities(&output)) {
            assert!((alone - together).abs() < 1e-5, "row {index}: {alone} alone, {together} in a batch");
        }
    }
}

#[tokio::test]
async fn nested_pixels_are_the_same_picture() {
    let model = model("digits");
    let (row, label) = held_out("digits", 0).remove(3);
    let nested = json!({"pixels": row.chunks(8).collect::<Vec<_>>()});
    assert!(jsonschema::is_valid(&model.spec().input_schema, &nested));
    let flat = output(&model, &json!({"pixels": row})).await;
    assert_eq!(output(&model, &nested).await, flat);
    assert_eq!(flat["label"], label);
}

#[tokio::test]
async fn the_schemas_point_at_what_is_wrong() {
    let digits = model("digits").spec().clone();
    let iris = model("iris").spec().clone();
    let mut seventeen = vec![0; 64];
    seventeen[3] = 17;
    let mut rows = vec![vec![0; 8]; 8];
    rows[7].pop();
    let cases = [
        (&digits, json!({"pixels": seventeen}), "/pixels/3"),
        (&digits, json!({"pixels": vec![0; 63]}), "/pixels"),
        (&digits, json!({"pixels": rows}), "/pixels/7"),
        (&digits, json!({"pixels": vec!["1"; 64]}), "/pixels/0"),
        (&digits, json!({"pixels": null}), "/pixels"),
        (&digits, json!({"image": "data:image/jpeg;base64,AAAA"}), "/image"),
        (&digits, json!({}), ""),
        (&digits, json!({"pixels": vec![0; 64], "image": "data:image/png;base64,AAAA"}), ""),
        (&digits, json!({"pixels": vec![0; 64], "invert": true}), ""),
        (&iris, json!({"sepal_length": 5.1}), ""),
        (&iris, json!({"sepal_length": "5", "sepal_width": 1, "petal_length": 1, "petal_width": 1}), "/sepal_length"),
        (&iris, json!({"sepal_length": 5, "sepal_width": -1, "petal_length": 1, "petal_width": 1}), "/sepal_width"),
        (&iris, json!({"sepal_length": 5, "sepal_width": 1, "petal_length": 1, "petal_width": 1, "x": 1}), ""),
        (&iris, json!([5, 1, 1, 1]), ""),
    ];
    for (spec, input, place) in cases {
        let validator = jsonschema::validator_for(&spec.input_schema).expect("a schema");
        let places: Vec<_> = validator.iter_errors(&input).map(|error| error.instance_path().to_string()).collect();
        assert!(places.iter().any(|found| found == place), "{input}: {place:?} is not in {places:?}");
    }
}

#[tokio::test]
async fn inputs_that_slipped_past_the_schema_are_refused() {
    let (digits, iris) = (model("digits"), model("iris"));
    let cases = [
        (&digits, json!({"pixels": vec![0; 63]})),
        (&digits, json!({"pixels": vec![17; 64]})),
        (&digits, json!({"pixels": vec![-1; 64]})),
        (&digits, json!({"pixels": vec![1e39; 64]})),
        (&digits, json!({"pixels": vec![vec![0; 4]; 16]})),
        (&digits, json!({"pixels": 3})),
        (&digits, json!({"image": "data:image/png;base64,!"})),
        (&digits, json!([])),
        (&iris, json!({"sepal_length": 5})),
        (&iris, json!({"sepal_length": 1e39, "sepal_width": 1, "petal_length": 1, "petal_width": 1})),
        (&iris, json!({"sepal_length": 5, "sepal_width": 1, "petal_length": 1, "petal_width": 1, "x": 1})),
    ];
    for (model, input) in cases {
        let failure = predict(model, &input).await.expect_err("it is refused");
        assert_eq!(failure.code, FailureCode::InvalidInput, "{input}: {failure}");
    }
    let long = json!({"image": "x".repeat(1 << 20)});
    assert_eq!(predict(&digits, &long).await.expect_err("it is refused").code, FailureCode::InputTooLarge);
}

/// A PNG of these samples, as an input.
fn png(width: u32, height: u32, color: png::ColorType, samples: &[u8]) -> Value {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().expect("writes");
    writer.write_image_data(samples).expect("writes");
    writer.finish().expect("writes");
    image(&file)
}

fn image(file: &[u8]) -> Value {
    json!({"image": format!("data:image/png;base64,{}", STANDARD.encode(file))})
}

#[tokio::test]
async fn a_picture_is_recognised_as_its_pixels_are() {
    let model = model("digits");
    for (row, _) in held_out("digits", 0).iter().take(20) {
        let expected = probabilities(&output(&model, &json!({"pixels": row})).await);
        // 88 × 40 pixels: eleven by five for each cell.
        let grey: Vec<u8> = (0..88 * 40)
            .map(|index| (index % 88 / 11, index / 88 / 5))
            .map(|(x, y)| (row[y * 8 + x] / 16.0 * 255.0).round() as u8)
            .collect();
        let of = |make: fn(u8) -> Vec<u8>| grey.iter().copied().flat_map(make).collect::<Vec<_>>();
        let pictures = [
            png(88, 40, png::ColorType::Grayscale, &grey),
            png(88, 40, png::ColorType::Rgb, &of(|grey| vec![grey; 3])),
            png(88, 40, png::ColorType::Rgba, &of(|grey| vec![255, 255, 255, grey])),
            png(88, 40, png::ColorType::GrayscaleAlpha, &of(|grey| vec![grey, 255])),
        ];
        for picture in pictures {
            assert!(jsonschema::is_valid(&model.spec().input_schema, &picture));
            for (expected, found) in expected.iter().zip(probabilities(&output(&model, &picture).await)) {
                assert!((expected - found).abs() < 0.02, "{expected} from pixels, {found} from a picture");
            }
        }
    }
}

#[tokio::test]
async fn hostile_pictures_are_refused() {
    let model = model("digits");
    let sound = png(64, 64, png::ColorType::Grayscale, &vec![7; 64 * 64]);
    let url = sound["image"].as_str().expect("a string");
    let sound = STANDARD.decode(url.rsplit(',').next().expect("a part")).expect("base64");
    predict(&model, &image(&sound)).await.expect("what the others are made of is sound");

    // The header's chunk: length and name, then width and height, and its checksum at the end.
    let with_size = |width: u32, height: u32| {
        let mut file = sound.clone();
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.to_be_bytes());
        file
    };
    let too_large = [
        image(&with_size(65_535, 65_535)),
        image(&with_size(1025, 1)),
        image(&with_size(1, i32::MAX as u32)),
        image(&vec![0; (512 << 10) + 3]),
    ];
    for input in too_large {
        let failure = predict(&model, &input).await.expect_err("it is refused");
        assert_eq!(failure.code, FailureCode::InputTooLarge, "{failure}");
    }
    let mut broken = vec![Vec::new(), b"GIF89a".to_vec(), with_size(0, 8), with_size(64, 65), with_size(65, 64)];
    broken.extend([8, 20, 33, 45, sound.len() - 20].map(|length| sound[..length].to_vec()));
    let mut flipped = sound.clone();
    flipped[50] ^= 0xff;
    broken.push(flipped);
    for file in broken {
        let failure = predict(&model, &image(&file)).await.expect_err("it is refused");
        assert_eq!(failure.code, FailureCode::InvalidInput, "{} bytes: {failure}", file.len());
    }
}

/// PNG's checksum (ISO 3309), bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
