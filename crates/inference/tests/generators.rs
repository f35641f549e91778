//! Text generators as a server runs them: found, described, loaded and asked, alone and in company, with tiny decoders
//! (`goldens/make_generators.py`).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use inference::{Abandon, Audience, Config, Draft, LoadError, Model, Models, Output, inspect, survey};
use prediction::{Failure, FailureCode};
use serde_json::{Value, json, value::to_raw_value};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::sleep};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/generators").join(file)
}

/// A directory of models with this one in `tiny/model`.
fn directory(file: &str, change: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("tiny/model");
    fs::create_dir_all(&dir).expect("makes a directory");
    let mut bytes = fs::read(golden(file)).expect("a golden file");
    change(&mut bytes);
    fs::write(dir.join(file), bytes).expect("writes");
    home
}

fn load(home: &TempDir) -> Result<Model, LoadError> {
    let models = Models::load(&Config { models_dir: Some(home.path().to_owned()), ..Config::default() })?;
    let spec = models.specs().remove(0);
    Ok(models.get(&spec.name, &spec.version).expect("what is served can be had"))
}

async fn ask(model: &Model, input: &Value) -> Result<Output, Failure> {
    model.predict(&to_raw_value(input).expect("JSON"), Abandon::default()).await
}

async fn answer(model: &Model, input: &Value) -> Value {
    let output = ask(model, input).await.unwrap_or_else(|failure| panic!("{input}: {failure}"));
    serde_json::from_str(output.value.get()).expect("JSON")
}

/// Replaces bytes of a file by as many others.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).expect("is in the file");
    bytes[at..at + to.len()].copy_from_slice(to);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_what_is_taken_and_given() {
    let home = directory("llama-f32.gguf", |_| ());
    let model = load(&home).expect("loads");
    let spec = model.spec();
    assert_eq!((spec.name.as_str(), spec.task.as_str()), ("tiny/model", "text-generation"));
    assert!(spec.description.contains("tiny Llama") && spec.description.contains("128 tokens"), "{}", spec.description);
    let [takes, gives] =
        [&spec.input_schema, &spec.output_schema].map(|schema| jsonschema::validator_for(schema).expect("a schema"));
    let whole = json!({
        "prompt": "The ships", "max_tokens": 5, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "stop": ["\n"], "seed": 7,
    });
    for input in [whole, json!({"prompt": ""}), json!({"prompt": "The ships", "max_tokens": 5.0, "seed": 1e3})] {
        assert!(takes.is_valid(&input), "{input}");
        let answer = answer(&model, &input).await;
        assert!(gives.is_valid(&answer), "{answer}");
    }
    for input in [
        json!({}),
        json!({"prompt": 1}),
        json!({"prompt": "a", "max_tokens": 0}),
        json!({"prompt": "a", "max_tokens": 2_147_483_648_u64}),
        json!({"prompt": "a", "temperature": -0.1}),
        json!({"prompt": "a", "top_p": 1.1}),
        json!({"prompt": "a", "top_k": 1.5}),
        json!({"prompt": "a", "stop": ["a", "b", "c", "d", "e"]}),
        json!({"prompt": "a", "stop": [""]}),
        json!({"prompt": "a", "seed": -1}),
        json!({"prompt": "a", "best_of": 2}),
    ] {
        assert!(!takes.is_valid(&input), "the schema takes {input}");
        let failure = ask(&model, &input).await.expect_err("is refused");
        assert_eq!(failure.code, FailureCode::InvalidInput, "{input}: {failure}");
    }

    let dir = home.path().join("tiny/model");
    let described = inspect(&dir).expect("sound");
    assert_eq!((described.architecture, described.precision), ("decoder", None));
    assert_eq!(described.spec.version, spec.version);
    // Embeddings that are not also the last product's are kept once, as all else is: in 32 bits.
    assert!(described.weight_bytes >= described.parameters * 4, "{} bytes", described.weight_bytes);
    assert_eq!(described.files.len(), 1);
    assert!(survey(home.path()).expect("a list")[0].found.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_model_goes_on_from_every_prompt() {
    let answers: Value = serde_json::from_slice(&fs::read(golden("answers.json")).expect("reads")).expect("JSON");
    for tiny in answers["models"].as_array().expect("models") {
        let file = tiny["file"].as_str().expect("a name");
        if file.contains("-q") {
            continue;
        }
        let model = load(&directory(file, |_| ())).expect("loads");
        for prompt in tiny["prompts"].as_array().expect("prompts") {
            let tokens = prompt["tokens"].as_array().expect("tokens").len();
            let input = json!({"prompt": prompt["text"], "max_tokens": 16, "temperature": 0});
            if tokens == 0 {
                let failure = ask(&model, &input).await.expect_err("nothing follows nothing");
                assert!(failure.message.contains("no tokens"), "{failure}");
                continue;
            }
            let answer = answer(&model, &input).await;
            assert_eq!(answer["prompt_tokens"], tokens);
            let again = self::answer(&model, &input).await;
            assert_eq!(answer, again, "{file}");
            let is_whole = answer["completion_tokens"] == 16;
            assert_eq!(answer["finish_reason"], if is_whole { "length" } else { "stop" }, "{file}: {answer}");
        }
    }
}

/// Inputs whose texts differ in all that can be asked.
fn inputs() -> Vec<Value> {
    let prompts =
        ["The ships", "a", "Who counts the ships before dawn, and writes them down in a blue book?", "\u{1F6A2}"];
    let mut inputs = Vec::new();
    for (index, prompt) in (0..).zip(prompts) {
        inputs.push(json!({"prompt": prompt, "max_tokens": 3 + 20 * index, "seed": index}));
        inputs.push(json!({"prompt": prompt, "max_tokens": 40, "temperature": 0.5, "top_p": 0.8, "seed": 5}));
        inputs.push(json!({"prompt": prompt, "max_tokens": 30, "temperature": 2, "top_k": 9, "seed": 5}));
        inputs.push(json!({"prompt": prompt, "max_tokens": 20, "temperature": 0}));
    }
    inputs
}

#[tokio::test(flavor = "multi_thread")]
async fn company_changes_no_text() {
    for file in ["llama-f32.gguf", "llama-q8_0.gguf", "qwen2-q4_0.gguf", "qwen3-f16.gguf"] {
        let model = load(&directory(file, |_| ())).expect("loads");
        let inputs = inputs();
        let mut alone = Vec::new();
        for input in &inputs {
            alone.push(answer(&model, input).await);
        }
        let (mut together, mut most) = (JoinSet::new(), 0);
        for index in 0..3 * inputs.len() {
            let (model, input, index) = (model.clone(), inputs[index % inputs.len()].clone(), index % inputs.len());
            together.spawn(async move { (index, ask(&model, &input).await.expect("an answer")) });
        }
        while let Some(done) = together.join_next().await {
            let (index, output) = done.expect("no panic");
            most = most.max(output.batch_size);
            let value: Value = serde_json::from_str(output.value.get()).expect("JSON");
            assert_eq!(value, alone[index], "{file}: {}", inputs[index]);
        }
        assert!(most > 1, "{file}: some ran together");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_and_stops_decide() {
    let model = load(&directory("qwen2-f16.gguf", |_| ())).expect("loads");
    let text = async |input: Value| answer(&model, &input).await["text"].as_str().expect("a text").to_owned();
    let drawn = async |seed: u64| text(json!({"prompt": "The", "max_tokens": 30, "seed": seed})).await;
    assert_eq!(drawn(1).await, drawn(1).await);
    let mut texts = BTreeSet::new();
    for _ in 0..4 {
        texts.insert(text(json!({"prompt": "The", "max_tokens": 30})).await);
    }
    assert_eq!(texts.len(), 4, "without a seed each run draws its own");

    let whole = text(json!({"prompt": "The", "max_tokens": 40, "temperature": 0})).await;
    let middle: String = whole.chars().skip(whole.chars().count() / 2).take(2).collect();
    let stopped = answer(&model, &json!({"prompt": "The", "max_tokens": 40, "temperature": 0, "stop": [middle]})).await;
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["text"].as_str(), whole.split(&middle).next(), "{whole:?} until {middle:?}");
    assert!(stopped["completion_tokens"].as_u64().expect("a count") < 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_wanted_leaves_between_tokens() {
    let model = load(&directory("llama-f32.gguf", |_| ())).expect("loads");
    let input = to_raw_value(&json!({"prompt": "a", "max_tokens": 125, "seed": 1})).expect("JSON");
    let mut running = JoinSet::new();
    for index in 0..200 {
        let (model, input, abandon) = (model.clone(), input.clone(), Abandon::default());
        running.spawn(async move {
            let canceling = async {
                sleep(Duration::from_millis(index % 20)).await;
                if index % 2 == 0 {
                    abandon.abandon();
                }
            };
            let (result, ()) = tokio::join!(model.predict(&input, abandon.clone()), canceling);
            (index, result)
        });
    }
    while let Some(done) = running.join_next().await {
        let (index, result) = done.expect("no panic");
        match result {
            Ok(_) => {}
            Err(failure) => assert!(index % 2 == 0 && failure.code == FailureCode::Canceled, "{index}: {failure}"),
        }
    }
    assert!(ask(&model, &json!({"prompt": "a", "max_tokens": 2})).await.is_ok(), "the engine goes on");
}

#[test]
fn blocks_whose_numbers_are_none_are_refused() {
    let home = directory("llama-q8_0.gguf", |bytes| {
        let from = bytes.len() - 34 * 2 * 200;
        for block in bytes[from..].chunks_exact_mut(34) {
            block[..2].copy_from_slice(&[0x00, 0x7C]);
        }
    });
    let error = load(&home).err().expect("infinite steps");
    assert!(error.reason.contains("has a number that is not finite"), "{error}");
}

#[test]
fn what_is_not_known_is_refused() {
    let refusal = |file: &str, from: &[u8], to: &[u8]| {
        let error = load(&directory(file, |bytes| replace(bytes, from, to))).err().expect("must not load");
        assert!(error.path.ends_with(file), "{error}");
        error.reason
    };
    for (file, from, to, part) in [
        (
            "llama-f32.gguf",
            "general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama",
            "general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0mamba",
            "general.architecture is \"mamba\"; known are llama, qwen2, qwen3",
        ),
        ("llama-f32.gguf", "llama.rope.freq_base", "llama.rope.freq_basf", "llama.rope.freq_basf is not known here"),
        ("llama-f32.gguf", "llama.block_count\x04\0\0\0\x02", "llama.block_count\x04\0\0\0\x01", "\"blk.1."),
        (
            "llama-f32.gguf",
            "llama.block_count\x04\0\0\0\x02",
            "llama.block_count\x04\0\0\0\x03",
            "tensor \"blk.2.attn_norm.weight\" is missing",
        ),
        (
            "llama-f32.gguf",
            "llama.attention.head_count_kv\x04\0\0\0\x02",
            "llama.attention.head_count_kv\x04\0\0\0\x03",
            "4 heads of 16 numbers, 3 of keys",
        ),
        (
            "llama-f32.gguf",
            "llama.embedding_length\x04\0\0\0\x40",
            "llama.embedding_length\x04\0\0\0\x20",
            "rope.dimension_count is 16; only 8 runs here",
        ),
        ("llama-f32.gguf", "tokenizer.ggml.scores", "tokenizer.ggml.scoren", "tokenizer.ggml.scores is missing"),
        (
            "llama-f32.gguf",
            "tokenizer.ggml.model\x08\0\0\0\x05\0\0\0\0\0\0\0llama",
            "tokenizer.ggml.model\x08\0\0\0\x05\0\0\0\0\0\0\0plamo",
            "tokenizer.ggml.model is \"plamo\"; llama and gpt2 are known",
        ),
        ("llama-f32.gguf", "<0x41>", "<0xZZ>", "token \"<0xZZ>\" of kind Byte is not written"),
        (
            "qwen2-f16.gguf",
            "tokenizer.ggml.pre\x08\0\0\0\x05\0\0\0\0\0\0\0qwen2",
            "tokenizer.ggml.pre\x08\0\0\0\x05\0\0\0\0\0\0\0qwen9",
            "tokenizer.ggml.pre is \"qwen9\"; known are llama-bpe",
        ),
        ("qwen2-f16.gguf", "blk.0.attn_q.bias", "blk.0.attn_q.bios", "\"blk.0.attn_q.bias\" is missing"),
        ("qwen3-f16.gguf", "blk.1.ffn_up.weight", "blk.1.ffn_up.weighs", "\"blk.1.ffn_up.weight\" is missing"),
        ("llama3-f16.gguf", "rope_freqs.weight", "rope_frogs.weight", "tensor \"rope_frogs.weight\" is not known here"),
    ] {
        let reason = refusal(file, from.as_bytes(), to.as_bytes());
        assert!(reason.contains(part), "{part:?} is not in {reason}");
    }
    let home = directory("llama-f32.gguf", |bytes| bytes.truncate(bytes.len() - 1));
    let error = load(&home).err().expect("must not load");
    assert!(error.reason.contains("lies outside the file"), "{error}");
    let home = directory("llama-f32.gguf", |_| ());
    fs::write(home.path().join("tiny/model/._model.gguf"), "what macOS keeps of it").expect("writes");
    load(&home).expect("what is hidden does not count");
    fs::copy(golden("qwen2-f16.gguf"), home.path().join("tiny/model/another.gguf")).expect("copies");
    let error = load(&home).err().expect("must not load");
    assert!(error.reason.contains("has 2 GGUF files"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_grows_to_the_text_that_its_seed_gives() {
    let home = directory("llama-f32.gguf", |_| ());
    let model = load(&home).expect("loads");
    let write = async |seed: u64, input: Value| {
        let (draft, input) = (Draft::new(seed, Audience::default()), to_raw_value(&input).expect("JSON"));
        let output = model.predict_aloud(&input, Abandon::default(), draft.clone()).await.expect("a text");
        let output: Value = serde_json::from_str(output.value.get()).expect("JSON");
        let text = output["text"].as_str().expect("a text").to_owned();
        assert_eq!(draft.after(0, usize::MAX).as_deref().unwrap_or_default(), text);
        text
    };
    let input = json!({"prompt": "The", "max_tokens": 60});
    let text = write(1, input.clone()).await;
    assert_eq!(write(1, input.clone()).await, text);
    assert_ne!(write(2, input).await, text);
    // Bytes that are no characters are shown as others, so that no stop string finds them.
    let letters: Vec<char> = text.chars().collect();
    let stop = letters.windows(2).find(|two| two.iter().all(char::is_ascii_alphabetic)).expect("two letters");
    let stop: String = stop.iter().collect();
    let stopped = write(1, json!({"prompt": "The", "max_tokens": 60, "stop": [stop]})).await;
    assert!(text.starts_with(&stopped) && !stopped.contains(&stop), "{stopped:?} of {text:?}");
    // What the input says counts.
    let seeded = json!({"prompt": "The", "max_tokens": 60, "seed": 1});
    assert_eq!(write(7, seeded.clone()).await, write(8, seeded).await);
}

#[test]
fn keys_and_values_count_for_the_memory_of_models() {
    let home = directory("llama-f32.gguf", |_| ());
    let config =
        |memory| Config { models_dir: Some(home.path().to_owned()), memory: Some(memory), ..Config::default() };
    let weights = inspect(&home.path().join("tiny/model")).expect("a model").weight_bytes;
    let refused = Models::load(&config(weights)).err().expect("there is no room for keys and values");
    assert!(refused.reason.contains("keys and values"), "{refused}");
    // As the message says: two layers of so many keys and values for 32 sequences of 128 tokens.
    let stated: u64 =
        refused.reason.split("up to ").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok()).expect("bytes");
    assert!(Models::load(&config(weights + stated - 1)).is_err());
    assert!(Models::load(&config(weights + stated)).is_ok());
}
