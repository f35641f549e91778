//! What convolutional networks share: their threads, and labels from the means of the last channels.

use kernels::{Activation, PackedMatrix, Precision};

use super::{conv::Maps, processor::Levels};
use crate::{
    LoadError, Machine,
    image::Image,
    map::Weights,
    transformer::{Crew, Room, Tensors, view, view_mut},
    turn::Turn,
};

/// What an image counts when images are dealt to threads: so much that each is a group of its own.
const LENGTH: usize = 512;

/// The end of a network, and who computes it.
pub(super) struct Head {
    classifier: PackedMatrix,
    room: Room<Maps>,
}

/// The tensors of a network, whose names begin so.
pub(super) fn tensors<'a>(weights: &'a Weights, prefix: &'static str, machine: Machine, epsilon: f32) -> Tensors<'a> {
    Tensors { weights, prefix, cpu: machine.cpu, precision: Precision::F32, epsilon }
}

impl Head {
    /// Reads the classifier and starts the threads.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape, and when the system gives no threads.
    pub(super) fn load(
        tensors: Tensors<'_>,
        classifier: &str,
        [inputs, labels]: [usize; 2],
        machine: Machine,
    ) -> Result<Self, LoadError> {
        let classifier = Tensors { prefix: "", ..tensors }.dense(&[classifier.to_owned()], labels, inputs)?;
        let room = Room::new(machine, Precision::F32)
            .map_err(|error| LoadError::new(tensors.weights.path(), format!("no threads to run it: {error}")))?;
        Ok(Self { classifier, room })
    }

    /// What `finish` makes of each image's outputs, after `forward` has taken it, in `x`, to its last channels, there too; `None`
    /// when that stopped.
    pub(super) fn run<T: Send>(
        &self,
        images: &[&Image],
        levels: &Levels,
        turn: &mut Turn<'_>,
        forward: impl Fn(&mut Crew<'_>, &mut Maps) -> Option<()> + Sync,
        finish: impl Fn(usize, Vec<f32>) -> T + Sync,
    ) -> Option<Vec<T>> {
        self.room.run(&vec![LENGTH; images.len()], turn, |group, crew, maps| {
            maps.seen.resize_with(crew.scratch.len().max(maps.seen.len()), Vec::new);
            let each = group.iter().map(|image| {
                maps.x.show(images[*image], levels);
                forward(crew, maps)?;
                Some(finish(*image, self.outputs(crew, &maps.x.means())))
            });
            each.collect()
        })
    }

    fn outputs(&self, crew: &mut Crew<'_>, means: &[f32]) -> Vec<f32> {
        let mut outputs = Vec::new();
        let to = view_mut(&mut outputs, 1, self.classifier.outputs());
        crew.multiply(&self.classifier, Activation::None, view(means, 1, means.len()), None, to);
        outputs
    }
}
