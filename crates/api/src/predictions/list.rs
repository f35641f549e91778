//! Listing predictions, newest first, page by page.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::Uri,
    response::{IntoResponse as _, Response},
};
use prediction::Prediction;
use serde::Serialize;
use store::{Cursor, ListFilter};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{schema::PredictionPageSchema, with_urls};
use crate::{
    api::Api,
    docs::ListProblems,
    keys::Caller,
    pages::Asked,
    problem::{Kind, Problem},
    query::{self, Parameters},
};

/// The most metadata members to filter by.
const MOST_METADATA: usize = 8;
const METADATA: &str = "metadata.";

/// One page.
#[derive(Serialize)]
struct Page {
    results: Vec<Prediction>,
    next: Option<String>,
    previous: Option<String>,
}

/// List predictions.
///
/// Newest first. `next` and `previous` are whole addresses, or null at the end. Filter by a top-level string, number
/// or boolean of your metadata with `metadata.NAME=value`.
#[utoipa::path(
    get,
    path = "/v1/predictions", operation_id = "listPredictions",
    tag = "predictions",
    params(
        ("status" = Option<String>, Query, nullable = false, description = "only with this status"),
        ("model" = Option<String>, Query, nullable = false, description = "only of this model, `owner/name`"),
        ("created_after" = Option<String>, Query, nullable = false, description = "only accepted after this moment (RFC 3339)"),
        ("created_before" = Option<String>, Query, nullable = false, description = "only accepted before this moment (RFC 3339)"),
        ("limit" = Option<u32>, Query, nullable = false, description = "predictions on a page, 1 to 100; 25 when absent", minimum = 1, maximum = 100),
        ("cursor" = Option<String>, Query, nullable = false, description = "taken from `next` or `previous`"),
    ),
    responses((status = 200, body = PredictionPageSchema, description = "One page"), ListProblems),
)]
pub(super) async fn list(State(api): State<Arc<Api>>, caller: Caller, uri: Uri) -> Result<Response, Problem> {
    let mut parameters = Parameters::read(&uri)?;
    let filter = read_filter(&mut parameters)?;
    let asked: Asked<'_, Cursor> = Asked::read(&api, &caller, parameters, "/v1/predictions", written(&filter)).await?;
    let page = api.in_time(api.store.list(caller.tenant(), &filter, asked.position, asked.limit)).await?;
    let mut results = Vec::with_capacity(page.predictions.len());
    for prediction in page.predictions {
        results.push(with_urls(prediction, &api).await);
    }
    Ok(Json(Page { next: asked.address(page.next), previous: asked.address(page.previous), results }).into_response())
}

fn read_filter(parameters: &mut Parameters) -> Result<ListFilter, Problem> {
    let moment = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    let filter = ListFilter {
        status: parameters
            .take("status", "starting, processing, succeeded, failed or canceled", |text| text.parse().ok())?,
        model: parameters.take("model", "owner/name", |text| text.parse().ok())?,
        created_after: parameters.take("created_after", "a moment as RFC 3339 writes it", moment)?,
        created_before: parameters.take("created_before", "a moment as RFC 3339 writes it", moment)?,
        metadata: parameters.take_all(METADATA),
    };
    if filter.metadata.len() > MOST_METADATA {
        let detail = format!("At most {MOST_METADATA} metadata members can be filtered by.");
        return Err(Problem::new(Kind::MalformedRequest, detail));
    }
    Ok(filter)
}

fn written(filter: &ListFilter) -> String {
    let moment = |moment: Option<OffsetDateTime>| moment.and_then(|moment| moment.format(&Rfc3339).ok());
    let (after, before) = (moment(filter.created_after), moment(filter.created_before));
    let single = [
        ("status", filter.status.map(|status| status.as_str())),
        ("model", filter.model.as_ref().map(|model| model.as_str())),
        ("created_after", after.as_deref()),
        ("created_before", before.as_deref()),
    ];
    let mut pairs: Vec<(String, &str)> =
        single.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    pairs.extend(filter.metadata.iter().map(|(name, value)| (format!("{METADATA}{name}"), value.as_str())));
    query::write(pairs.iter().map(|(name, value)| (name.as_str(), *value)))
}
