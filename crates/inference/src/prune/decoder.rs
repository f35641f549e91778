//! A text generator's GGUF file without some of its parts. Tensors stay of the kind that they were of.

mod heads;

use std::{borrow::Cow, path::Path};

use candle_core::quantized::GgmlDType;

use self::heads::{Way, write_without_heads};
use super::{
    Cut, Job, Removed, at_most,
    parts::{renumbered, share_of, without_smallest, zeros},
    words,
};
use crate::{
    LoadError, derived,
    generate::{self, Anatomy, Study},
    gguf::{Change, Gguf, Outline},
    importance::{HeadProducts, dispensable_layers, head_squares},
};

/// Writes the directory.
///
/// # Errors
/// When the file cannot be pruned so, fails on an input, or a file cannot be read or written.
pub(super) fn prune(job: &Job<'_>) -> Result<Removed, LoadError> {
    let dir = &job.found.dir;
    let file = generate::file(dir)?.ok_or_else(|| job.wrong("has no GGUF file any more"))?;
    let gguf = Gguf::open(&dir.join(file))?;
    let anatomy = Anatomy::read(&gguf)?;
    derived::copy_card(dir, job.to)?;
    let path = job.to.join(format!("{}.gguf", job.name.name()));
    let lacks = words::sentences(&job.found.spec.description, job.cut);
    let study = || Study::open(&gguf, job.judges()?, job.machine, dir);
    match job.cut {
        Cut::Heads(count) => {
            if anatomy.head_width > anatomy.width {
                return Err(job.wrong("has heads wider than its hidden states, which cannot be judged"));
            }
            let way = Way::of(&anatomy, count).map_err(|reason| job.wrong(reason))?;
            way.check(&gguf, &anatomy)?;
            let mut study = study()?;
            let products = (0..anatomy.layers).map(|layer| products(&gguf, &anatomy, layer));
            let squares = head_squares(&mut study, &products.collect::<Result<Vec<_>, _>>()?)?;
            let removed: Vec<_> = squares.iter().map(|squares| way.least(squares, anatomy.group())).collect();
            write_without_heads(&gguf, &anatomy, way, &removed, &lacks, &path)?;
            Ok(Removed::Heads(removed))
        }
        Cut::Layers(count) if count >= anatomy.layers => Err(job.wrong(at_most(anatomy.layers, "layer"))),
        Cut::Layers(count) => {
            let removed = dispensable_layers(&mut study()?, count)?;
            write_without_layers(&gguf, &anatomy, &removed, &lacks, &path)?;
            Ok(Removed::Layers(removed))
        }
        Cut::Sparsity(share) => {
            let zeros = write_sparse(&gguf, &anatomy, share, &lacks, &path)?;
            Ok(Removed::Weights { zeros, parameters: gguf.parameters() })
        }
    }
}

/// What the heads of a layer make of what they gather.
fn products(gguf: &Gguf, anatomy: &Anatomy, layer: usize) -> Result<HeadProducts, LoadError> {
    let columns = anatomy.heads * anatomy.head_width;
    let matrix = gguf.numbers(&Anatomy::name(layer, "attn_output.weight"), &[anatomy.width, columns])?;
    Ok(HeadProducts::new(&matrix, columns, anatomy.head_width))
}

/// Writes all tensors but those of these layers; the others' layers are numbered anew.
fn write_without_layers(
    gguf: &Gguf,
    anatomy: &Anatomy,
    removed: &[usize],
    lacks: &str,
    path: &Path,
) -> Result<(), LoadError> {
    let kept = gguf.outlines().into_iter().filter_map(|tensor| {
        let from = tensor.name.clone();
        let name = match anatomy.place(&from) {
            Some((layer, part)) => Anatomy::name(renumbered(layer, removed)?, part).into(),
            None => from.clone(),
        };
        Some((from, Outline { name, ..tensor }))
    });
    let (from, tensors): (Vec<_>, Vec<_>) = kept.unzip();
    let count = (anatomy.layers - removed.len()) as u32;
    let changes = [(anatomy.key("block_count"), Change::Number(count)), said(lacks)];
    gguf.write_as(path, &changes, &tensors, |place| gguf.bytes(&from[place]).map(Cow::Borrowed))
}

/// What the file says that its model lacks.
fn said(lacks: &str) -> (String, Change<'_>) {
    (words::IN_GGUF.to_owned(), Change::Text(lacks))
}

/// Writes all tensors, in each matrix of each layer zeros in place of the numbers nearest to 0, this share of them: what is in blocks is
/// decoded for that and encoded again. How many numbers of the file are 0 then.
pub(super) fn write_sparse(
    gguf: &Gguf,
    anatomy: &Anatomy,
    share: f64,
    lacks: &str,
    path: &Path,
) -> Result<u64, LoadError> {
    let tensors = gguf.outlines();
    let count = |tensor: &Outline<'_>| {
        share_of(share, if anatomy.is_matrix(&tensor.name) { tensor.shape.iter().product() } else { 0 })
    };
    if tensors.iter().all(|tensor| count(tensor) == 0) {
        return Err(gguf.wrong(format!("a share of {share} is no whole number of any matrix")));
    }
    let mut nothing = 0;
    gguf.write_as(path, &[said(lacks)], &tensors, |place| {
        let tensor = &tensors[place];
        let stored = gguf.bytes(&tensor.name)?;
        let bytes = match count(tensor) {
            0 => Cow::Borrowed(stored),
            count => match tensor.kind {
                GgmlDType::F32 => without_smallest::<4>(stored, count).into(),
                GgmlDType::F16 | GgmlDType::BF16 => without_smallest::<2>(stored, count).into(),
                _ => {
                    let numbers = gguf.numbers(&tensor.name, &tensor.shape)?;
                    let numbers = without_smallest::<4>(&to_bytes(&numbers), count);
                    gguf.encoded(to_numbers(&numbers), tensor)?.into()
                }
            },
        };
        nothing += match tensor.kind {
            GgmlDType::F16 | GgmlDType::BF16 => zeros::<2>(&bytes),
            GgmlDType::F32 => zeros::<4>(&bytes),
            // Blocks whose numbers have a least one of their own come near 0, and need not hold it.
            _ => zeros::<4>(&to_bytes(&gguf.decoded(&bytes, tensor)?)),
        };
        Ok(bytes)
    })?;
    Ok(nothing)
}

/// Numbers as 32-bit floats of a file.
fn to_bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn to_numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
