//! Images as Pillow reads them (`tests/goldens/images.json`), and ones that are odd, broken or hostile.

use std::collections::BTreeMap;

use prediction::FailureCode;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Goldens {
    images: BTreeMap<String, Golden>,
}

#[derive(Clone, Deserialize)]
struct Golden {
    file: String,
    width: usize,
    height: usize,
    pixels: String,
}

impl Golden {
    fn named(name: &str) -> Self {
        goldens()[name].clone()
    }

    fn bytes(&self) -> Vec<u8> {
        base64(&self.file).expect("base64")
    }

    fn image(&self) -> Image {
        Image { width: self.width, height: self.height, pixels: base64(&self.pixels).expect("base64") }
    }
}

fn goldens() -> BTreeMap<String, Golden> {
    serde_json::from_str::<Goldens>(include_str!("../../tests/goldens/images.json")).expect("goldens").images
}

/// The image alone.
fn read(text: &str, bounds: Bounds) -> Result<Image, Failure> {
    super::read(text, bounds).map(|(image, _)| image)
}

fn read_bytes(bytes: &[u8]) -> Result<Image, Failure> {
    read(&STANDARD.encode(bytes), BOUNDS)
}

#[track_caller]
fn is_refused(bytes: &[u8], code: FailureCode, part: &str) {
    let failure = read_bytes(bytes).map(|image| (image.width, image.height)).expect_err("it is refused");
    assert!(failure.code == code && failure.message.contains(part), "{failure}");
}

/// A PNG of these samples.
fn png(width: u32, height: u32, color: ::png::ColorType, depth: ::png::BitDepth, samples: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut file, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(samples).expect("writes");
    writer.finish().expect("writes");
    file
}

/// PNG's checksum (ISO 3309), bit by bit.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let sum = bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 })
    });
    (!sum).to_be_bytes()
}

/// The signature and the header of a PNG, and nothing of the image itself.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let chunk = [b"IHDR", &width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n\0\0\0\x0D", &chunk[..], &checksum(&chunk)].concat()
}

/// Where the sizes stand in the header of a JPEG: height, then width.
fn frame(jpeg: &[u8]) -> usize {
    jpeg.windows(2).position(|pair| matches!(pair, [0xFF, 0xC0 | 0xC2])).expect("a frame") + 5
}

#[test]
fn files_are_read_as_pillow_reads_them() {
    for (name, golden) in goldens() {
        let (ours, theirs) = (read(&golden.file, BOUNDS).expect(&name), golden.image());
        assert_eq!((ours.width, ours.height), (theirs.width, theirs.height), "{name}");
        let apart = ours.pixels.iter().zip(&theirs.pixels).map(|(ours, theirs)| ours.abs_diff(*theirs)).max();
        // Decoders of JPEG round in other places.
        let most = if name.starts_with("jpeg") { 3 } else { 0 };
        assert!(apart <= Some(most), "{name}: {apart:?} levels apart");
    }
}

#[test]
fn sixteen_bits_lose_their_lower_eight() {
    use ::png::{BitDepth, ColorType};
    let samples: Vec<u8> = (0..4 * 3 * 2).map(|byte| byte * 9).collect();
    let high: Vec<u8> = samples.iter().copied().step_by(2).collect();
    let read = |color, width| read_bytes(&png(width, 1, color, BitDepth::Sixteen, &samples)).expect("sound").pixels;
    assert_eq!(read(ColorType::Rgb, 4), high);
    assert_eq!(read(ColorType::Grayscale, 12), high.iter().flat_map(|grey| [*grey; 3]).collect::<Vec<_>>());
    assert_eq!(read(ColorType::GrayscaleAlpha, 6), high.chunks(2).flat_map(|pixel| [pixel[0]; 3]).collect::<Vec<_>>());
    assert_eq!(read(ColorType::Rgba, 3), high.chunks(4).flat_map(|pixel| pixel[..3].to_vec()).collect::<Vec<_>>());
}

#[test]
fn base64_comes_alone_or_in_a_url() {
    let Golden { file, .. } = Golden::named("rgb");
    let alone = read(&file, BOUNDS).expect("an image");
    for begin in ["data:image/png;base64,", "data:image/jpeg;base64,", "data:image/png;charset=utf-8;base64,"] {
        assert_eq!(read(&format!("{begin}{file}"), BOUNDS).expect("an image"), alone, "{begin}");
    }
    for begin in ["data:text/plain;base64,", "data:image/png,", "data:", "https://example.com/", "file:"] {
        let failure = read(&format!("{begin}{file}"), BOUNDS).expect_err(begin);
        assert_eq!(failure.code, FailureCode::InvalidInput, "{begin}");
    }
}

#[test]
fn sizes_are_refused_by_the_header() {
    for (width, height) in [(65_535, 65_535), (4097, 4096), (16_385, 1), (1, i32::MAX as u32), (1 << 14, 1 << 14)] {
        is_refused(&png_header(width, height), FailureCode::InputTooLarge, "at most");
    }
    is_refused(&png_header(4096, 4096), FailureCode::InvalidInput, "not a sound PNG");
    is_refused(&png_header(0, 5), FailureCode::InvalidInput, "not a sound PNG");
    let mut jpeg = Golden::named("jpeg").bytes();
    let at = frame(&jpeg);
    for (height, width) in [(65_535_u16, 65_535_u16), (4096, 4097), (1, 16_385)] {
        jpeg[at..at + 2].copy_from_slice(&height.to_be_bytes());
        jpeg[at + 2..at + 4].copy_from_slice(&width.to_be_bytes());
        is_refused(&jpeg, FailureCode::InputTooLarge, "at most");
    }
    // Larger than its data, within the bounds: what is missing is made up, as Pillow does.
    jpeg[at..at + 4].copy_from_slice(&[16, 0, 16, 0]);
    assert_eq!(read_bytes(&jpeg).expect("an image").pixels.len(), 4096 * 4096 * 3);
    jpeg[at..at + 4].fill(0);
    is_refused(&jpeg, FailureCode::InvalidInput, "not a sound JPEG");
}

#[test]
fn a_bomb_within_the_bounds_is_an_image() {
    let grey = png(4096, 4096, ::png::ColorType::Grayscale, ::png::BitDepth::One, &vec![0; 4096 * 512]);
    assert!(grey.len() < 64 << 10, "{} bytes", grey.len());
    let image = read_bytes(&grey).expect("an image");
    assert_eq!((image.width, image.height, image.pixels.len()), (4096, 4096, 4096 * 4096 * 3));
}

#[test]
fn other_files_are_refused() {
    let mut deep = Golden::named("jpeg").bytes();
    let at = frame(&deep);
    deep[at - 1] = 12;
    let cases: [(&[u8], &str); 9] = [
        (b"", "neither PNG nor JPEG"),
        (b"GIF89a\x01\0\x01\0\0\0\0;", "neither PNG nor JPEG"),
        (b"RIFF\x0c\0\0\0WEBPVP8 ", "neither PNG nor JPEG"),
        (b"BM", "neither PNG nor JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "neither PNG nor JPEG"),
        (b"\x89PNG", "not a sound PNG"),
        (b"\xFF\xD8", "not a sound JPEG"),
        (b"\xFF\xD8\xFF\xD9", "not a sound JPEG"),
        (&deep, "8-bit"),
    ];
    for (bytes, part) in cases {
        is_refused(bytes, FailureCode::InvalidInput, part);
    }
    for text in ["!", "AAA", "iVBORw0KGgo", "iVBO Rw0K"] {
        let failure = read(text, BOUNDS).expect_err(text);
        assert!(failure.code == FailureCode::InvalidInput && failure.message.contains("not base64"), "{failure}");
    }
}

#[test]
fn scans_without_end_are_refused() {
    let whole = Golden::named("jpeg, progressive").bytes();
    let last = whole.windows(2).rposition(|pair| pair == [0xFF, 0xDA]).expect("a scan");
    let (before, scan) = (&whole[..last], &whole[last..whole.len() - 2]);
    let many = [before, &scan.repeat(1000), &[0xFF, 0xD9]].concat();
    is_refused(&many, FailureCode::InvalidInput, "not a sound JPEG");
}

#[test]
fn baseline_files_have_no_end_of_scans_or_segments_either() {
    let whole = Golden::named("jpeg").bytes();
    let first = whole.windows(2).position(|pair| pair == [0xFF, 0xDA]).expect("a scan");
    let (head, scan) = (&whole[..first], &whole[first..whole.len() - 2]);
    let many = [head, &scan.repeat(100), &[0xFF, 0xD9]].concat();
    is_refused(&many, FailureCode::InvalidInput, "too many scans");
    let comments = [0xFF, 0xFE, 0x00, 0x02].repeat(2000);
    is_refused(&[&whole[..2], &comments, &whole[2..]].concat(), FailureCode::InvalidInput, "too many segments");
    // What looks like a segment to one reader and like fill to another.
    is_refused(
        &[&whole[..2], &[0xFF, 0x00, 0x00, 0x04, 0, 0], &whole[2..]].concat(),
        FailureCode::InvalidInput,
        "out of place",
    );
}

#[test]
fn half_a_file_is_no_image() {
    for name in ["rgb", "palette", "jpeg", "jpeg, half the colours", "jpeg, progressive"] {
        let whole = Golden::named(name).bytes();
        let image = read_bytes(&whole).expect(name);
        for length in 0..whole.len() {
            match read_bytes(&whole[..length]) {
                Err(failure) => assert_eq!(failure.code, FailureCode::InvalidInput, "{name}, {length} bytes"),
                // Only the mark of its end is missing.
                Ok(read) => assert!(read == image && length + 24 > whole.len(), "{name}, {length} bytes"),
            }
        }
    }
}

#[test]
fn no_spoilt_byte_brings_the_reader_down() {
    for name in
        ["palette", "turned 6", "jpeg, half the colours", "jpeg, progressive", "jpeg, four inks", "jpeg, turned"]
    {
        let whole = Golden::named(name).bytes();
        // Every byte once, and sizes in the header cannot become more than is worth a test's time.
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xFF] {
                let mut spoilt = whole.clone();
                spoilt[at] ^= flip;
                let small = Bounds { side: 300, pixels: 10_000 };
                if let Ok(image) = read(&STANDARD.encode(&spoilt), small) {
                    assert_eq!(image.pixels.len(), image.width * image.height * 3, "{name}, byte {at}");
                }
            }
        }
    }
}

#[test]
fn orientations_that_cannot_be_read_are_upright() {
    let little = |entries: u16, kind: u16, value: u16| {
        let entry = [&0x0112_u16.to_le_bytes()[..], &kind.to_le_bytes(), &[1, 0, 0, 0], &value.to_le_bytes(), &[0, 0]];
        [b"II*\0\x08\0\0\0", &entries.to_le_bytes()[..], &entry.concat()].concat()
    };
    let turned = Orientation::of(&little(1, 3, 6));
    assert_ne!(turned, Orientation::default());
    let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0";
    assert_eq!(Orientation::of(big), turned);
    assert_eq!(Orientation::of(&little(u16::MAX, 3, 6)), turned, "more entries than there are");
    let whole = little(1, 3, 6);
    for length in 0..whole.len() - 3 {
        assert_eq!(Orientation::of(&whole[..length]), Orientation::default(), "{length} bytes");
    }
    for exif in [&little(0, 3, 6)[..], &little(1, 4, 6), &little(1, 3, 0), &little(1, 3, 9), b"II*\0\xFF\xFF\xFF\xFF"] {
        assert_eq!(Orientation::of(exif), Orientation::default());
    }
}
