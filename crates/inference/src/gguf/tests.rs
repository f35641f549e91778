//! Files that are sound, and every kind of file that is not: refused with a reason, never a panic, and without memory for what is
//! only stated.

use std::fs;

use tempfile::TempDir;

use super::{Gguf, Value, header::Header};

/// The numbers of some kinds of values in files.
const U8: u32 = 0;
const U32: u32 = 4;
const F32: u32 = 6;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// A file in the making.
#[derive(Clone)]
struct Made {
    version: u32,
    values: Vec<(&'static str, Vec<u8>)>,
    tensors: Vec<Stated>,
    data: usize,
}

#[derive(Clone)]
struct Stated {
    name: &'static str,
    sides: Vec<u64>,
    kind: u32,
    offset: u64,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn value(kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes(), bytes].concat()
}

fn array(kind: u32, length: u64, bytes: &[u8]) -> Vec<u8> {
    value(ARRAY, &[&kind.to_le_bytes()[..], &length.to_le_bytes(), bytes].concat())
}

impl Made {
    /// Two tensors, of 2 × 32 floats and of 2 × 32 numbers in blocks of Q8_0, and a value of most kinds.
    fn sound() -> Self {
        let tensor = |name, kind, offset| Stated { name, sides: vec![32, 2], kind, offset };
        Self {
            version: 3,
            values: vec![
                ("general.architecture", value(TEXT, &text("llama"))),
                ("a.number", value(5, &(-7_i32).to_le_bytes())),
                ("a.flag", value(7, &[1])),
                ("a.float", value(F32, &0.5_f32.to_le_bytes())),
                ("texts", array(TEXT, 2, &[text("a"), text("\u{fc}")].concat())),
                ("numbers", array(U32, 2, &[1, 0, 0, 0, 2, 0, 0, 0])),
                ("bytes", array(U8, 3, &[1, 2, 3])),
            ],
            tensors: vec![tensor("floats", 0, 0), tensor("blocks", 8, 256)],
            data: 256 + 68,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.values.len() as u64).to_le_bytes());
        for (name, value) in &self.values {
            bytes.extend(text(name));
            bytes.extend(value);
        }
        for tensor in &self.tensors {
            bytes.extend(text(tensor.name));
            bytes.extend((tensor.sides.len() as u32).to_le_bytes());
            tensor.sides.iter().for_each(|side| bytes.extend(side.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }

    fn with(change: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut made = Self::sound();
        change(&mut made);
        made.bytes()
    }
}

fn file(bytes: &[u8]) -> (TempDir, Result<Gguf, String>) {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("made.gguf");
    fs::write(&path, bytes).expect("writes");
    let opened = Gguf::open(&path).map_err(|error| error.to_string());
    (home, opened)
}

#[test]
fn a_sound_file_says_what_is_in_it() {
    let (_home, opened) = file(&Made::sound().bytes());
    let gguf = opened.expect("sound");
    assert_eq!(gguf.need("general.architecture", Value::text), Ok("llama"));
    assert_eq!(gguf.need("numbers", Value::integers), Ok(&[1, 2][..]));
    assert_eq!(gguf.need("texts", Value::texts).expect("texts"), ["a", "\u{fc}"]);
    assert_eq!(gguf.need("a.flag", Value::flag), Ok(true));
    assert_eq!(gguf.need("a.float", Value::float), Ok(0.5));
    assert_eq!(gguf.find("another", Value::flag), Ok(None));
    // Blocks lie in panels of 48 outputs, each of which has 32 bytes, a step and a bias.
    assert_eq!((gguf.parameters(), gguf.weight_bytes()), (128, 256 + 48 * (32 + 4 + 4)));
    assert_eq!(gguf.sides("blocks"), Ok((2, 32)));
    assert_eq!(gguf.numbers("floats", &[2, 32]).expect("numbers"), [0.0; 64]);
    assert_eq!(gguf.numbers("blocks", &[2, 32]).expect("numbers"), [0.0; 64]);
    for (error, part) in [
        (gguf.need("a.number", Value::count).expect_err("negative"), "a.number is an integer, which it cannot be"),
        (gguf.need("bytes", Value::integers).expect_err("passed over"), "bytes is an array, which it cannot be"),
        (gguf.need("another", Value::flag).expect_err("missing"), "another is missing"),
        (
            gguf.numbers("floats", &[32, 2]).expect_err("another shape"),
            "has shape [2, 32]; the architecture needs [32, 2]",
        ),
        (gguf.numbers("weights", &[1]).expect_err("missing"), "tensor \"weights\" is missing"),
    ] {
        let error = error.to_string();
        assert!(error.contains("made.gguf: ") && error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let mut bytes = Made::sound().bytes();
    let start = bytes.len() - (256 + 68);
    bytes[start + 8..start + 12].copy_from_slice(&f32::NAN.to_le_bytes());
    let (_home, opened) = file(&bytes);
    let error = opened.expect("sound").numbers("floats", &[2, 32]).expect_err("not a number");
    assert!(error.reason.contains("not finite"), "{error}");
}

#[test]
fn a_hostile_file_is_refused() {
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("ends at byte 0", Vec::new()),
        ("does not begin with GGUF", b"GGML\x03\0\0\0".to_vec()),
        ("version 1 ", Made::with(|made| made.version = 1)),
        ("version 50331648 ", Made::with(|made| made.version = 3_u32.swap_bytes())),
        ("states 9223372036854775808 tensors", {
            let mut bytes = Made::sound().bytes();
            bytes[8..16].copy_from_slice(&(1_u64 << 63).to_le_bytes());
            bytes
        }),
        ("states 18446744073709551615 values", {
            let mut bytes = Made::sound().bytes();
            bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
            bytes
        }),
        ("has 0 dimensions", {
            // What is beyond is zeros.
            let mut bytes = Made::sound().bytes();
            bytes[8..16].copy_from_slice(&65_000_u64.to_le_bytes());
            bytes
        }),
        ("states 1073741824 elements", Made::with(|made| made.values.push(("huge", array(U8, 1 << 30, &[0]))))),
        ("more than the file holds", Made::with(|made| made.values.push(("huge", array(TEXT, 1 << 20, &[0]))))),
        ("an array of arrays", Made::with(|made| made.values.push(("nested", array(ARRAY, 1 << 20, &[0; 64]))))),
        ("an array is of kind 13", Made::with(|made| made.values.push(("odd", array(13, 1, &[0; 8]))))),
        ("a value is of kind 99", Made::with(|made| made.values.push(("odd", value(99, &[0; 8]))))),
        ("a flag is 2", Made::with(|made| made.values.push(("odd", value(7, &[2]))))),
        ("states 18446744073709551615 bytes", Made::with(|made| made.values.push(("odd", value(TEXT, &[0xFF; 8]))))),
        ("is not UTF-8", Made::with(|made| made.values.push(("odd", value(TEXT, b"\x01\0\0\0\0\0\0\0\xFF"))))),
        ("says \"a.flag\" twice", Made::with(|made| made.values.push(("a.flag", value(7, &[0]))))),
        (
            "general.alignment is Unsigned(0)",
            Made::with(|made| made.values.push(("general.alignment", value(U32, &[0; 4])))),
        ),
        (
            "general.alignment is Unsigned(24)",
            Made::with(|made| made.values.push(("general.alignment", value(U32, &[24, 0, 0, 0])))),
        ),
        (
            "general.alignment is Unsigned(2147483648)",
            Made::with(|made| made.values.push(("general.alignment", value(U32, &[0, 0, 0, 0x80])))),
        ),
        ("more than any file holds", Made::with(|made| made.tensors[0].sides = vec![1 << 32, 1 << 32])),
        ("more than any file holds", Made::with(|made| made.tensors[0].sides = vec![1 << 62, 1])),
        ("more than any file holds", Made::with(|made| made.tensors[0].sides = vec![32, 0])),
        ("lies outside the file", Made::with(|made| made.tensors[0].sides = vec![1 << 31, 1 << 29])),
        ("lies outside the file", Made::with(|made| made.tensors[1].offset = 288)),
        ("lies outside the file", Made::with(|made| made.data = 256 + 67)),
        ("more than any file holds", Made::with(|made| made.tensors[1].offset = u64::MAX - 31)),
        ("no multiple of 32", Made::with(|made| made.tensors[1].offset = 260)),
        ("31 columns, no multiple of 32", Made::with(|made| made.tensors[1].sides = vec![31, 2])),
        ("has 0 dimensions", Made::with(|made| made.tensors[0].sides = vec![])),
        ("has 5 dimensions", Made::with(|made| made.tensors[0].sides = vec![1; 5])),
        ("is stored as kind 16, which is not read", Made::with(|made| made.tensors[0].kind = 16)),
        ("is stored as kind 4294967295", Made::with(|made| made.tensors[0].kind = u32::MAX)),
        ("overlap", Made::with(|made| made.tensors[1].offset = 224)),
        ("has tensor \"floats\" twice", Made::with(|made| made.tensors[1].name = "floats")),
    ];
    for (part, bytes) in cases {
        let error = file(&bytes).1.err().unwrap_or_else(|| panic!("{part}: it is read"));
        assert!(error.contains("made.gguf: not sound GGUF: ") && error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn a_file_may_end_anywhere() {
    let bytes = Made::sound().bytes();
    for end in 0..bytes.len() {
        assert!(Header::read(&bytes[..end]).is_err(), "{end} bytes are read");
    }
    assert!(Header::read(&bytes).is_ok());
}

#[test]
fn changed_headers_never_panic_and_hold_no_more_than_the_file() {
    let sound = Made::sound().bytes();
    let header = sound.len() - (256 + 68);
    // SplitMix64's steps: any numbers do that are the same each time.
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut read, rounds) = (0, 30_000);
    for _ in 0..rounds {
        let mut bytes = sound.clone();
        for _ in 0..=random(4) {
            let at = random(header);
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes[at..at + 8].copy_from_slice(&(u64::MAX >> random(64)).to_le_bytes()),
                _ => bytes[at..at + 4].copy_from_slice(&(random(16) as u32).to_le_bytes()),
            }
        }
        bytes.truncate(bytes.len() - random(2) * random(header));
        let Ok(header) = Header::read(&bytes) else { continue };
        read += 1;
        let held: usize = header.metadata.values().map(size).sum();
        assert!(held <= bytes.len(), "{held} elements out of {} bytes", bytes.len());
        assert!(header.tensors.values().all(|tensor| tensor.range.end <= bytes.len() && !tensor.range.is_empty()));
    }
    assert!(read > 0 && read < rounds, "some changes are harmless, others are not: {read}");
}

/// Elements and bytes that a value keeps.
fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Texts(texts) => texts.capacity() + texts.iter().map(String::len).sum::<usize>(),
        Value::Integers(integers) => integers.capacity(),
        Value::Floats(floats) => floats.capacity(),
        _ => 1,
    }
}
