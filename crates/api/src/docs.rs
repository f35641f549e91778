//! What the API says about itself: the OpenAPI document, the pages for people, and the page that explains problems.
//! Everything is served from here: nothing is loaded from elsewhere.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderValue, header},
    response::{Html, IntoResponse as _, Redirect, Response},
};
use utoipa::{
    IntoResponses, OpenApi, PartialSchema as _,
    openapi::{
        self, Components, ContentBuilder, HeaderBuilder, Ref, RefOr, ResponseBuilder, Server,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::Config;

use crate::{
    api::Api,
    extract::Segments,
    problem::{Kind, Problem, ProblemBody},
};

/// The page and its parts come from this server alone.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
);

/// The head of the document; the calls are added by the routers that serve them.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "augur",
        description = "Asynchronous predictions: send an input, get an id, read the result when it is there. Every \
                       refusal is a problem document (RFC 9457)."
    ),
    components(schemas(ProblemBody)),
    tags(
        (name = "predictions", description = "Create, read, list and cancel predictions"),
        (name = "models", description = "What can be asked, with the schemas of input and output"),
        (name = "queue", description = "What waits and runs"),
        (name = "webhooks", description = "Deliveries, endpoints and their secrets. On a server without a webhook key \
                                           every one of these calls answers 404 `webhooks_off`"),
        (name = "health", description = "Whether the server works"),
        (name = "documentation", description = "What you are reading"),
    )
)]
struct Head;

/// A router that begins with the document's head.
pub(crate) fn head() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Head::openapi())
}

/// The calls that explain the API.
pub(crate) fn router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(document))
        .routes(routes!(problems))
        .routes(routes!(page))
        // The parts of the page are for browsers, not for the document.
        .route("/docs/", axum::routing::get(|| part(Segments("index.html".to_owned()))))
        .route("/docs/{*part}", axum::routing::get(part))
}

/// The document as JSON, for a server at `base`.
pub(crate) fn render(mut document: openapi::OpenApi, base: &str) -> serde_json::Result<Bytes> {
    document.servers = Some(vec![Server::new(base)]);
    serde_json::to_vec(&document).map(Bytes::from)
}

/// The same calls, saying that they need a key where there are keys.
pub(crate) fn with_keys(mut document: openapi::OpenApi) -> openapi::OpenApi {
    const NAME: &str = "apiKey";
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A key that `augur keys create` made. A server for which none was ever made needs none."));
    document
        .components
        .get_or_insert_with(Components::new)
        .add_security_scheme(NAME, SecurityScheme::Http(scheme.build()));
    for item in document.paths.paths.values_mut() {
        let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in methods.into_iter().flatten() {
            operation.security =
                Some(vec![SecurityRequirement::new(NAME, [] as [&str; 0]), SecurityRequirement::default()]);
            operation.responses.responses.extend(documented(&[Kind::InvalidApiKey]));
        }
    }
    document
}

/// The OpenAPI document.
#[utoipa::path(
    get,
    path = "/openapi.json", operation_id = "readDocument",
    tag = "documentation",
    responses((status = 200, body = serde_json::Value, description = "OpenAPI 3.1", content_type = "application/json")),
)]
async fn document(State(api): State<Arc<Api>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], api.openapi.clone()).into_response()
}

/// These pages.
#[utoipa::path(
    get,
    path = "/docs", operation_id = "readPages",
    tag = "documentation",
    responses((status = 303, description = "The documentation, for people")),
)]
async fn page() -> Redirect {
    Redirect::to("docs/")
}

async fn part(Segments(path): Segments<String>) -> Result<Response, Problem> {
    // Beside this page, so that it works behind a proxy that adds a prefix. No validator of somebody else's is asked.
    let config = Config::new(["../openapi.json"]).validator_url("none").try_it_out_enabled(true);
    let file = utoipa_swagger_ui::serve(&path, Arc::new(config)).map_err(|error| {
        tracing::error!(%error, path, "documentation page");
        Problem::internal()
    })?;
    let file = file.ok_or_else(Problem::not_found)?;
    let mut response = file.bytes.into_owned().into_response();
    if let Ok(content_type) = HeaderValue::from_str(&file.content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
    Ok(response)
}

/// The problems and their meanings.
///
/// The `type` of every problem document leads here.
#[utoipa::path(
    get,
    path = "/problems", operation_id = "readProblems",
    tag = "documentation",
    responses((status = 200, description = "Every kind of problem", body = String, content_type = "text/html")),
)]
async fn problems() -> Response {
    let mut rows = String::new();
    for kind in Kind::ALL {
        let (code, status) = (kind.code(), kind.status().as_u16());
        // Writing to a String cannot fail.
        let _ = write!(
            rows,
            "<dt id=\"{code}\"><code>{code}</code> ({status}) {}</dt><dd>{}</dd>",
            kind.title(),
            kind.meaning().trim()
        );
    }
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Problems</title>\
         <style>body{{font-family:sans-serif;max-width:45em;margin:2em auto;padding:0 1em}}dt{{margin-top:1em}}</style>\
         <h1>Problems</h1><dl>{rows}</dl></html>"
    );
    ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(page)).into_response()
}

/// The responses of problems, by status, for the document.
fn documented(kinds: &[Kind]) -> BTreeMap<String, RefOr<openapi::Response>> {
    let mut meanings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kind in kinds {
        let meaning = format!("`{}`:{}", kind.code(), kind.meaning());
        meanings.entry(kind.status().as_str().to_owned()).or_default().push(meaning);
    }
    let response = |status: &str, meanings: Vec<String>| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let mut response = ResponseBuilder::new().description(meanings.join(" "));
        let header =
            |schema, description| HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build();
        let is = |kind: Kind| status == kind.status().as_str();
        if is(Kind::StoreUnavailable) || is(Kind::ShareFull) {
            response = response.header("Retry-After", header(u32::schema(), "seconds after which to try again"));
        }
        if kinds.iter().any(|kind| matches!(kind, Kind::QueueFull | Kind::ShareFull) && is(*kind)) {
            let policy = "what is used up and how many predictions it lets wait (draft-ietf-httpapi-ratelimit-headers)";
            response = response.header("RateLimit-Policy", header(String::schema(), policy));
            response =
                response.header("RateLimit", header(String::schema(), "that none of it is left, and for how long"));
        }
        if is(Kind::InvalidApiKey) {
            response = response.header("WWW-Authenticate", header(String::schema(), "`Bearer`"));
        }
        RefOr::T(response.content("application/problem+json", content).build())
    };
    meanings.into_iter().map(|(status, meanings)| (status.clone(), response(&status, meanings))).collect()
}

macro_rules! problem_sets {
    ($($(#[doc = $doc:literal])+ $name:ident: $($kind:ident),+;)+) => {$(
        $(#[doc = $doc])+
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
                documented(&[$(Kind::$kind),+])
            }
        }
    )+};
}

problem_sets! {
    /// Of calls that only read the store.
    StoreProblems: StoreUnavailable, Internal;
    /// Of calls on models.
    ModelProblems: ModelNotFound, VersionNotFound, StoreUnavailable, Internal;
    /// Of reading a prediction.
    ReadProblems: MalformedRequest, NotFound, StoreUnavailable, Internal;
    /// Of following a prediction.
    StreamProblems: MalformedRequest, NotFound, NotAcceptable, StreamShareFull, TooManyStreams, StoreUnavailable, Internal;
    /// Of canceling a prediction.
    CancelProblems: NotFound, StoreUnavailable, Internal;
    /// Of listing predictions.
    ListProblems: MalformedRequest, InvalidCursor, StoreUnavailable, Internal;
    /// Of creating a prediction.
    CreateProblems: MalformedRequest, InvalidJson, ModelNotFound, VersionNotFound, RequestTimeout, IdConflict,
        BodyTooLarge, UnsupportedMediaType, InvalidRequest, InvalidInput, InputTooLarge, InvalidWebhook,
        IdempotencyKeyReused, ShareFull, QueueFull, Busy, ModelUnavailable, StoreUnavailable, Internal;
    /// Of reading or changing something about webhooks without a body.
    WebhookProblems: NotFound, WebhooksOff, StoreUnavailable, Internal;
    /// Of reading a secret that is always there.
    DefaultSecretProblems: WebhooksOff, StoreUnavailable, Internal;
    /// Of listing deliveries or endpoints.
    WebhookListProblems: MalformedRequest, InvalidCursor, WebhooksOff, StoreUnavailable, Internal;
    /// Of listing the attempts of a delivery.
    AttemptListProblems: MalformedRequest, InvalidCursor, NotFound, WebhooksOff, StoreUnavailable, Internal;
    /// Of calls that take the URL of a webhook.
    WebhookUrlProblems: MalformedRequest, InvalidJson, WebhooksOff, RequestTimeout, BodyTooLarge, UnsupportedMediaType,
        InvalidRequest, InvalidWebhook, Busy, StoreUnavailable, Internal;
    /// Of changing an endpoint.
    EndpointChangeProblems: MalformedRequest, InvalidJson, NotFound, WebhooksOff, RequestTimeout, BodyTooLarge,
        UnsupportedMediaType, InvalidRequest, Busy, StoreUnavailable, Internal;
    /// Of rotating a secret.
    RotateProblems: MalformedRequest, InvalidJson, NotFound, WebhooksOff, RequestTimeout, TooManySecrets, BodyTooLarge,
        UnsupportedMediaType, InvalidRequest, Busy, StoreUnavailable, Internal;
}
