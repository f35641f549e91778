//! What a card computes, on the processor: against the reference, in bf16, stopped and failing. And what only a card does.

#[path = "../../../tests/card/mod.rs"]
mod card;

use std::panic::{AssertUnwindSafe, catch_unwind};

use candle_core::DType;
use prediction::FailureCode;
use serde_json::{Value, json};

use super::{
    super::tests::{Tiny, apart, each_case, tiny_goldens},
    *,
};

fn load(tiny: &Tiny, pooling: Pooling, precision: Precision) -> DeviceEncoder {
    load_on(Device::Plain, tiny, pooling, precision)
}

fn load_on(device: Device, tiny: &Tiny, pooling: Pooling, precision: Precision) -> DeviceEncoder {
    let (settings, weights) = tiny.read(pooling).expect("reads");
    let machine = Machine { device, ..Machine::default() };
    DeviceEncoder::load(&settings, &weights, machine, precision).expect("loads")
}

/// The embedding of each text, of one batch.
fn embed(encoder: &DeviceEncoder, texts: &Value) -> Vec<Vec<f32>> {
    let texts: Vec<Vec<u32>> = serde_json::from_value(texts.clone()).expect("texts");
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    encoder.embed(&texts).expect("runs")
}

#[test]
fn every_activation_and_pooling_is_as_transformers_has_it() {
    each_case(|tiny, texts, pooling, expected, what| {
        let exact = embed(&load(tiny, pooling, Precision::F32), texts);
        let half = embed(&load(tiny, pooling, Precision::Bf16), texts);
        for (index, theirs) in expected.iter().enumerate() {
            let apart = [&exact, &half].map(|ours| apart(&ours[index], theirs));
            assert!(apart[0] <= 1e-5, "{what}, text {index}: {} from the reference", apart[0]);
            assert!((1e-5..4e-2).contains(&apart[1]), "{what}, text {index} in bf16: {}", apart[1]);
        }
    });
}

#[test]
fn a_bias_of_attention_passes_in_half_precision_too() {
    let family: Value =
        serde_json::from_str(include_str!("../../../tests/goldens/families/mpnet.json")).expect("goldens");
    let tiny = Tiny::new(&family["models"][0]);
    tiny.write("gelu", DType::F32, str::to_owned);
    let text = |length: usize| (0..length).map(|token| (token * 31 + length) % 240).collect::<Vec<_>>();
    let texts = json!([text(200), text(3), text(120)]);
    let [exact, half] =
        [Precision::F32, Precision::Bf16].map(|precision| embed(&load(&tiny, Pooling::Mean, precision), &texts));
    for (exact, half) in exact.iter().zip(&half) {
        let apart = apart(exact, half);
        assert!((1e-5..4e-2).contains(&apart), "{apart}");
    }
}

#[test]
fn a_batch_that_nobody_wants_is_left_between_layers() {
    let file = tiny_goldens();
    let tiny = Tiny::new(&file);
    tiny.write("gelu", DType::F32, str::to_owned);
    let encoder = load(&tiny, Pooling::Mean, Precision::F32);
    let looks = std::cell::Cell::new(0);
    let stop = || looks.replace(looks.get() + 1) == 1;
    let left = encoder.run(&[Text { ids: &[1, 2], types: &[] }], stop, |_, _| ());
    assert!(left.expect("no fault").is_none());
    assert_eq!(looks.get(), 2, "after the first layer");
}

#[test]
fn a_token_without_an_embedding_is_not_looked_up() {
    let file = tiny_goldens();
    let tiny = Tiny::new(&file);
    tiny.write("gelu", DType::F32, str::to_owned);
    let encoder = load(&tiny, Pooling::Mean, Precision::F32);
    let runs = |ids: &[u32], types: &[u32]| {
        let run = || encoder.run(&[Text { ids, types }], || false, |_, _| ()).is_ok();
        catch_unwind(AssertUnwindSafe(run)).is_ok()
    };
    assert!(runs(&[1, 2], &[0, 1]));
    assert!(!runs(&[1, 1 << 20], &[]) && !runs(&[1, 2], &[0, 1 << 20]) && !runs(&[1; 1 << 12], &[]));
}

#[test]
fn a_budget_for_one_text_gives_the_same() {
    let file = tiny_goldens();
    let tiny = Tiny::new(&file);
    tiny.write("gelu", DType::F32, str::to_owned);
    let encoder = load(&tiny, Pooling::Mean, Precision::F32);
    let together = embed(&encoder, &file["texts"]);
    encoder.desk.lock().expect("nobody panicked").budget = Budget::new(1);
    for (together, alone) in together.iter().zip(embed(&encoder, &file["texts"])) {
        assert!(apart(together, &alone) <= 1e-6);
    }
}

#[test]
fn batches_are_bounded_whatever_memory_there_is() {
    let file = tiny_goldens();
    let tiny = Tiny::new(&file);
    tiny.write("gelu", DType::F32, str::to_owned);
    let encoder = load(&tiny, Pooling::Mean, Precision::F32);
    assert!(encoder.footprint.tokens_in(UNMEASURED) > most_tokens(&encoder.shape), "memory would hold more");
    assert_eq!(encoder.max_tokens(), most_tokens(&encoder.shape));
}

#[test]
fn cuda_a_large_batch_is_left_between_layers_and_gives_its_memory_back() {
    let test = "cuda_a_large_batch_is_left_between_layers_and_gives_its_memory_back";
    let Some(machine) = card::machine(test) else { return };
    let file = tiny_goldens();
    let tiny = Tiny::new(&file);
    tiny.write("gelu", DType::F32, str::to_owned);
    let encoder = load_on(machine.device, &tiny, Pooling::Mean, Precision::F32);
    encoder.desk.lock().expect("nobody panicked").budget = Budget::new(u64::MAX);
    let free = || encoder.card.free_bytes().expect("the card").expect("a card's own");
    let text = [1, 2, 3, 4, 5, 6, 7, 8];
    let alone = encoder.embed(&[&text]).expect("runs").remove(0);
    // As many as are waited for between layers, so that what they need is loaded too, and memory is measured after it.
    let few = vec![Text { ids: &text, types: &[] }; MANY / text.len()];
    let looks = std::cell::Cell::new(0);
    let stop = || looks.replace(looks.get() + 1) == 1;
    assert!(encoder.run(&few, stop, |_, _| ()).expect("no fault").is_none());
    assert_eq!(looks.get(), 2, "after the first layer");
    assert!(encoder.run(&few, || false, |_, _| ()).expect("no fault").is_some());
    encoder.card.synchronize().expect("the card");
    let before = free();

    let count = usize::try_from(2 * KEPT / encoder.footprint.of(text.len())).expect("few");
    let embeddings = encoder.embed(&vec![&text[..]; count]).expect("runs");
    assert!(embeddings.iter().all(|embedding| apart(embedding, &alone) <= 1e-5));
    assert!(free() + KEPT / 2 >= before, "{} bytes were free, {} are", before, free());
    assert!(!encoder.is_broken());
}

#[test]
fn cuda_a_batch_that_memory_is_too_little_for_is_halved_and_no_text_is_lost() {
    const PIECE: usize = 64 << 20;
    /// What the batch is counted to need: more than is left, whatever was counted too much.
    const NEEDED: u64 = 16 << 30;
    let test = "cuda_a_batch_that_memory_is_too_little_for_is_halved_and_no_text_is_lost";
    let Some(machine) = card::machine(test) else { return };
    let file = tiny_goldens();
    let tiny = Tiny::new(&file);
    tiny.write("gelu", DType::F32, str::to_owned);
    let encoder = load_on(machine.device, &tiny, Pooling::Mean, Precision::F32);
    let text = [1, 2, 3, 4, 5, 6, 7, 8];
    let alone = encoder.embed(&[&text]).expect("runs").remove(0);

    let card = machine.device.open().expect("the card");
    let piece = |_| {
        let mut piece = card.empty(Precision::F32);
        card.make(&mut piece, 1, PIECE / 4).and_then(|()| card.synchronize()).map(|()| piece).ok()
    };
    let mut taken: Vec<CardRows> = (0..).map_while(piece).collect();
    taken.truncate(taken.len().saturating_sub(4));
    card.synchronize().expect("the card");
    encoder.desk.lock().expect("nobody panicked").budget = Budget::new(u64::MAX);
    let count = usize::try_from(NEEDED / encoder.footprint.of(text.len())).expect("few");
    let texts: Vec<&[u32]> = vec![&text; count];
    let embeddings = encoder.embed(&texts).expect("runs, in parts");
    drop(taken);

    assert_eq!(embeddings.len(), count);
    assert!(embeddings.iter().all(|embedding| apart(embedding, &alone) <= 1e-5));
    assert_ne!(encoder.desk.lock().expect("nobody panicked").budget, Budget::new(u64::MAX), "it was halved");
}

#[test]
fn cuda_what_was_recorded_gives_what_is_computed_at_first() {
    let test = "cuda_what_was_recorded_gives_what_is_computed_at_first";
    let Some(machine) = card::machine(test) else { return };
    let family: Value =
        serde_json::from_str(include_str!("../../../tests/goldens/families/mpnet.json")).expect("goldens");
    let tiny = Tiny::new(&family["models"][0]);
    tiny.write("gelu", DType::F32, str::to_owned);
    let encoders = [Device::Plain, machine.device].map(|device| load_on(device, &tiny, Pooling::Mean, Precision::F32));
    for round in 0..5_u32 {
        for length in [1, 2, 16, 17, 64, 65, 130] {
            let text: Vec<u32> = (0..length).map(|token| (token * 7 + round) % 240).collect();
            let [plain, card] = encoders.each_ref().map(|encoder| encoder.embed(&[&text]).expect("runs").remove(0));
            assert!(apart(&plain, &card) <= 1e-5, "{length} tokens, round {round}");
        }
    }
}

#[test]
fn a_fault_is_the_servers_and_may_be_tried_again() {
    for is_out_of_memory in [true, false] {
        let failure = failed(&CardError { is_out_of_memory, reason: "a card fell off the bus".into() });
        assert!(failure.code == FailureCode::Internal && failure.retryable, "{failure}");
        assert!(!failure.message.contains("bus"), "the cause is for the log: {failure}");
    }
}

#[test]
fn what_a_card_has_no_way_for_is_the_processors() {
    let tiny = Tiny::new(&tiny_goldens());
    tiny.write("gelu", DType::F32, str::to_owned);
    let mut config = tiny.read(Pooling::Mean).expect("reads").0.config;
    let ways = |device| [Precision::F32, Precision::Bf16, Precision::Int8].map(|asked| way(device, &config, asked));
    assert_eq!(ways(Device::Cpu), [None; 3]);
    assert_eq!(ways(Device::Cuda(0)), [Some(Precision::F32), Some(Precision::Bf16), None]);
    config.hidden_size = (WIDEST_HEAD + 1) * config.num_attention_heads;
    assert_eq!(way(Device::Cuda(0), &config, Precision::F32), None, "heads are too wide");
}
