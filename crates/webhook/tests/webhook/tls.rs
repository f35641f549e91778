//! `https`: certificates are checked against the URL's host, and HTTP/2 is spoken with whoever speaks it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{Request, Response, Version, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::sync::mpsc;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};
use webhook::{BodyEnd, Failed, Tls, Verdict};

use crate::{
    receiver::Receiver,
    sender::{BODY, PATIENT, Script, deliverer, guard, secrets, send},
};

/// What the server saw: version, address, body.
type Seen = (Version, String, Vec<u8>);

struct Server {
    receiver: Receiver,
    certificate: Vec<u8>,
    seen: mpsc::UnboundedReceiver<Seen>,
}

/// Endless.
struct Zeros;

impl hyper::body::Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(&[0; 4096])))))
    }
}

fn answer(path: &str) -> Response<BoxBody<Bytes, Infallible>> {
    let text = |text: &'static str| Full::new(Bytes::from_static(text.as_bytes())).boxed();
    match path {
        "/endless" => Response::new(Zeros.boxed()),
        "/large-headers" => {
            let mut response = Response::new(text(""));
            for number in 0..40 {
                let name: hyper::header::HeaderName = format!("x-{number}").parse().expect("a name");
                response.headers_mut().insert(name, "y".repeat(1024).parse().expect("a value"));
            }
            response
        }
        "/gone" => Response::builder().status(410).body(text("no more")).expect("a response"),
        _ => Response::new(text("thanks")),
    }
}

/// Serves `hook.test` and 127.0.0.1 by a certificate of its own.
async fn server(protocols: &[&str]) -> Server {
    let names = ["hook.test".to_owned(), "127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("a certificate");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the default versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key"),
        )
        .expect("a certificate with its key");
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (sender, seen) = mpsc::unbounded_channel();
    let receiver = Receiver::connected(move |stream| {
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
                    let address = if host.is_empty() { parts.uri.to_string() } else { format!("{host}{}", parts.uri) };
                    let body = body.collect().await?.to_bytes().to_vec();
                    let _ = sender.send((parts.version, address, body));
                    Ok::<_, hyper::Error>(answer(parts.uri.path()))
                }
            });
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    Server { receiver, certificate: cert.der().to_vec(), seen }
}

impl Server {
    async fn send(&self, host: &str, path: &str, is_trusted: bool) -> webhook::Attempt {
        let guard = guard(&Script::new(&["127.0.0.1"]), &["127.0.0.0/8"]);
        let roots = is_trusted.then(|| self.certificate.clone());
        let tls = Tls::with_roots(roots).expect("a certificate");
        let url = format!("https://{host}:{}{path}", self.receiver.port());
        send(&deliverer(guard, tls, PATIENT), &url, &secrets()).await
    }
}

#[tokio::test]
async fn the_newest_version_both_speak_is_spoken() {
    let versions = [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["h2"], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ];
    for (protocols, version) in versions {
        let mut server = server(protocols).await;
        let attempt = server.send("hook.test", "/hook?a=1", true).await;
        assert_eq!(attempt.verdict(0), Verdict::Delivered, "{protocols:?}: {attempt:?}");
        assert_eq!(attempt.outcome.expect("an answer").body, b"thanks");
        let (seen, address, body) = server.seen.recv().await.expect("a request");
        let scheme = if version == Version::HTTP_2 { "https://" } else { "" };
        assert_eq!((seen, body), (version, BODY.as_bytes().to_vec()));
        assert_eq!(address, format!("{scheme}hook.test:{}/hook?a=1", server.receiver.port()));
    }
}

#[tokio::test]
async fn certificates_must_be_trusted_and_the_hosts() {
    let server = server(&["h2"]).await;
    for (host, is_trusted, accepted) in [
        ("hook.test", true, true),
        ("hook.test.", true, true),
        ("127.0.0.1", true, true),
        ("hook.test", false, false),
        ("other.test", true, false),
        ("127.0.0.2", true, false),
    ] {
        let outcome = server.send(host, "/", is_trusted).await.outcome;
        match outcome {
            Ok(_) => assert!(accepted, "{host}"),
            // Nobody listens at 127.0.0.2 itself.
            Err(Failed::Tls(_) | Failed::Connect { .. }) => assert!(!accepted, "{host}"),
            Err(other) => panic!("{host}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn http2_is_bounded_as_http1_is() {
    let server = server(&["h2"]).await;
    let endless = server.send("hook.test", "/endless", true).await.outcome.expect("an answer");
    assert_eq!((endless.body.len(), endless.body_end), (16 * 1024, BodyEnd::Cut));
    assert_eq!(server.send("hook.test", "/gone", true).await.verdict(0), Verdict::Gone);
    let large = server.send("hook.test", "/large-headers", true).await;
    assert_eq!(large.verdict(0), Verdict::Retry { at_least: Duration::ZERO });
    assert!(large.outcome.is_err(), "{large:?}");
}

#[tokio::test]
async fn plain_http_at_an_https_url_is_no_session() {
    let receiver = Receiver::connected(|mut stream| async move {
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let guard = guard(&Script::new(&[]), &["127.0.0.0/8"]);
    let url = format!("https://{}/", receiver.address);
    let outcome = send(&deliverer(guard, Tls::default(), PATIENT), &url, &secrets()).await.outcome;
    assert!(matches!(outcome, Err(Failed::Tls(_))), "{outcome:?}");
}
