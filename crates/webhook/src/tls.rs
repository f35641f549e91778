//! TLS for `https`: rustls with ring, Mozilla's certificate authorities, HTTP/2 and HTTP/1.1 offered.

use std::{fmt, io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

use crate::Failed;

/// What ALPN calls HTTP/2.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// How TLS sessions are made. Cloning it is cheap, and clones share the sessions that can be resumed.
#[derive(Clone)]
pub struct Tls(TlsConnector);

/// The bytes are not a certificate that can be trusted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("not a certificate authority: {0}")]
pub struct InvalidRoot(rustls::Error);

impl Default for Tls {
    /// Trusts Mozilla's certificate authorities.
    fn default() -> Self {
        Self::trusting(mozilla())
    }
}

impl Tls {
    /// Trusts these certificate authorities (DER) besides Mozilla's, for receivers of one's own.
    ///
    /// # Errors
    /// When one of them is not a certificate.
    pub fn with_roots(roots: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, InvalidRoot> {
        let mut trusted = mozilla();
        for root in roots {
            trusted.add(CertificateDer::from(root)).map_err(InvalidRoot)?;
        }
        Ok(Self::trusting(trusted))
    }

    fn trusting(roots: RootCertStore) -> Self {
        // Named rather than the process's default, which nobody may have set, and which is not ours to set.
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        Self(TlsConnector::from(Arc::new(config)))
    }

    /// Begins a session with the host whose certificate names it `name`, over a connection to one of its vetted addresses.
    pub(crate) async fn connect(&self, name: String, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failed> {
        let name = ServerName::try_from(name).map_err(|error| Failed::Tls(error.to_string()))?;
        self.0.connect(name, stream).await.map_err(|error| failed(&error))
    }
}

/// Whether HTTP/2 was agreed on.
pub(crate) fn is_http2(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

fn mozilla() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

fn failed(error: &io::Error) -> Failed {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => Failed::Tls(error.to_string()),
        None => Failed::Tls(error.kind().to_string()),
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
