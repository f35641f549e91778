//! Canceling a prediction.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use prediction::PredictionId;
use queue::Notice;
use store::CancelResult;

use super::{answer, schema::PredictionSchema};
use crate::{api::Api, docs::CancelProblems, extract::Segments, keys::Caller, problem::Problem};

/// Cancel a prediction.
///
/// It is canceled when this is answered, whether it was waiting or running; one that is finished stays as it is.
#[utoipa::path(
    post,
    path = "/v1/predictions/{id}/cancel", operation_id = "cancelPrediction",
    tag = "predictions",
    params(("id" = uuid::Uuid, Path, description = "id of the prediction")),
    responses(
        (status = 200, body = PredictionSchema, description = "The prediction, canceled now or finished before"),
        CancelProblems,
    ),
)]
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Segments(id): Segments<String>,
) -> Result<Response, Problem> {
    let id: PredictionId = id.parse().map_err(|_| Problem::not_found())?;
    // A task of its own: once it is canceled its worker is told, even if the caller is gone by then.
    let work = Arc::clone(&api);
    let canceling = api.tasks.spawn(async move { cancel_and_tell(&work, &caller, id).await });
    match canceling.await.map_err(|_| Problem::internal())?? {
        CancelResult::Canceled(prediction) | CancelResult::AlreadyTerminal(prediction) => {
            Ok(answer(*prediction, &api).await)
        }
        CancelResult::NotFound => Err(Problem::not_found()),
    }
}

async fn cancel_and_tell(api: &Api, caller: &Caller, id: PredictionId) -> Result<CancelResult, Problem> {
    let result = api.in_time(api.store.cancel(caller.tenant(), id)).await?;
    if let CancelResult::Canceled(prediction) = &result {
        api.queue.tell(Notice::Canceled(Arc::new([id]))).await;
        api.queue.tell(Notice::Finished(Arc::new([id]))).await;
        if prediction.webhook.is_some() {
            api.queue.tell(Notice::DeliveriesDue).await;
        }
    }
    Ok(result)
}
