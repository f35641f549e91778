//! Encoders of texts and networks for images, in directories as transformers has them, without some of their parts.

use super::{Cut, Job, Removed, at_most, config, tensors, words};
use crate::{
    LoadError, derived,
    importance::{HeadProducts, Study, dispensable_layers, head_squares, least},
    map::Weights,
    plain::{CONFIG, WEIGHTS},
    text,
    transformer::Anatomy,
    vision::{self, Family},
};

/// Writes the directory.
///
/// # Errors
/// When it cannot be pruned so, fails on an input, or a file cannot be read or written.
pub(super) fn prune(job: &Job<'_>) -> Result<Removed, LoadError> {
    let (dir, task, machine) = (&job.found.dir, job.found.spec.task.as_str(), job.machine);
    let weights = Weights::open(&dir.join(WEIGHTS))?;
    match Family::named(job.found.architecture) {
        None => {
            let study = || text::Study::open(dir, task, &weights, job.judges()?, machine);
            let removed = remove(job, &weights, &text::anatomy(dir, task, &weights)?, study)?;
            let description = words::described(&job.found.spec.description, job.cut);
            derived::write_manifest(job.found, job.name, &description, job.found.precision.unwrap_or("f32"), job.to)?;
            Ok(removed)
        }
        Some(Family::Vit) => {
            let study = || vision::Study::open(dir, &weights, job.judges()?, machine);
            let removed = remove(job, &weights, &vision::anatomy(dir, &weights)?, study)?;
            say_what_it_lacks(job)?;
            Ok(removed)
        }
        Some(family) => {
            let what = match job.cut {
                Cut::Heads(_) => "attention heads to remove: it is made of convolutions",
                Cut::Layers(_) => {
                    "layers of one shape, of which any could go: blocks take the channels that those before them make"
                }
                Cut::Sparsity(share) => {
                    derived::copy_all_else(job.found, job.to)?;
                    let is_matrix = |name: &str| family.is_filter(name);
                    let (zeros, parameters) = tensors::write_sparse(&weights, is_matrix, share, &job.to.join(WEIGHTS))?;
                    say_what_it_lacks(job)?;
                    return Ok(Removed::Weights { zeros, parameters });
                }
            };
            Err(job.wrong(format!("is a {}, which has no {what}; --sparsity is possible", family.word())))
        }
    }
}

/// Has the configuration of a network for images, which has no manifest, say it.
fn say_what_it_lacks(job: &Job<'_>) -> Result<(), LoadError> {
    config::say(&job.to.join(CONFIG), words::IN_CONFIG, &words::sentences(&job.found.spec.description, job.cut))
}

/// Writes all files of a transformer but its manifest.
fn remove<S: Study>(
    job: &Job<'_>,
    weights: &Weights,
    anatomy: &Anatomy,
    study: impl FnOnce() -> Result<S, LoadError>,
) -> Result<Removed, LoadError> {
    let to = job.to.join(WEIGHTS);
    let removed = match job.cut {
        Cut::Heads(count) => {
            if let Some((layer, heads)) = anatomy.heads.iter().enumerate().find(|(_, heads)| heads.len() <= count) {
                return Err(job.wrong(format!("layer {layer} {}", at_most(heads.len(), "attention head"))));
            }
            let squares = head_squares(&mut study()?, &products(weights, anatomy)?)?;
            let places = squares.iter().map(|squares| least(squares, count)).collect::<Vec<_>>();
            tensors::write_without_heads(weights, anatomy, &places, &to)?;
            let heads = places.iter().zip(&anatomy.heads);
            Removed::Heads(heads.map(|(places, heads)| places.iter().map(|place| heads[*place]).collect()).collect())
        }
        Cut::Layers(count) if count >= anatomy.heads.len() => {
            return Err(job.wrong(at_most(anatomy.heads.len(), "layer")));
        }
        Cut::Layers(count) => {
            let layers = dispensable_layers(&mut study()?, count)?;
            tensors::write_without_layers(weights, anatomy, &layers, &to)?;
            Removed::Layers(layers)
        }
        Cut::Sparsity(share) => {
            let (zeros, parameters) = tensors::write_sparse(weights, |name| anatomy.is_matrix(name), share, &to)?;
            Removed::Weights { zeros, parameters }
        }
    };
    derived::copy_all_else(job.found, job.to)?;
    config::write(&job.to.join(CONFIG), anatomy, &removed)?;
    Ok(removed)
}

/// What the heads of each layer make of what they gather.
fn products(weights: &Weights, anatomy: &Anatomy) -> Result<Vec<HeadProducts>, LoadError> {
    let of = |layer: usize| {
        let columns = anatomy.heads[layer].len() * anatomy.head_width;
        let name = anatomy.name(layer, &format!("{}.weight", anatomy.names.attended));
        let rows = weights.shape(&name).and_then(|shape| shape.first()).copied().unwrap_or_default();
        Ok(HeadProducts::new(&weights.numbers(&name, &[rows, columns])?, columns, anatomy.head_width))
    };
    (0..anatomy.heads.len()).map(of).collect()
}
