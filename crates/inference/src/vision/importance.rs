//! What heads and layers of a vision transformer are worth to some images.

use std::path::Path;

use kernels::Rows;
use serde_json::{Value, value::to_raw_value};

use super::{ImageClassifier, Network, Vit};
use crate::{
    LoadError, Machine,
    architecture::Architecture,
    image::Image,
    importance::{self, MOST_ROWS, mean_squares},
    map::Weights,
    transformer::Layer,
    turn::Turn,
};

/// A loaded classifier, and the images that it is judged by.
pub(crate) struct Study {
    classifier: ImageClassifier<Vit>,
    images: Vec<Image>,
    original: Vec<Vec<f32>>,
}

impl Study {
    /// Loads the model of a directory and reads the images of these inputs, of which there is at least one.
    ///
    /// # Errors
    /// When the model does not load or cannot read an input.
    pub(crate) fn open(dir: &Path, weights: &Weights, inputs: &[Value], machine: Machine) -> Result<Self, LoadError> {
        let classifier = ImageClassifier::<Vit>::load(dir, weights, machine)?;
        let most = MOST_ROWS.div_ceil(classifier.network.rows());
        let mut images = Vec::new();
        for (place, input) in inputs.iter().take(most).enumerate() {
            let wrong = |reason: String| LoadError::new(dir, format!("fails on input {}: {reason}", place + 1));
            let input = to_raw_value(input).map_err(|error| wrong(error.to_string()))?;
            images.push(classifier.prepare(&input).map_err(|failure| wrong(failure.to_string()))?.image);
        }
        Ok(Self { classifier, images, original: Vec::new() })
    }

    fn outputs(&self) -> Vec<Vec<f32>> {
        let ImageClassifier { processor, network, .. } = &self.classifier;
        let images: Vec<_> = self.images.iter().collect();
        network.run(&images, processor.levels(), &mut Turn::kept(), || false, |_, outputs| outputs).unwrap_or_default()
    }
}

impl importance::Study for Study {
    type Layer = Layer;

    fn layers_mut(&mut self) -> &mut Vec<Layer> {
        self.classifier.network.layers_mut()
    }

    fn observe(&mut self, see: impl FnMut(usize, Rows<'_>)) -> Result<(), LoadError> {
        let ImageClassifier { processor, network, .. } = &self.classifier;
        network.observe(&self.images, processor.levels(), see);
        Ok(())
    }

    fn remember(&mut self) -> Result<(), LoadError> {
        self.original = self.outputs();
        Ok(())
    }

    fn distance(&mut self) -> Result<f64, LoadError> {
        Ok(mean_squares(&self.original, &self.outputs()))
    }
}
