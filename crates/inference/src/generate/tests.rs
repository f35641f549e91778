//! Decoders and tokenizers against what transformers computes with the same tiny files (`goldens/make_generators.py`).

use std::{fs, num::NonZeroUsize, path::Path, sync::Arc};

use kernels::{Cpu, Isa};
use serde::Deserialize;
use serde_json::{json, value::to_raw_value};

use prediction::FailureCode;
use tokio::{sync::oneshot, task::JoinSet};

use super::{
    Generator,
    cache::Cache,
    decoder::{Decoder, Part},
    input::Request,
    sample::Sampling,
    turns,
    workshop::Workshop,
};
use crate::{Abandon, Draft, Machine, architecture::Architecture, engine::Job, gguf::Gguf};

/// The largest difference allowed between the reference's logits and ours, where weights are floats; 2.2e-6 was seen.
const TOLERANCE: f32 = 1e-4;

/// The same for weights in blocks: what they are multiplied with is rounded to 8 bits, the reference does not; 0.069 was seen.
/// The standard deviation of these files' logits is about 0.8.
const BLOCK_TOLERANCE: f32 = 0.1;

#[derive(Deserialize)]
struct Answers {
    models: Vec<Tiny>,
}

#[derive(Deserialize)]
struct Tiny {
    file: String,
    prompts: Vec<Prompt>,
    conversations: Vec<Conversation>,
}

/// Messages, and the prompt that the file's chat template makes of them.
#[derive(Deserialize)]
struct Conversation {
    messages: serde_json::Value,
    text: String,
    tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct Prompt {
    text: String,
    tokens: Vec<u32>,
    /// After the prompt, and after some of the tokens of `greedy`.
    logits: Vec<Vec<f32>>,
    greedy: Vec<u32>,
    /// How far the logit of each of these is above the next lower.
    leads: Vec<f32>,
}

fn goldens() -> Vec<Tiny> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/generators/answers.json");
    serde_json::from_slice::<Answers>(&fs::read(path).expect("goldens")).expect("goldens").models
}

impl Tiny {
    fn load(&self, machine: Machine) -> Generator {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/generators").join(&self.file);
        Generator::load(&Gguf::open(&path).expect("sound"), machine).unwrap_or_else(|error| panic!("{error}"))
    }

    fn tolerance(&self) -> f32 {
        if self.file.contains("-q") { BLOCK_TOLERANCE } else { TOLERANCE }
    }
}

/// Every set of instructions that this machine has, on one thread and on some.
fn machines() -> impl Iterator<Item = Machine> {
    let cpus = Isa::ALL.into_iter().filter_map(|isa| Cpu::with(isa).ok());
    cpus.flat_map(|cpu| {
        [1, 3].map(|threads| Machine { cpu, threads: NonZeroUsize::new(threads).expect("some"), ..Machine::default() })
    })
}

/// The logits after some tokens, of which so many go through together at a time.
fn logits(decoder: &Decoder, workshop: &mut Workshop, cache: &mut Cache, tokens: &[u32], piece: usize) -> Vec<f32> {
    let mut last = Vec::new();
    for tokens in tokens.chunks(piece) {
        let part = Part { tokens, cache, wants_logits: true };
        last = decoder.forward(&mut [part], workshop).expect("computes").remove(0);
    }
    last
}

#[test]
fn logits_are_those_of_the_reference() {
    for tiny in goldens() {
        for machine in machines() {
            let generator = tiny.load(machine);
            let (decoder, mut workshop) = (&generator.decoder, Workshop::new(machine).expect("threads"));
            for prompt in tiny.prompts.iter().filter(|prompt| !prompt.logits.is_empty()) {
                let mut cache = Cache::new(&decoder.config, 128);
                let mut tokens = &prompt.tokens[..];
                for (step, theirs) in prompt.logits.iter().enumerate() {
                    let ours = logits(decoder, &mut workshop, &mut cache, tokens, 128);
                    assert_eq!(ours.len(), theirs.len());
                    let apart = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
                    let who = format!("{} on {} × {}", tiny.file, machine.cpu.isa(), machine.threads);
                    assert!(apart <= tiny.tolerance(), "{who}: {apart} apart at step {step} after {:?}", prompt.text);
                    tokens = &prompt.greedy[step..=step];
                }
            }
        }
    }
}

#[test]
fn the_likeliest_tokens_are_those_of_the_reference() {
    for tiny in goldens() {
        let machine = Machine::default();
        let generator = tiny.load(machine);
        let (decoder, mut workshop) = (&generator.decoder, Workshop::new(machine).expect("threads"));
        let mut compared = 0;
        for prompt in tiny.prompts.iter().filter(|prompt| !prompt.tokens.is_empty()) {
            let mut cache = Cache::new(&decoder.config, 128);
            let mut tokens = &prompt.tokens[..];
            for (step, (theirs, lead)) in prompt.greedy.iter().zip(&prompt.leads).enumerate() {
                let ours = logits(decoder, &mut workshop, &mut cache, tokens, 128);
                // One that is hardly likelier than another may be either.
                if *lead > 2.0 * tiny.tolerance() {
                    let best = (0..).zip(&ours).max_by(|one, other| one.1.total_cmp(other.1)).expect("logits").0;
                    assert_eq!(best, *theirs, "{}: step {step} after {:?}", tiny.file, prompt.text);
                    compared += 1;
                }
                tokens = &prompt.greedy[step..=step];
            }
        }
        assert!(compared > 50, "{}: {compared} tokens were compared", tiny.file);
    }
}

#[test]
fn tokens_are_those_of_the_reference() {
    for tiny in goldens() {
        let generator = tiny.load(Machine::default());
        for prompt in &tiny.prompts {
            let ours = generator.tokenizer.tokens(&prompt.text).expect("tokens");
            assert_eq!(ours, prompt.tokens, "{}: {:?}", tiny.file, prompt.text);
            // What tokens say is the text that they are of, but for what the tokenizer changes.
            let said: Vec<u8> = ours.iter().flat_map(|token| generator.tokenizer.piece(*token)).copied().collect();
            let said = String::from_utf8(said).expect("whole characters");
            let plain = prompt.text.replace("<|end|>", "");
            let plain = if tiny.file.starts_with("qwen") { plain.replace("e\u{301}", "\u{e9}") } else { plain };
            let spaces = if tiny.file.starts_with("llama-") && !plain.is_empty() { " " } else { "" };
            let expected =
                format!("{spaces}{}", if spaces.is_empty() { plain } else { plain.replace("one  two", "one   two") });
            assert_eq!(said, expected, "{}", tiny.file);
        }
    }
}

#[test]
fn what_is_computed_depends_on_nothing_beside_it() {
    for tiny in goldens() {
        for machine in machines() {
            let generator = tiny.load(machine);
            let (decoder, mut workshop) = (&generator.decoder, Workshop::new(machine).expect("threads"));
            let prompts: Vec<_> = tiny.prompts.iter().filter(|prompt| !prompt.tokens.is_empty()).collect();
            let alone: Vec<_> = prompts
                .iter()
                .map(|prompt| {
                    let mut cache = Cache::new(&decoder.config, 128);
                    logits(decoder, &mut workshop, &mut cache, &prompt.tokens, 128)
                })
                .collect();
            // The prompts cut differently, with capacities of their own, each next to all others.
            let mut caches: Vec<_> = (0..prompts.len()).map(|index| Cache::new(&decoder.config, 110 + index)).collect();
            let mut together = vec![Vec::new(); prompts.len()];
            let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max().expect("prompts");
            for from in (0..longest).step_by(5) {
                let mut parts = Vec::new();
                for (prompt, cache) in prompts.iter().zip(&mut caches).filter(|(prompt, _)| from < prompt.tokens.len())
                {
                    let tokens = &prompt.tokens[from..prompt.tokens.len().min(from + 5)];
                    parts.push(Part { tokens, cache, wants_logits: from + 5 >= prompt.tokens.len() });
                }
                let mut found = decoder.forward(&mut parts, &mut workshop).expect("computes").into_iter();
                for (prompt, logits) in prompts.iter().zip(&mut together) {
                    if from < prompt.tokens.len() && from + 5 >= prompt.tokens.len() {
                        *logits = found.next().expect("as many as were asked for");
                    }
                }
            }
            assert!(alone == together, "{} on {} × {}", tiny.file, machine.cpu.isa(), machine.threads);
        }
    }
}

#[test]
fn a_prompt_that_cannot_fit_is_refused_before_it_is_read() {
    let tiny = goldens().remove(0);
    let generator = tiny.load(Machine::default());
    let refused = |input: serde_json::Value| {
        let failure = generator.prepare(&to_raw_value(&input).expect("JSON")).err().expect("refused");
        failure.to_string()
    };
    for words in [200, 1_000_000] {
        let message = refused(json!({"prompt": "ship ".repeat(words)}));
        assert!(message.contains("nothing can follow it in the 128 of the model's context"), "{message}");
    }
    assert!(refused(json!({"prompt": "a", "max_tokens": 127})).contains("more than the 128"));
    assert!(refused(json!({"prompt": "a", "max_tokens": 2_147_483_648_u64})).contains("whole number, 1 to 128"));
}

#[test]
fn a_text_that_took_too_long_is_not_written_again() {
    assert!(!goldens().remove(0).load(Machine::default()).may_be_faster_again());
}

#[test]
fn conversations_are_written_as_the_reference_writes_them() {
    let mut compared = 0;
    for tiny in goldens() {
        let generator = tiny.load(Machine::default());
        assert_eq!(generator.chat.is_some(), !tiny.conversations.is_empty());
        for conversation in &tiny.conversations {
            let chat = generator.chat.as_ref().expect("a chat template");
            let messages: Vec<_> = serde_json::from_value(conversation.messages.clone()).expect("messages");
            assert_eq!(chat.prompt(&messages).as_ref(), Ok(&conversation.text), "{}", tiny.file);
            let input = to_raw_value(&json!({"messages": conversation.messages, "max_tokens": 1})).expect("JSON");
            assert_eq!(generator.prepare(&input).expect("a request").prompt, conversation.tokens, "{}", tiny.file);
            compared += 1;
        }
    }
    assert!(compared > 4, "{compared} conversations were compared");
}

#[test]
fn messages_that_make_no_prompt_are_refused() {
    let tiny = goldens().into_iter().find(|tiny| !tiny.conversations.is_empty()).expect("one with a template");
    let generator = tiny.load(Machine::default());
    let message = |role: &str| json!({"role": role, "content": "a"});
    for (input, part) in [
        (
            json!({"messages": [message("user"), message("user")]}),
            "refuses the messages: user and assistant take turns",
        ),
        (json!({"messages": []}), "0 messages"),
        (json!({"messages": vec![message("user"); 1001]}), "1001 messages"),
        (json!({"messages": [message("user")], "prompt": "a"}), "not both"),
        (json!({"messages": [{"role": "user", "content": ["a"]}]}), "invalid type"),
        (json!({}), "a prompt or messages"),
    ] {
        let failure = generator.prepare(&to_raw_value(&input).expect("JSON")).err().expect("refused").to_string();
        assert!(failure.contains(part), "{part:?} is not in {failure}");
    }
    let without = goldens().remove(0).load(Machine::default());
    let input = to_raw_value(&json!({"messages": [message("user")]})).expect("JSON");
    assert!(without.prepare(&input).err().expect("refused").to_string().contains("no chat template"));
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0 };
    Request { prompt, max_tokens, sampling, stop: Vec::new(), seed: Some(3) }
}

/// Sends requests to an engine, all at once; the code of the failure of each, or how many ran together with it.
async fn run(generator: Generator, requests: Vec<Request>) -> Vec<Result<u32, FailureCode>> {
    let jobs = turns::start(Arc::new(generator), "tiny", 32).expect("threads");
    let mut running = JoinSet::new();
    for (index, item) in requests.into_iter().enumerate() {
        let ((begun, _), (reply, result), jobs) = (oneshot::channel(), oneshot::channel(), jobs.clone());
        running.spawn(async move {
            assert!(
                jobs.send(Job { item, abandon: Abandon::default(), draft: Draft::default(), begun, reply })
                    .await
                    .is_ok(),
                "the engine runs"
            );
            (index, result.await.expect("an answer"))
        });
    }
    let mut results = running.join_all().await;
    results.sort_by_key(|(index, _)| *index);
    results
        .into_iter()
        .map(|(_, result)| result.map(|output| output.batch_size).map_err(|failure| failure.code))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_wait_for_memory() {
    let mut generator = goldens().remove(0).load(Machine::default());
    generator.cached_tokens = 100;
    // Of 30 tokens each, three have room.
    let requests = (0..20).map(|_| request(vec![1, 2, 3, 4, 5], 25)).collect();
    let together = run(generator, requests).await;
    assert_eq!(together.iter().filter_map(|result| result.ok()).max(), Some(3), "{together:?}");
    assert!(together.iter().all(Result::is_ok), "{together:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_computed_fails_alone() {
    let generator = goldens().remove(0).load(Machine::default());
    let mut requests: Vec<_> = (0..8).map(|_| request(vec![1, 2, 3], 60)).collect();
    // No embedding has this number.
    requests[5].prompt = vec![1, 1 << 30];
    let results = run(generator, requests).await;
    for (index, result) in results.into_iter().enumerate() {
        assert_eq!(result.err(), (index == 5).then_some(FailureCode::ModelError), "{index}");
    }
}
