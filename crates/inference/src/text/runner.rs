//! Who computes an encoder: kernels on the processor, or a card.

use kernels::Precision;
use prediction::{Failure, FailureCode};

use super::{
    device::{DeviceEncoder, way},
    encoder::{Encoder, Text},
    files::Settings,
};
use crate::{LoadError, Machine, device::Device, map::Weights, transformer::UNDER_WAY, turn::Turn};

/// The most tokens in a batch for each thread that computes it: more take as long each, but those of the batch wait for each
/// other, and a batch is not left while it is in a layer.
const TOKENS_EACH: usize = 2048;

/// A loaded encoder.
pub(super) enum Runner {
    /// On the processor; with the most tokens of a batch.
    Kernels(Box<Encoder>, usize),
    /// Where it is told.
    Device(Box<DeviceEncoder>, Device),
}

impl Runner {
    /// Reads the encoder for the machine's device, or for the processor when the device has no way to be so exact.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape, the device has no room for it, and when the system gives no threads.
    pub(super) fn load(
        settings: &Settings,
        weights: &Weights,
        machine: Machine,
        precision: Precision,
    ) -> Result<Self, LoadError> {
        if let Some(precision) = way(machine.device, &settings.config, precision) {
            return DeviceEncoder::load(settings, weights, machine, precision)
                .map(|encoder| Self::Device(encoder.into(), machine.device));
        }
        let encoder = Encoder::load(settings, weights, machine, precision)?;
        Ok(Self::Kernels(encoder.into(), TOKENS_EACH * machine.threads.get()))
    }

    /// The most tokens of a batch.
    pub(super) fn max_tokens(&self) -> usize {
        match self {
            Self::Kernels(_, tokens) => *tokens,
            Self::Device(encoder, _) => encoder.max_tokens(),
        }
    }

    /// How many batches may be under way.
    pub(super) fn under_way(&self) -> usize {
        match self {
            Self::Kernels(..) => UNDER_WAY,
            Self::Device(..) => 1,
        }
    }

    /// What it computes on.
    pub(super) fn device(&self) -> Device {
        match self {
            Self::Kernels(..) => Device::Cpu,
            Self::Device(_, device) => *device,
        }
    }

    /// Reads what was not needed so far.
    ///
    /// # Errors
    /// When that cannot be read, or is not what it was; then [`is_broken`](Self::is_broken).
    pub(super) fn complete(&self) -> Result<(), LoadError> {
        match self {
            Self::Kernels(encoder, _) => encoder.complete(),
            Self::Device(..) => Ok(()),
        }
    }

    /// Whether a device has failed so that this process cannot compute on it any more, or weights were lost.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            Self::Kernels(encoder, _) => encoder.is_broken(),
            Self::Device(encoder, _) => encoder.is_broken(),
        }
    }

    /// What `finish` makes of what the model's head gives of each text, told by its place; `None` when `stop` said so between two
    /// layers. On the processor the turn is passed as [`Room::run`](crate::transformer::Room::run) does.
    ///
    /// # Errors
    /// When a device fails, or weights are lost.
    ///
    /// # Panics
    /// When a text has too many tokens, or one that the vocabulary or the encoder's types lack.
    pub(super) fn run<T: Send>(
        &self,
        texts: &[Text<'_>],
        turn: &mut Turn<'_>,
        stop: impl Fn() -> bool + Sync,
        finish: impl Fn(usize, Vec<f32>) -> T + Sync,
    ) -> Result<Option<Vec<T>>, Failure> {
        match self {
            Self::Kernels(encoder, _) => {
                let results = encoder.run(texts, turn, stop, finish);
                if encoder.is_broken() {
                    return Err(Failure::new(FailureCode::Internal, "the model lost its weights"));
                }
                Ok(results)
            }
            Self::Device(encoder, _) => encoder.run(texts, stop, finish),
        }
    }
}
