//! TLS: certificate chain and key from PEM files, read again when the files change.

use crate::serve::PageError;
use parking_lot::RwLock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidewatch_connectors::file_identity::Look;
use tidewatch_events::text::Shown as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The certificate in use.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    acceptor: RwLock<(TlsAcceptor, [Option<Look>; 2])>,
}

impl Tls {
    /// Reads both files.
    pub fn read(cert: &Path, key: &Path) -> Result<Tls, PageError> {
        let looks = looks(cert, key);
        let acceptor = acceptor(cert, key)?;
        Ok(Tls { cert: cert.into(), key: key.into(), acceptor: RwLock::new((acceptor, looks)) })
    }

    /// The handshake of a new connection.
    pub async fn accept(&self, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let acceptor = self.acceptor.read().0.clone();
        acceptor.accept(socket).await
    }

    /// Reads the files again whenever they have changed, until stopped. What cannot be used is said and not used.
    pub async fn keep_fresh(self: Arc<Tls>, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
            let tls = self.clone();
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
    }

    fn look(&self) {
        let now = looks(&self.cert, &self.key);
        if now == self.acceptor.read().1 {
            return;
        }
        match acceptor(&self.cert, &self.key) {
            Ok(new) => {
                *self.acceptor.write() = (new, now);
                tracing::info!(cert = %self.cert.shown(), "the page's certificate was read again");
            }
            Err(error) => tracing::warn!(%error, "the page's new certificate cannot be used; the old one still is"),
        }
    }
}

/// How both files look.
fn looks(cert: &Path, key: &Path) -> [Option<Look>; 2] {
    [cert, key].map(Look::of)
}

fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, PageError> {
    let wrong = |path: &Path, error: String| PageError::Tls { path: path.shown().into_owned(), error };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|e| wrong(cert, format!("no certificate can be read: {e}")))?;
    if chain.is_empty() {
        return Err(wrong(cert, "there is no certificate in it (PEM, `BEGIN CERTIFICATE`)".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(key, format!("no key can be read: {e}")))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|e| wrong(cert, format!("certificate and key cannot be used together: {e}")))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
