//! A server that speaks the Hugging Face hub's protocol, as far as fetching a model goes, with a store of large files at another
//! origin; both can be told to misbehave.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    io::{self, ErrorKind},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, LOCATION, RANGE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::{served::MODELS, tiny, tiny_image};

/// What the branch `main` is.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How long what was written may take to leave.
const FLUSHED_WITHIN: Duration = Duration::from_millis(200);

/// A tiny text generator, from the directory of models.
const GENERATOR: &str = "../crates/inference/tests/goldens/generators/llama-q8_0.gguf";
/// How files with generators end.
const GGUF: &str = ".gguf";

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How it behaves.
#[derive(Default)]
pub(crate) struct Conduct {
    /// Only who shows this token is answered.
    pub(crate) token: Option<&'static str>,
    /// What it says why it refuses everything.
    pub(crate) refuses: Option<(StatusCode, &'static str)>,
    /// The next answers with weights break off after so many bytes.
    pub(crate) cuts: Vec<usize>,
    /// The store knows no ranges, and sends everything again.
    pub(crate) ignores_ranges: bool,
    /// What the store has instead of the weights.
    pub(crate) other_weights: Option<Vec<u8>>,
    /// Files that it does not list.
    pub(crate) lacks: &'static [&'static str],
    /// The seed of its weights.
    pub(crate) seed: u8,
    /// Its model is of images, not of texts.
    pub(crate) is_of_images: bool,
    /// It has these GGUF files instead, each with a tiny generator.
    pub(crate) generators: &'static [&'static str],
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Whether the hub was asked, and not the store.
    pub(crate) is_hub: bool,
    pub(crate) path: String,
    pub(crate) token: Option<String>,
    pub(crate) range: Option<String>,
}

struct Shared {
    conduct: Mutex<Conduct>,
    asked: Mutex<Vec<Asked>>,
    store: String,
}

/// A running hub.
pub(crate) struct Hub {
    /// For `HF_ENDPOINT`.
    pub(crate) url: String,
    shared: Arc<Shared>,
}

impl Hub {
    /// Begins to listen, at two ports.
    pub(crate) async fn start(conduct: Conduct) -> Self {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (hub, store) = (bind().await, bind().await);
        let at = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("an address"));
        let (url, store_url) = (at(&hub), at(&store));
        let shared = Arc::new(Shared { conduct: Mutex::new(conduct), asked: Mutex::default(), store: store_url });
        for (listener, is_hub) in [(hub, true), (store, false)] {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = Arc::clone(&shared);
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let answer = shared.answer(is_hub, &request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
                }
            });
        }
        Self { url, shared }
    }

    /// To change how it behaves from now on.
    pub(crate) fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.shared.conduct()
    }

    /// What it was asked so far, in order; forgets it.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    fn conduct(&self) -> MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, is_hub: bool, request: &Request<Incoming>) -> Response<Body> {
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let path = request.uri().path().to_owned();
        let asked = Asked { is_hub, path: path.clone(), token: text(AUTHORIZATION), range: text(RANGE) };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
        let mut conduct = self.conduct();
        if !is_hub {
            let content =
                conduct.other_weights.clone().unwrap_or_else(|| files(&conduct).remove(tiny::WEIGHTS).expect("it has"));
            let range = asked.range.filter(|_| !conduct.ignores_ranges);
            let cut = if conduct.cuts.is_empty() { None } else { Some(conduct.cuts.remove(0)) };
            return file(&content, range.as_deref(), cut);
        }
        if let Some((status, code)) = conduct.refuses {
            return status_with(status, &[("x-error-code", code)]);
        }
        if conduct.token.is_some_and(|token| asked.token.as_deref() != Some(&format!("Bearer {token}"))) {
            return status_with(StatusCode::UNAUTHORIZED, &[]);
        }
        let (about, resolve) =
            (format!("/api/models/{}/revision/", tiny::REPOSITORY), format!("/{}/resolve/", tiny::REPOSITORY));
        if let Some(revision) = path.strip_prefix(&about) {
            assert_eq!(request.uri().query(), Some("blobs=true"));
            return match revision {
                "main" | COMMIT => json_of(&listing(&conduct)),
                _ => status_with(StatusCode::NOT_FOUND, &[("x-error-code", "RevisionNotFound")]),
            };
        }
        match path.strip_prefix(&resolve).and_then(|rest| rest.strip_prefix(COMMIT)?.strip_prefix('/')) {
            // The hub's own redirects are relative, those to its store of large files are not.
            Some(tiny::WEIGHTS) if request.uri().query().is_none() => {
                status_with(StatusCode::TEMPORARY_REDIRECT, &[(LOCATION.as_str(), &format!("{path}?redirected"))])
            }
            Some(tiny::WEIGHTS) => {
                let location = format!("{}/signed/weights?until=soon", self.store);
                status_with(StatusCode::FOUND, &[(LOCATION.as_str(), &location)])
            }
            Some(name) => match files(&conduct).get(name) {
                Some(content) => {
                    let cut = if name.ends_with(GGUF) && !conduct.cuts.is_empty() {
                        Some(conduct.cuts.remove(0))
                    } else {
                        None
                    };
                    file(content, asked.range.as_deref(), cut)
                }
                None => status_with(StatusCode::NOT_FOUND, &[("x-error-code", "EntryNotFound")]),
            },
            None => status_with(StatusCode::NOT_FOUND, &[("x-error-code", "RepoNotFound")]),
        }
    }
}

fn files(conduct: &Conduct) -> BTreeMap<&'static str, Vec<u8>> {
    if !conduct.generators.is_empty() {
        let others = [("README.md", b"---\nlicense: mit\n---\n".to_vec()), ("config.json", b"{}".to_vec())];
        let generator = fs::read(Path::new(MODELS).join(GENERATOR)).expect("a golden file");
        return conduct.generators.iter().map(|path| (*path, generator.clone())).chain(others).collect();
    }
    let files = if conduct.is_of_images { tiny_image::files } else { tiny::files };
    files(conduct.seed).into_iter().filter(|(path, _)| !conduct.lacks.contains(path)).collect()
}

/// What the hub says of the commit.
fn listing(conduct: &Conduct) -> Value {
    let siblings = files(conduct).into_iter().map(|(path, content)| {
        let blob = Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(&content);
        let mut file = json!({"rfilename": path, "size": content.len(), "blobId": hex::encode(blob.finalize())});
        if path == tiny::WEIGHTS || path.ends_with(GGUF) {
            let sha256 = hex::encode(Sha256::digest(&content));
            file["lfs"] = json!({"sha256": sha256, "size": content.len(), "pointerSize": 131});
            file["blobId"] = json!("f".repeat(40));
        }
        file
    });
    json!({"id": tiny::REPOSITORY, "sha": COMMIT, "private": false, "siblings": Value::from_iter(siblings)})
}

/// A file or the rest of it; breaks off after `cut` bytes of what was to come.
fn file(content: &[u8], range: Option<&str>, cut: Option<usize>) -> Response<Body> {
    let begin = range.map_or(0, |range| {
        let begin = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).expect("an open range");
        begin.parse().expect("a number")
    });
    if begin >= content.len() && begin > 0 {
        return status_with(StatusCode::RANGE_NOT_SATISFIABLE, &[]);
    }
    let rest = content[begin..].to_vec();
    let mut response = Response::builder().header(CONTENT_LENGTH, rest.len());
    if range.is_some() {
        let whole = format!("bytes {begin}-{}/{}", content.len() - 1, content.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, whole);
    }
    let sent = cut.unwrap_or(rest.len()).min(rest.len());
    let (part, breaks_off) = (Bytes::copy_from_slice(&rest[..sent]), sent < rest.len());
    let frames = stream::iter([Ok(Frame::data(part))]).chain(stream::once(async move {
        // What was promised never comes: the connection is closed, once what there is has gone out.
        tokio::time::sleep(FLUSHED_WITHIN).await;
        Err(ErrorKind::ConnectionReset.into())
    }));
    let frames = frames.take(1 + usize::from(breaks_off));
    response.body(StreamBody::new(frames).boxed_unsync()).expect("a response")
}

fn json_of(value: &Value) -> Response<Body> {
    Response::new(whole(value.to_string()))
}

fn status_with(status: StatusCode, headers: &[(&str, &str)]) -> Response<Body> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = name.parse::<hyper::header::HeaderName>().expect("a name");
        map.insert(name, value.parse().expect("a value"));
    }
    let mut response = Response::new(whole("what people read".to_owned()));
    (*response.status_mut(), *response.headers_mut()) = (status, map);
    response
}

fn whole(text: String) -> Body {
    Full::from(text).map_err(|never| match never {}).boxed_unsync()
}
