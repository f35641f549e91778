//! What a request is that names a key or an id which is known already: the same again, or a conflict.

use prediction::PredictionId;

use crate::{Accepted, NewPrediction};

/// A request whose key was used for the prediction `id`, asked for with `fingerprint`.
pub(crate) fn by_key(new: &NewPrediction, id: PredictionId, fingerprint: &[u8]) -> Accepted {
    if fingerprint == new.fingerprint { Accepted::Replayed { id } } else { Accepted::KeyConflict }
}

/// A request whose id is a prediction's of `tenant`, asked for with `fingerprint`.
pub(crate) fn by_id(new: &NewPrediction, tenant: &str, fingerprint: Option<&[u8]>) -> Accepted {
    let is_same = tenant == new.tenant && fingerprint == Some(new.fingerprint.as_slice());
    if is_same { Accepted::Replayed { id: new.id } } else { Accepted::IdConflict }
}
