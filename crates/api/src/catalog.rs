//! The models that can be asked, as workers have published them: read from the store each second, or at once when
//! somebody asks for one that is not known yet.

use std::{sync::Arc, time::Duration};

use prediction::{ModelName, ModelSpec, Version};
use store::{PublishedModel, Store};
use time::OffsetDateTime;

use crate::{
    cached::Cached,
    json::shown,
    patience::Patience,
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
/// The most versions that a problem lists.
const MOST_NAMED: usize = 8;

/// A version that can be, or once could be, asked.
#[derive(Clone)]
pub(crate) struct Served {
    /// What was published about it.
    pub(crate) published: Arc<Published>,
    /// Live workers that serve it.
    pub(crate) workers: u32,
    /// Those of them that say that the model's name alone means it.
    pub(crate) default_workers: u32,
    /// When a worker last began to say that.
    default_at: Option<OffsetDateTime>,
}

/// What was asked for, and whether a live worker serves it as that.
struct Chosen {
    version: Served,
    is_served: bool,
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
    patience: Patience,
    known: Cached<Vec<Served>>,
}

impl Catalog {
    /// Nothing read yet.
    pub(crate) fn new(store: Store, patience: Patience) -> Self {
        Self { store, patience, known: Cached::empty() }
    }

    /// Every version, newest first per model, as the store has them now. However many ask, one reading at a time is
    /// under way.
    pub(crate) async fn versions(&self) -> Result<Arc<Vec<Served>>, Problem> {
        let load = || async {
            let models = self.patience.in_time(self.store.models(ALIVE)).await?;
            let known = self.known.latest().unwrap_or_default();
            Ok(models.into_iter().map(|model| remember(model, &known)).collect())
        };
        self.known.within(Duration::ZERO, load).await
    }

    /// The version that shall run what is asked for, as far as can be said without asking the store.
    pub(crate) fn known(&self, target: &Target) -> Option<Served> {
        choose(&self.known.latest()?, target).ok().filter(|chosen| chosen.is_served).map(|chosen| chosen.version)
    }

    /// The version that shall run what is asked for: with a name alone, the default one. `unserved`: whether one without workers
    /// will do.
    pub(crate) async fn resolve(&self, target: &Target, unserved: bool) -> Result<Served, Problem> {
        let versions = self.versions().await?;
        let Chosen { version, is_served } = choose(&versions, target)?;
        if is_served || unserved {
            return Ok(version);
        }
        let spec = &version.published.spec;
        let (name, digits) = (&spec.name, spec.version.short());
        let others = versions.iter().filter(|served| served.published.spec.name == *name && served.workers > 0);
        let others = named_in_full(others);
        let missing = match target {
            Target::Model(_) if others.is_empty() => format!("No worker serves {name} now."),
            Target::Model(_) => format!("No worker serves the default version of {name} now, but {others}."),
            _ if others.is_empty() => format!("No worker serves {name}:{digits} now."),
            _ => format!("No worker serves {name}:{digits} now, but {others}."),
        };
        Err(Problem::new(Kind::ModelUnavailable, missing).retry_after(UNSERVED_RETRY_AFTER))
    }
}

/// The version that the model's name alone means, of all that the model has, newest first: of those that a live worker says it of,
/// the one that it was last declared of, and not the newest, which a worker may say that was killed a moment ago; when there is
/// none, the one that it was last declared of at all.
pub(crate) fn default_of<'a>(of_model: &[&'a Served]) -> Option<&'a Served> {
    let rank = |served: &Served| (served.default_workers > 0, served.default_at);
    // Of equals the newest.
    let versions = of_model.iter().rev().copied();
    versions.filter(|served| rank(served) > (false, None)).max_by_key(|served| rank(served))
}

/// Versions as callers name them.
fn named_in_full<'a>(versions: impl Iterator<Item = &'a Served>) -> String {
    let named = versions.take(MOST_NAMED).map(|served| {
        let spec = &served.published.spec;
        format!("{}:{}", spec.name, spec.version.short())
    });
    named.collect::<Vec<_>>().join(", ")
}

/// Takes over what has been compiled already.
fn remember(model: PublishedModel, known: &[Served]) -> Served {
    let PublishedModel { spec, created_at, default_at, workers, default_workers } = model;
    let same = known.iter().find(|served| served.published.created_at == created_at && served.published.spec == spec);
    let published = match same {
        Some(served) => Arc::clone(&served.published),
        None => Arc::new(Published::new(spec, created_at)),
    };
    Served { published, workers, default_workers, default_at }
}

fn choose(versions: &[Served], target: &Target) -> Result<Chosen, Problem> {
    let of_model = |name: &ModelName| versions.iter().filter(|served| served.published.spec.name == *name).collect();
    let mut candidates: Vec<&Served> = match target {
        Target::Model(name) | Target::VersionOfModel(name, _) => of_model(name),
        Target::Version(_) => versions.iter().collect(),
        Target::Nothing(_) => Vec::new(),
    };
    let asked = || shown(&target.to_string());
    let (Target::Version(digits) | Target::VersionOfModel(_, digits)) = target else {
        if candidates.is_empty() {
            return Err(Problem::new(Kind::ModelNotFound, format!("There is no model {:?}.", asked())));
        }
        let default = default_of(&candidates).map(|served| Chosen::new(served, served.default_workers));
        return default.ok_or_else(|| {
            let named = named_in_full(candidates.iter().copied());
            let detail = format!("{} has no default version; name one, as in {named}.", target);
            Problem::new(Kind::VersionNotFound, detail)
        });
    };
    if candidates.is_empty() && matches!(target, Target::VersionOfModel(..)) {
        return Err(Problem::new(Kind::ModelNotFound, format!("There is no model {:?}.", asked())));
    }
    candidates.retain(|served| served.published.spec.version.is_named_by(digits));
    let distinct = |version: &Version| candidates.iter().any(|other| other.published.spec.version != *version);
    if candidates.first().is_some_and(|first| distinct(&first.published.spec.version)) {
        return Err(Problem::new(
            Kind::VersionNotFound,
            format!("{:?} names more than one version; give more digits.", asked()),
        ));
    }
    let live = candidates.iter().find(|served| served.workers > 0);
    let found = live.or(candidates.first()).map(|served| Chosen::new(served, served.workers));
    found.ok_or_else(|| Problem::new(Kind::VersionNotFound, format!("There is no version {:?}.", asked())))
}

impl Chosen {
    fn new(served: &Served, workers: u32) -> Self {
        Self { version: served.clone(), is_served: workers > 0 }
    }
}
