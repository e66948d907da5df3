//! One conversation with a mail server that ends: in time, and whatever the server sends.
//!
//! The mail library writes commands and reads answers; its own connection would keep a line however long it grows, and wait for
//! as long as a byte comes now and then.
//!
//! Invariants
//! - No line of an answer is kept beyond [`MAX_LINE`] bytes, no answer beyond [`MAX_ANSWER`].
//! - An answer is waited for at most `timeout`, and all of the conversation takes at most [`WHOLE`] times that.
//! - What came before encryption began says nothing after it.

use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::commands::{Auth, Ehlo, Quit, Starttls};
use lettre::transport::smtp::extension::{ClientId, Extension, ServerInfo};
use lettre::transport::smtp::response::Response;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidewatch_events::text::bounded;

/// The longest line of an answer, bytes.
const MAX_LINE: usize = 4 << 10;

/// The longest answer, bytes.
const MAX_ANSWER: usize = 64 << 10;

/// The whole conversation may take so many times as long as one answer.
pub(super) const WHOLE: u32 = 6;

/// How long it is waited for a farewell.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a conversation goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server refused: its code, and its words.
    Refused(u16, String),
    /// The server cannot be trusted, or offers nothing that can be used.
    Unfit(String),
    /// The connection failed, or the server does not speak SMTP.
    Broken(String),
}

/// The words of it.
impl Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Refused(code, words) => write!(f, "it answered {code} {words}"),
            Trouble::Unfit(words) | Trouble::Broken(words) => f.write_str(words),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            return Trouble::Unfit(error.to_string());
        }
        Trouble::Broken(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
            io::ErrorKind::UnexpectedEof => "it hung up".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// How TLS is spoken: the system's authorities, and those of a PEM file.
///
/// # Errors
/// Where the file holds no certificate that can be used: what it does, in words.
pub(super) fn tls(ca: Option<&[u8]>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut extra = Vec::new();
    if let Some(pem) = ca {
        let bad = |why: String| format!("is no file of certificates (PEM): {why}");
        let read: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem).collect();
        extra = read.map_err(|error| bad(error.to_string()))?;
        if extra.is_empty() {
            return Err(bad("there is none in it".into()));
        }
    }
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider.clone());
    let verifier = verifier.map_err(|error| format!("holds a certificate that cannot be used: {error}"))?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("no TLS: {error}"))?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()))
}

/// A connection whose reads and writes end by a time.
struct Bounded {
    stream: TcpStream,
    until: Instant,
}

impl Bounded {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        left.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

enum Stream {
    Plain(Bounded),
    Tls(Box<StreamOwned<ClientConnection, Bounded>>),
}

impl Stream {
    fn bounded(&mut self) -> &mut Bounded {
        match self {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &mut stream.sock,
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// A connection to a mail server, after the greeting.
pub(super) struct Conversation {
    /// `None` after it could not be encrypted.
    stream: Option<Stream>,
    /// What came and is no whole line yet.
    read: Vec<u8>,
    timeout: Duration,
    /// When all of it is over.
    over: Instant,
    server: ServerInfo,
}

impl Conversation {
    /// Connects, encrypted where `tls` is given, hears the greeting and says hello.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn open(
        (host, port): (&str, u16),
        timeout: Duration,
        tls: Option<&Arc<ClientConfig>>,
        hello: &ClientId,
    ) -> Result<Conversation, Trouble> {
        let over = Instant::now() + timeout * WHOLE;
        let addresses = (host, port).to_socket_addrs()?;
        let mut failed = Trouble::Broken("its name has no address".into());
        for address in addresses {
            let left = over.saturating_duration_since(Instant::now()).min(timeout).max(Duration::from_millis(1));
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => {
                    let stream = Some(Stream::Plain(Bounded { stream, until: over }));
                    let (read, server) = (Vec::new(), ServerInfo::default());
                    let mut new = Conversation { stream, read, timeout, over, server };
                    if let Some(tls) = tls {
                        new.encrypt(host, tls)?;
                    }
                    new.begin();
                    new.answer()?;
                    new.hello(hello)?;
                    return Ok(new);
                }
                Err(error) => failed = error.into(),
            }
        }
        Err(failed)
    }

    /// Whether it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.stream, Some(Stream::Tls(_)))
    }

    /// Whether the server offers something.
    pub fn offers(&self, extension: Extension) -> bool {
        self.server.supports_feature(extension)
    }

    fn hello(&mut self, hello: &ClientId) -> Result<(), Trouble> {
        let answer = self.ask(Ehlo::new(hello.clone()))?;
        self.server = ServerInfo::from_response(&answer).map_err(|error| Trouble::Broken(error.to_string()))?;
        Ok(())
    }

    /// Goes on encrypted.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn starttls(&mut self, host: &str, tls: &Arc<ClientConfig>, hello: &ClientId) -> Result<(), Trouble> {
        self.ask(Starttls)?;
        if !self.read.is_empty() {
            return Err(Trouble::Unfit("it said more before the encryption began".into()));
        }
        self.encrypt(host, tls)?;
        self.hello(hello)
    }

    fn encrypt(&mut self, host: &str, tls: &Arc<ClientConfig>) -> Result<(), Trouble> {
        let unfit = |error: &dyn Display| Trouble::Unfit(format!("no TLS to {host:?}: {error}"));
        let name = ServerName::try_from(host.to_owned()).map_err(|error| unfit(&error))?;
        let connection = ClientConnection::new(tls.clone(), name).map_err(|error| unfit(&error))?;
        self.stream = self.stream.take().map(|stream| match stream {
            Stream::Plain(stream) => Stream::Tls(Box::new(StreamOwned::new(connection, stream))),
            encrypted @ Stream::Tls(_) => encrypted,
        });
        Ok(())
    }

    /// Logs in.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn log_in(&mut self, credentials: &Credentials) -> Result<(), Trouble> {
        let mechanism = self.server.get_auth_mechanism(DEFAULT_MECHANISMS);
        let mechanism = mechanism.ok_or_else(|| Trouble::Unfit("it offers no way to log in: PLAIN, LOGIN".into()))?;
        let unfit = |error: lettre::transport::smtp::Error| Trouble::Unfit(error.to_string());
        let mut answer = self.ask(Auth::new(mechanism, credentials.clone(), None).map_err(unfit)?)?;
        // LOGIN asks twice.
        for _ in 0..3 {
            if !answer.has_code(334) {
                return Ok(());
            }
            answer = self.ask(Auth::new_from_response(mechanism, credentials.clone(), &answer).map_err(unfit)?)?;
        }
        Err(Trouble::Unfit("it asks on and on when logging in".into()))
    }

    /// Gives a command and hears the answer.
    ///
    /// # Errors
    /// [`Trouble`]; also where the answer is a refusal.
    pub fn ask(&mut self, command: impl Display) -> Result<Response, Trouble> {
        self.begin();
        self.write(command.to_string().as_bytes())?;
        self.answer()
    }

    /// Gives the mail itself, and hears whether it was taken.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn give(&mut self, mail: &[u8]) -> Result<(), Trouble> {
        let over = self.over;
        if let Some(stream) = &mut self.stream {
            // A large one may take longer than an answer.
            stream.bounded().until = over;
        }
        self.write(&transparent(mail))?;
        self.begin();
        self.answer().map(drop)
    }

    /// Takes leave.
    pub fn leave(mut self) {
        self.timeout = self.timeout.min(FAREWELL);
        let _ = self.ask(Quit);
        if let Some(stream) = &mut self.stream {
            let _ = stream.bounded().stream.shutdown(Shutdown::Both);
        }
    }

    /// From now on the time of one answer runs.
    fn begin(&mut self) {
        let until = self.over.min(Instant::now() + self.timeout);
        if let Some(stream) = &mut self.stream {
            stream.bounded().until = until;
        }
    }

    fn stream(&mut self) -> io::Result<&mut Stream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        Ok(self.stream()?.write(bytes)?)
    }

    fn answer(&mut self) -> Result<Response, Trouble> {
        let mut text = String::new();
        loop {
            let line = self.line()?;
            if text.len() + line.len() > MAX_ANSWER {
                return Err(Trouble::Broken(format!("its answer is longer than {MAX_ANSWER} bytes")));
            }
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            text.push_str(&line);
            if line.len() == 3 {
                text.push(' ');
            }
            text.push_str("\r\n");
            if is_last {
                break;
            }
        }
        let answer = text.parse::<Response>();
        let answer =
            answer.map_err(|_| Trouble::Broken(format!("it does not speak SMTP: {:?}", bounded(text.as_bytes()))))?;
        if answer.is_positive() {
            return Ok(answer);
        }
        let words: Vec<&str> = answer.message().collect();
        Err(Trouble::Refused(answer.code().into(), words.join(" ")))
    }

    /// The next line, without its end.
    fn line(&mut self) -> Result<String, Trouble> {
        loop {
            let end = self.read.iter().position(|b| *b == b'\n');
            if end.unwrap_or(self.read.len()) > MAX_LINE {
                return Err(Trouble::Broken(format!("a line of its answer is longer than {MAX_LINE} bytes")));
            }
            if let Some(end) = end {
                let rest = self.read.split_off(end + 1);
                let line = std::mem::replace(&mut self.read, rest);
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            let mut more = [0; 1024];
            match self.stream()?.read(&mut more)? {
                0 => return Err(Trouble::Broken("it hung up".into())),
                read => self.read.extend_from_slice(&more[..read]),
            }
        }
    }
}

/// A mail as it is sent: a dot that begins a line is doubled, and a line of one dot ends it.
fn transparent(mail: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(mail.len() + 64);
    for line in mail.split_inclusive(|b| *b == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_that_begins_a_line_is_doubled() {
        let rows: &[(&str, &str, &str)] = &[
            ("plain", "a\r\nb\r\n", "a\r\nb\r\n.\r\n"),
            ("no line end", "a", "a\r\n.\r\n"),
            ("nothing", "", "\r\n.\r\n"),
            ("a line of a dot", "a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n.\r\n"),
            ("the first line", ".a\r\n", "..a\r\n.\r\n"),
            ("after a bare line feed, which some servers take as an end", "a\n.\nb\r\n", "a\n..\nb\r\n.\r\n"),
            ("elsewhere", "a.b\r\nc.\r\n", "a.b\r\nc.\r\n.\r\n"),
        ];
        for (name, mail, want) in rows {
            assert_eq!(String::from_utf8(transparent(mail.as_bytes())).unwrap(), *want, "{name}");
        }
    }
}
