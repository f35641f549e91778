//! The models that can be asked, as workers have published them: read from the store each second, or at once when
//! somebody asks for one that is not known yet.

use std::{sync::Arc, time::Duration};

use prediction::{ModelName, ModelSpec, Version};
use store::{PublishedModel, Store};
use time::OffsetDateTime;

use crate::{
    cached::Cached,
    json::shown,
    patience::from_store,
    predictions::Target,
    problem::{Kind, Problem},
    validate::InputSchema,
};

/// A worker seen within this time serves what it published.
const ALIVE: Duration = Duration::from_secs(60);
/// How often the catalog is read again.
pub(crate) const REFRESH: Duration = Duration::from_secs(1);
/// Seconds after which a model without workers is worth asking again.
const UNSERVED_RETRY_AFTER: u32 = 5;

/// A version that can be, or once could be, asked.
#[derive(Clone)]
pub(crate) struct Served {
    /// What was published about it.
    pub(crate) published: Arc<Published>,
    /// Live workers that serve it.
    pub(crate) workers: u32,
}

/// What does not change about a version.
pub(crate) struct Published {
    /// What the worker said.
    pub(crate) spec: ModelSpec,
    /// When it was first published.
    pub(crate) created_at: OffsetDateTime,
    input: Result<InputSchema, String>,
}

impl Published {
    fn new(spec: ModelSpec, created_at: OffsetDateTime) -> Self {
        let input = InputSchema::compile(&spec.input_schema);
        if let Err(error) = &input {
            tracing::error!(model = %spec.name, version = spec.version.short(), %error, "input schema cannot be used");
        }
        Self { spec, created_at, input }
    }

    /// What inputs must fit.
    pub(crate) fn input(&self) -> Result<&InputSchema, Problem> {
        self.input
            .as_ref()
            .map_err(|_| Problem::new(Kind::Internal, "The input schema that this version published cannot be used."))
    }
}

/// Reads the models from the store.
pub(crate) struct Catalog {
    store: Store,
    known: Cached<Vec<Served>>,
}

impl Catalog {
    /// Nothing read yet.
    pub(crate) fn new(store: Store) -> Self {
        Self { store, known: Cached::empty() }
    }

    /// Every version, newest first per model, as the store has them now. However many ask, one reading at a time is
    /// under way.
    pub(crate) async fn versions(&self) -> Result<Arc<Vec<Served>>, Problem> {
        let load = || async {
            let models = from_store(self.store.models(ALIVE)).await?;
            let known = self.known.latest().unwrap_or_default();
            Ok(models.into_iter().map(|model| remember(model, &known)).collect())
        };
        self.known.within(Duration::ZERO, load).await
    }

    /// The version that shall run what is asked for, as far as can be said without asking the store.
    pub(crate) fn known(&self, target: &Target) -> Option<Served> {
        choose(&self.known.latest()?, target).ok().filter(|served| served.workers > 0)
    }

    /// The version that shall run what is asked for: with a name alone, the newest that a live worker serves.
    /// `unserved`: whether one without workers will do.
    pub(crate) async fn resolve(&self, target: &Target, unserved: bool) -> Result<Served, Problem> {
        let served = choose(&self.versions().await?, target)?;
        if served.workers == 0 && !unserved {
            let name = &served.published.spec.name;
            return Err(Problem::new(Kind::ModelUnavailable, format!("No worker serves {name} now."))
                .retry_after(UNSERVED_RETRY_AFTER));
        }
        Ok(served)
    }
}

/// Takes over what has been compiled already.
fn remember(model: PublishedModel, known: &[Served]) -> Served {
    let same = known
        .iter()
        .find(|served| served.published.created_at == model.created_at && served.published.spec == model.spec);
    let published = match same {
        Some(served) => Arc::clone(&served.published),
        None => Arc::new(Published::new(model.spec, model.created_at)),
    };
    Served { published, workers: model.workers }
}

fn choose(versions: &[Served], target: &Target) -> Result<Served, Problem> {
    let of_model = |name: &ModelName| versions.iter().filter(|served| served.published.spec.name == *name).collect();
    let mut candidates: Vec<&Served> = match target {
        Target::Model(name) | Target::VersionOfModel(name, _) => of_model(name),
        Target::Version(_) => versions.iter().collect(),
        Target::Nothing(_) => Vec::new(),
    };
    let unknown_model = candidates.is_empty() && !matches!(target, Target::Version(_));
    if unknown_model {
        return Err(Problem::new(Kind::ModelNotFound, format!("There is no model {:?}.", shown(&target.to_string()))));
    }
    if let Target::Version(digits) | Target::VersionOfModel(_, digits) = target {
        candidates.retain(|served| served.published.spec.version.is_named_by(digits));
        let distinct = |version: &Version| candidates.iter().any(|other| other.published.spec.version != *version);
        if candidates.first().is_some_and(|first| distinct(&first.published.spec.version)) {
            return Err(Problem::new(
                Kind::VersionNotFound,
                format!("{:?} names more than one version; give more digits.", shown(&target.to_string())),
            ));
        }
    }
    let live = candidates.iter().find(|served| served.workers > 0);
    live.or(candidates.first()).map(|served| (*served).clone()).ok_or_else(|| {
        Problem::new(Kind::VersionNotFound, format!("There is no version {:?}.", shown(&target.to_string())))
    })
}
