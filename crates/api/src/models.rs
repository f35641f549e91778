//! The models and versions that can be asked, in the shape that Replicate's clients read, and with our own fields.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use prediction::{Limits, ModelName, ModelSpec};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::Api,
    catalog::{Served, default_of},
    docs::{ModelProblems, StoreProblems},
    extract::Segments,
    json::shown,
    problem::{Kind, Problem},
};

/// What clients that were made for Cog look at to know which form of schema to expect; no Cog runs here.
const SCHEMA_FORM: &str = "0.14.0";

/// The calls on models.
pub(crate) fn router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).routes(routes!(versions)).routes(routes!(version))
}

/// A model.
#[derive(Serialize, ToSchema)]
#[schema(as = Model)]
struct ModelView<'a> {
    /// Where to read it.
    url: String,
    /// The part before the slash.
    owner: &'a str,
    /// The part after the slash.
    name: &'a str,
    /// A sentence about it.
    description: &'a str,
    /// What it does, in the field's standard words.
    task: &'a str,
    /// SPDX expression, where known.
    #[schema(required)]
    license: Option<&'a str>,
    /// Where weights and data come from, where known.
    #[schema(required)]
    source: Option<&'a str>,
    /// Always `public`: whoever reaches this server may use it. Here because clients demand it.
    visibility: &'static str,
    /// Always 0: runs are not counted per model. Here because clients demand it.
    run_count: u32,
    /// Always null; here because clients demand it.
    #[schema(required)]
    github_url: Option<&'a str>,
    /// Always null; here because clients demand it.
    #[schema(required)]
    paper_url: Option<&'a str>,
    /// Always null: see `license`. Here because clients demand it.
    #[schema(required)]
    license_url: Option<&'a str>,
    /// Always null; here because clients demand it.
    #[schema(required)]
    cover_image_url: Option<&'a str>,
    /// Always null; here because clients demand it.
    #[schema(required, value_type = Option<Object>)]
    default_example: Option<Value>,
    /// The default version, which runs predictions that name the model alone; null when there is none.
    #[schema(required)]
    latest_version: Option<VersionView<'a>>,
}

/// A version of a model.
#[derive(Serialize, ToSchema)]
#[schema(as = Version)]
struct VersionView<'a> {
    /// The digest of its files; its first 12 digits are enough to name it.
    id: &'a str,
    /// When a worker first served it.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
    /// The form of `openapi_schema`, as a version of Cog; no Cog runs here. Here because clients demand it.
    cog_version: &'static str,
    /// The schemas of input and output as components of an OpenAPI document, where Replicate's clients look for them.
    openapi_schema: Value,
    /// JSON Schema (2020-12) that every input must fit.
    input_schema: &'a Value,
    /// JSON Schema (2020-12) that every output fits.
    output_schema: &'a Value,
    /// What bounds one prediction.
    limits: LimitsView,
    /// Live workers that serve it.
    workers: u32,
    /// Whether it is the default version, which runs predictions that name the model alone.
    is_default: bool,
}

/// What bounds one prediction.
#[derive(Serialize, ToSchema)]
#[schema(as = Limits)]
struct LimitsView {
    /// The longest one run may take.
    timeout_seconds: u32,
    /// How often a retryable failure is tried again.
    max_retries: u32,
    /// The most predictions in one batch.
    max_batch: usize,
    /// The most bytes of one input's JSON.
    max_input_bytes: usize,
}

/// All models.
#[derive(Serialize, ToSchema)]
#[schema(as = ModelPage)]
struct ModelPage<'a> {
    results: Vec<ModelView<'a>>,
    /// Always null: all are on one page.
    #[schema(required)]
    next: Option<String>,
    /// Always null: all are on one page.
    #[schema(required)]
    previous: Option<String>,
}

/// All versions of a model, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = VersionPage)]
struct VersionPage<'a> {
    results: Vec<VersionView<'a>>,
    /// Always null: all are on one page.
    #[schema(required)]
    next: Option<String>,
    /// Always null: all are on one page.
    #[schema(required)]
    previous: Option<String>,
}

/// List the models.
#[utoipa::path(
    get,
    path = "/v1/models", operation_id = "listModels",
    tag = "models",
    responses((status = 200, body = ModelPage, description = "Every model that workers have published"), StoreProblems),
)]
async fn list(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let served = api.catalog.versions().await?;
    let mut names: Vec<&ModelName> = served.iter().map(|served| &served.published.spec.name).collect();
    names.sort_unstable();
    names.dedup();
    let results = names.into_iter().filter_map(|name| ModelView::new(&of_model(&served, name), &api.base)).collect();
    Ok(Json(ModelPage { results, next: None, previous: None }).into_response())
}

/// Read a model.
#[utoipa::path(
    get,
    path = "/v1/models/{owner}/{name}", operation_id = "readModel",
    tag = "models",
    params(("owner" = String, Path, description = "owner of the model"), ("name" = String, Path, description = "name of the model")),
    responses((status = 200, body = ModelView, description = "The model"), ModelProblems),
)]
async fn read(
    State(api): State<Arc<Api>>,
    Segments((owner, name)): Segments<(String, String)>,
) -> Result<Response, Problem> {
    let served = api.catalog.versions().await?;
    let versions = named(&served, &owner, &name)?;
    let view = ModelView::new(&versions, &api.base).ok_or_else(Problem::not_found)?;
    Ok(Json(view).into_response())
}

/// List the versions of a model.
#[utoipa::path(
    get,
    path = "/v1/models/{owner}/{name}/versions", operation_id = "listVersions",
    tag = "models",
    params(("owner" = String, Path, description = "owner of the model"), ("name" = String, Path, description = "name of the model")),
    responses((status = 200, body = VersionPage, description = "Its versions, newest first"), ModelProblems),
)]
async fn versions(
    State(api): State<Arc<Api>>,
    Segments((owner, name)): Segments<(String, String)>,
) -> Result<Response, Problem> {
    let served = api.catalog.versions().await?;
    let versions = named(&served, &owner, &name)?;
    let results = versions.iter().map(|version| VersionView::new(version, &versions)).collect();
    Ok(Json(VersionPage { results, next: None, previous: None }).into_response())
}

/// Read a version of a model.
#[utoipa::path(
    get,
    path = "/v1/models/{owner}/{name}/versions/{id}", operation_id = "readVersion",
    tag = "models",
    params(
        ("owner" = String, Path, description = "owner of the model"),
        ("name" = String, Path, description = "name of the model"),
        ("id" = String, Path, description = "12 or more digits of the version"),
    ),
    responses((status = 200, body = VersionView, description = "The version"), ModelProblems),
)]
async fn version(
    State(api): State<Arc<Api>>,
    Segments((owner, name, id)): Segments<(String, String, String)>,
) -> Result<Response, Problem> {
    let served = api.catalog.versions().await?;
    let id = id.to_ascii_lowercase();
    let versions = named(&served, &owner, &name)?;
    let mut matching = versions.iter().filter(|served| served.published.spec.version.is_named_by(&id));
    match (matching.next(), matching.next()) {
        (Some(found), None) => Ok(Json(VersionView::new(found, &versions)).into_response()),
        _ => Err(Problem::new(Kind::VersionNotFound, format!("There is no version {:?} of this model.", shown(&id)))),
    }
}

fn of_model<'a>(served: &'a [Served], name: &ModelName) -> Vec<&'a Served> {
    served.iter().filter(|served| served.published.spec.name == *name).collect()
}

/// The versions of the model that a path names, at least one.
fn named<'a>(served: &'a [Served], owner: &str, name: &str) -> Result<Vec<&'a Served>, Problem> {
    let text = format!("{owner}/{name}");
    let versions = text.parse().map(|name| of_model(served, &name)).unwrap_or_default();
    if versions.is_empty() {
        return Err(Problem::new(Kind::ModelNotFound, format!("There is no model {:?}.", shown(&text))));
    }
    Ok(versions)
}

impl<'a> ModelView<'a> {
    /// A model by its versions, newest first; `None` without any.
    fn new(versions: &[&'a Served], base: &str) -> Option<Self> {
        let default = default_of(versions);
        let described = default.or(versions.iter().find(|served| served.workers > 0).copied());
        let spec: &'a ModelSpec = &described.or(versions.first().copied())?.published.spec;
        Some(Self {
            url: format!("{base}/v1/models/{}", spec.name),
            owner: spec.name.owner(),
            name: spec.name.name(),
            description: &spec.description,
            task: &spec.task,
            license: spec.license.as_deref(),
            source: spec.source.as_deref(),
            visibility: "public",
            run_count: 0,
            github_url: None,
            paper_url: None,
            license_url: None,
            cover_image_url: None,
            default_example: None,
            latest_version: default.map(|default| VersionView::new(default, versions)),
        })
    }
}

impl<'a> VersionView<'a> {
    /// One of the versions that the model has.
    fn new(served: &'a Served, of_model: &[&Served]) -> Self {
        let spec = &served.published.spec;
        let Limits { timeout_seconds, max_retries, max_batch, max_input_bytes } = spec.limits;
        Self {
            id: spec.version.as_str(),
            created_at: served.published.created_at,
            cog_version: SCHEMA_FORM,
            openapi_schema: json!({
                "openapi": "3.1.0",
                "info": {"title": spec.name.as_str(), "version": spec.version.short()},
                "paths": {},
                "components": {"schemas": {"Input": spec.input_schema, "Output": spec.output_schema}},
            }),
            input_schema: &spec.input_schema,
            output_schema: &spec.output_schema,
            limits: LimitsView { timeout_seconds, max_retries, max_batch, max_input_bytes },
            workers: served.workers,
            is_default: default_of(of_model).is_some_and(|default| default.published.spec.version == spec.version),
        }
    }
}
