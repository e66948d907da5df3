//! TLS between agents, and connections with and without it as one type. A collector's certificate is read again when its files
//! change; an agent that sends reads its own at each connection.

use super::settings::ClientTls;
use crate::file_identity::Look;
use crate::source::SourceError;
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::text::Shown as _;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn usage(path: &Path, error: &dyn std::fmt::Display) -> SourceError {
    SourceError::Usage(format!("{}: {error}", path.shown()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found = found.map_err(|error| usage(path, &error))?;
    if found.is_empty() {
        return Err(usage(path, &"there is no certificate in it"));
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, SourceError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| usage(path, &error))
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, SourceError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| usage(path, &error))?;
    }
    Ok(Arc::new(roots))
}

/// What an agent that sends needs.
///
/// # Errors
/// Files that cannot be read or are not what they should be.
pub fn client(tls: &ClientTls) -> Result<Arc<ClientConfig>, SourceError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(&tls.ca)?, provider()).build();
    let verifier = verifier.map_err(|error| usage(&tls.ca, &error))?;
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| usage(&tls.ca, &error))?.with_webpki_verifier(verifier);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((cert, of)) => {
            builder.with_client_auth_cert(certificates(cert)?, key(of)?).map_err(|error| usage(cert, &error))?
        }
    };
    Ok(Arc::new(config))
}

/// What a collector needs.
///
/// # Errors
/// Files that cannot be read or are not what they should be.
pub fn server((cert, of): &(PathBuf, PathBuf), client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, SourceError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| usage(cert, &error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| usage(ca, &error))?)
        }
    };
    let config = builder.with_single_cert(certificates(cert)?, key(of)?);
    config.map(Arc::new).map_err(|error| usage(cert, &error))
}

/// How long a collector's files are not looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a collector shows to who connects: the newest of its files that could be used.
pub struct Identity {
    files: (PathBuf, PathBuf),
    client_ca: Option<PathBuf>,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    looks: Vec<Option<Look>>,
    looked: Instant,
}

impl Identity {
    /// Reads certificate, key and the authority of clients.
    ///
    /// # Errors
    /// Files that cannot be read or are not what they should be.
    pub fn read(files: &(PathBuf, PathBuf), client_ca: Option<&Path>) -> Result<Identity, SourceError> {
        let looks = looks(files, client_ca);
        let current = Current { config: server(files, client_ca)?, looks, looked: Instant::now() };
        Ok(Identity { files: files.clone(), client_ca: client_ca.map(Path::to_owned), current: Mutex::new(current) })
    }

    /// For a new connection. Files that have changed are read again; what cannot be used is said once and not used.
    pub fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock();
        if current.looked.elapsed() >= LOOK_EVERY {
            current.looked = Instant::now();
            let now = looks(&self.files, self.client_ca.as_deref());
            if now != current.looks {
                current.looks = now;
                match server(&self.files, self.client_ca.as_deref()) {
                    Ok(config) => {
                        current.config = config;
                        tracing::info!(cert = %self.files.0.shown(), "the collector's certificate was read again");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the collector's new certificate cannot be used; the old one still is");
                    }
                }
            }
        }
        current.config.clone()
    }
}

fn looks((cert, key): &(PathBuf, PathBuf), client_ca: Option<&Path>) -> Vec<Option<Look>> {
    [cert.as_path(), key].into_iter().chain(client_ca).map(Look::of).collect()
}

/// A socket that may be given a moment after which nothing is read or written: a read of TLS goes on for as long as bytes
/// trickle in.
pub struct Socket {
    stream: TcpStream,
    until: Option<Instant>,
}

impl Socket {
    fn look_at_the_clock(&self) -> io::Result<()> {
        match self.until {
            Some(until) if Instant::now() >= until => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.look_at_the_clock()?;
        self.stream.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.look_at_the_clock()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A connection.
pub enum Connection {
    /// Without encryption: on loopback.
    Plain(Socket),
    /// An agent's side of TLS.
    Client(Box<StreamOwned<ClientConnection, Socket>>),
    /// A collector's side.
    Server(Box<StreamOwned<ServerConnection, Socket>>),
}

impl Connection {
    /// Without encryption.
    pub fn plain(stream: TcpStream) -> Connection {
        Connection::Plain(Socket { stream, until: None })
    }

    /// The agent's side. The handshake happens with the first bytes.
    ///
    /// # Errors
    /// A name that can be none of a server.
    pub fn client(stream: TcpStream, config: Arc<ClientConfig>, name: &str) -> Result<Connection, String> {
        let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("{name}: {error}"))?;
        let tls = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        Ok(Connection::Client(Box::new(StreamOwned::new(tls, Socket { stream, until: None }))))
    }

    /// The collector's side.
    ///
    /// # Errors
    /// Where TLS cannot be begun.
    pub fn server(stream: TcpStream, config: Arc<ServerConfig>) -> Result<Connection, String> {
        let tls = ServerConnection::new(config).map_err(|error| error.to_string())?;
        Ok(Connection::Server(Box::new(StreamOwned::new(tls, Socket { stream, until: None }))))
    }

    fn socket(&mut self) -> &mut Socket {
        match self {
            Connection::Plain(socket) => socket,
            Connection::Client(stream) => stream.get_mut(),
            Connection::Server(stream) => stream.get_mut(),
        }
    }

    /// How long a read or a write waits while nothing moves.
    ///
    /// # Errors
    /// Where the system does not know it.
    pub fn patience(&mut self, read: Duration, write: Duration) -> io::Result<()> {
        let stream = &self.socket().stream;
        stream.set_read_timeout(Some(read))?;
        stream.set_write_timeout(Some(write))
    }

    /// The moment from which on nothing moves, whatever comes; `None` for never.
    pub fn until(&mut self, until: Option<Instant>) {
        self.socket().until = until;
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(stream) => stream.read(buffer),
            Connection::Client(stream) => stream.read(buffer),
            Connection::Server(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Connection::Plain(stream) => stream.write(bytes),
            Connection::Client(stream) => stream.write(bytes),
            Connection::Server(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Connection::Plain(stream) => stream.flush(),
            Connection::Client(stream) => stream.flush(),
            Connection::Server(stream) => stream.flush(),
        }
    }
}

/// An error's words; those of an end without a farewell are shorter than the library's, and those on a certificate of an
/// authority, which is what `openssl req -x509` makes unless told otherwise, say what to do.
pub fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the other side has gone".into(),
        _ if error.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority (CA:TRUE); it needs one of its own (CA:FALSE)".into()
        }
        _ => tidewatch_events::text::printable(error.to_string().as_bytes()).into_owned(),
    }
}

/// Whether an error only says that nothing happened in time.
pub fn is_nothing_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Whether the other side ended the connection.
pub fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
