//! A decoder of random weights as a GGUF file of floats, wide enough for blocks of 256 numbers. It is made when a test needs it;
//! `goldens/make_wide.py` makes the same file, and what a reference computes with smaller versions of it.

const WIDTH: u32 = 256;
const INNER: u32 = 512;
const LAYERS: u32 = 2;
const HEADS: u32 = 4;
const KEY_HEADS: u32 = 2;
const CONTEXT: u32 = 128;
/// The characters from the space to `}`, one of two letters, and the end of a text.
const TOKENS: u32 = 96;

/// Kinds of values in a header.
const U32: u32 = 4;
const F32: u32 = 6;
const FLAG: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// The file.
pub(crate) fn gguf() -> Vec<u8> {
    let (tensors, values) = (tensors(), values());
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((values.len() as u64).to_le_bytes());
    for (key, kind, value) in values {
        file.extend([text(key), kind.to_le_bytes().to_vec(), value].concat());
    }
    let mut data = Vec::new();
    for (seed, (name, rows, columns)) in (0..).zip(tensors) {
        let sides: Vec<u32> = if rows == 1 { vec![columns] } else { vec![columns, rows] };
        file.extend([text(&name), (sides.len() as u32).to_le_bytes().to_vec()].concat());
        sides.iter().for_each(|side| file.extend(u64::from(*side).to_le_bytes()));
        // Floats of 32 bits, which begin there among the data.
        file.extend([&0_u32.to_le_bytes()[..], &(data.len() as u64).to_le_bytes()].concat());
        let (scale, middle) = if rows == 1 { (0.25, 1.0) } else { (0.125, 0.0) };
        (0..rows * columns).for_each(|index| data.extend((number(seed, index) * scale + middle).to_le_bytes()));
    }
    file.resize(file.len().next_multiple_of(32), 0);
    [file, data].concat()
}

/// Each matrix with its rows and columns, and norms, which have one row.
fn tensors() -> Vec<(String, u32, u32)> {
    let keys = WIDTH / HEADS * KEY_HEADS;
    let layer = [
        ("attn_norm", 1, WIDTH),
        ("attn_q", WIDTH, WIDTH),
        ("attn_k", keys, WIDTH),
        ("attn_v", keys, WIDTH),
        ("attn_output", WIDTH, WIDTH),
        ("ffn_norm", 1, WIDTH),
        ("ffn_gate", INNER, WIDTH),
        ("ffn_up", INNER, WIDTH),
        ("ffn_down", WIDTH, INNER),
    ];
    let whole = [("token_embd", TOKENS, WIDTH), ("output_norm", 1, WIDTH), ("output", TOKENS, WIDTH)];
    let whole = whole.map(|(name, rows, columns)| (format!("{name}.weight"), rows, columns));
    let named = |index| layer.map(|(name, rows, columns)| (format!("blk.{index}.{name}.weight"), rows, columns));
    whole.into_iter().chain((0..LAYERS).flat_map(named)).collect()
}

/// What the header says: keys, kinds of values, values.
fn values() -> Vec<(&'static str, u32, Vec<u8>)> {
    let number = |number: u32| number.to_le_bytes().to_vec();
    let texts = |texts: Vec<String>| {
        let each = texts.iter().flat_map(|one| text(one)).collect();
        [TEXT.to_le_bytes().to_vec(), (texts.len() as u64).to_le_bytes().to_vec(), each].concat()
    };
    // GPT-2's alphabet of bytes has another sign for the space alone.
    let sign = |byte: u8| if byte == b' ' { '\u{120}' } else { byte.into() };
    let tokens = (b' '..=b'}').map(|byte| sign(byte).to_string());
    let tokens = tokens.chain(["sh", "<|end|>"].map(str::to_owned)).collect();
    vec![
        ("general.architecture", TEXT, text("llama")),
        ("general.name", TEXT, text("wide")),
        ("llama.context_length", U32, number(CONTEXT)),
        ("llama.embedding_length", U32, number(WIDTH)),
        ("llama.block_count", U32, number(LAYERS)),
        ("llama.feed_forward_length", U32, number(INNER)),
        ("llama.attention.head_count", U32, number(HEADS)),
        ("llama.attention.head_count_kv", U32, number(KEY_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", F32, 1e-5_f32.to_le_bytes().to_vec()),
        ("llama.rope.freq_base", F32, 10_000_f32.to_le_bytes().to_vec()),
        ("tokenizer.ggml.model", TEXT, text("gpt2")),
        ("tokenizer.ggml.pre", TEXT, text("gpt-2")),
        ("tokenizer.ggml.tokens", ARRAY, texts(tokens)),
        ("tokenizer.ggml.merges", ARRAY, texts(vec!["s h".to_owned()])),
        ("tokenizer.ggml.add_bos_token", FLAG, vec![0]),
        ("tokenizer.ggml.eos_token_id", U32, number(TOKENS - 1)),
    ]
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// From -1 to 1, and the same wherever it is computed: whole numbers, mixed as in Wellons' `lowbias32`
/// (<https://nullprogram.com/blog/2018/07/31/>), whose upper 24 bits a float holds exactly.
fn number(seed: u32, index: u32) -> f32 {
    let mut mixed = seed.wrapping_mul(0x9E37_79B9).wrapping_add(index);
    mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x7FEB_352D);
    mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x846C_A68B);
    mixed ^= mixed >> 16;
    (mixed >> 8) as f32 / (1 << 23) as f32 - 1.0
}
