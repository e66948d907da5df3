//! Receivers for tests: a mail server and a web server on loopback that keep what they are told and answer as told.
//!
//! Each listens on a free port, serves a connection at a time, and ends when it is dropped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A conversation, plain or not.
pub trait Talk: Read + Write + Send {}
impl<T: Read + Write + Send> Talk for T {}

/// Makes an encrypted conversation of a plain one.
pub type Encrypt = Arc<dyn Fn(TcpStream) -> Box<dyn Talk> + Send + Sync>;

/// A thread that serves connections until it is dropped.
pub struct Server {
    port: u16,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// On a free port, or the one given.
    pub fn start(port: u16, serve: impl Fn(TcpStream) + Send + 'static) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
        listener.set_nonblocking(true).expect("nonblocking");
        let port = listener.local_addr().expect("an address").port();
        let over = Arc::new(AtomicBool::new(false));
        let ends = over.clone();
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).expect("blocking");
                        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
                        serve(stream);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Server { port, over, thread: Some(thread) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
#[allow(dead_code)]
pub struct Asked {
    pub at: Instant,
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

#[allow(dead_code)]
impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// A web server that answers each request with the next status, then with 200.
pub struct Web {
    pub server: Server,
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[allow(dead_code)]
impl Web {
    pub fn start(port: u16, answers: &[(u16, &str)]) -> Web {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers: Arc<Mutex<Vec<(u16, String)>>> =
            Arc::new(Mutex::new(answers.iter().rev().map(|(status, body)| (*status, (*body).to_owned())).collect()));
        let kept = asked.clone();
        let server = Server::start(port, move |stream| {
            let mut reader = BufReader::new(stream.try_clone().expect("a clone"));
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let mut headers = Vec::new();
            loop {
                let mut header = String::new();
                if reader.read_line(&mut header).unwrap_or(0) == 0 || header.trim().is_empty() {
                    break;
                }
                if let Some((name, value)) = header.trim().split_once(':') {
                    headers.push((name.to_owned(), value.trim().to_owned()));
                }
            }
            let mut asked = Asked { at: Instant::now(), line: line.trim().to_owned(), headers, body: Vec::new() };
            let length = asked.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            asked.body = vec![0; length];
            if reader.read_exact(&mut asked.body).is_err() {
                return;
            }
            kept.lock().expect("a lock").push(asked);
            let (status, body) = answers.lock().expect("a lock").pop().unwrap_or((200, String::new()));
            if status == 0 {
                return; // hangs up
            }
            let mut stream = stream;
            let _ = write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        });
        Web { server, asked }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.server.port())
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("a lock").clone()
    }

    /// Waits for so many requests.
    pub fn wait_for(&self, count: usize) -> Vec<Asked> {
        wait("requests", || Some(self.asked()).filter(|all| all.len() >= count))
    }
}

/// A mail as it came.
#[derive(Clone, Debug)]
#[allow(dead_code)]
pub struct Got {
    pub at: Instant,
    pub from: String,
    pub to: Vec<String>,
    pub text: String,
    pub encrypted: bool,
    pub login: Option<String>,
}

/// How a mail server behaves.
#[derive(Clone, Default)]
pub struct Manners {
    /// Encrypts a connection; without it STARTTLS is not offered.
    pub tls: Option<Encrypt>,
    /// Encrypted from the first byte.
    pub wrapped: bool,
    /// The password it wants, base64 of `\0user\0password`.
    pub login: Option<String>,
    /// What it answers instead, once for each, by the first word it is asked: `RCPT`, `DATA`, `.` (the mail itself).
    pub answers: Vec<(&'static str, &'static str)>,
}

/// A mail server.
pub struct MailServer {
    pub server: Server,
    got: Arc<Mutex<Vec<Got>>>,
}

#[allow(dead_code)]
impl MailServer {
    pub fn start(port: u16, manners: Manners) -> MailServer {
        let got = Arc::new(Mutex::new(Vec::new()));
        let kept = got.clone();
        let answers = Mutex::new(manners.answers.clone());
        let server = Server::start(port, move |stream| {
            let mut answer = |word: &str| {
                let mut answers = answers.lock().expect("a lock");
                let at = answers.iter().position(|(of, _)| *of == word)?;
                Some(answers.remove(at).1)
            };
            let _ = converse(stream, &manners, &mut answer, &kept);
        });
        MailServer { server, got }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().expect("a lock").clone()
    }

    /// Waits for so many mails.
    pub fn wait_for(&self, count: usize) -> Vec<Got> {
        wait("mails", || Some(self.got()).filter(|all| all.len() >= count))
    }
}

/// Asks until there is an answer, for 120 s at most.
pub fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: they do not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn converse(
    stream: TcpStream,
    manners: &Manners,
    answer: &mut dyn FnMut(&str) -> Option<&'static str>,
    kept: &Mutex<Vec<Got>>,
) -> std::io::Result<()> {
    let raw = stream.try_clone()?;
    let encrypt = |stream: TcpStream| manners.tls.as_ref().map(|tls| tls(stream));
    let mut encrypted = manners.wrapped;
    let talk: Box<dyn Talk> = match encrypted {
        true => encrypt(stream).expect("TLS"),
        false => Box::new(stream),
    };
    let mut talk = BufReader::new(talk);
    let mut got =
        Got { at: Instant::now(), from: String::new(), to: vec![], text: String::new(), encrypted, login: None };
    talk.get_mut().write_all(b"220 test ESMTP\r\n")?;
    loop {
        let mut line = String::new();
        if talk.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        let word = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
        let say = |talk: &mut BufReader<Box<dyn Talk>>, words: &str| -> std::io::Result<()> {
            talk.get_mut().write_all(format!("{words}\r\n").as_bytes())?;
            talk.get_mut().flush()
        };
        if let Some(words) = answer(&word) {
            say(&mut talk, words)?;
            continue;
        }
        match word.as_str() {
            "EHLO" => {
                let starttls = if manners.tls.is_some() && !encrypted { "250-STARTTLS\r\n" } else { "" };
                let auth = if manners.login.is_some() { "250-AUTH PLAIN LOGIN\r\n" } else { "" };
                say(&mut talk, &format!("250-test\r\n{starttls}{auth}250 8BITMIME"))?;
            }
            "STARTTLS" => {
                say(&mut talk, "220 go on")?;
                encrypted = true;
                got.encrypted = true;
                talk = BufReader::new(encrypt(raw.try_clone()?).expect("TLS"));
            }
            "AUTH" => {
                let given = line.split(' ').nth(2).unwrap_or_default().to_owned();
                if Some(&given) == manners.login.as_ref() {
                    got.login = Some(given);
                    say(&mut talk, "235 welcome")?;
                } else {
                    say(&mut talk, "535 5.7.8 no")?;
                }
            }
            "MAIL" => {
                got.from = line[5..].to_owned();
                match manners.login.is_some() && got.login.is_none() {
                    true => say(&mut talk, "530 log in first")?,
                    false => say(&mut talk, "250 ok")?,
                }
            }
            "RCPT" => {
                got.to.push(line[5..].to_owned());
                say(&mut talk, "250 ok")?;
            }
            "DATA" => {
                say(&mut talk, "354 go on")?;
                let mut text = String::new();
                loop {
                    let mut line = String::new();
                    if talk.read_line(&mut line)? == 0 {
                        return Ok(());
                    }
                    if line == ".\r\n" {
                        break;
                    }
                    text.push_str(line.strip_prefix('.').unwrap_or(&line));
                }
                let new = Got { text, at: Instant::now(), ..got.clone() };
                match answer(".") {
                    Some("hang up") => {
                        kept.lock().expect("a lock").push(new);
                        return Ok(());
                    }
                    Some(words) => say(&mut talk, words)?,
                    None => {
                        kept.lock().expect("a lock").push(new);
                        say(&mut talk, "250 queued")?;
                    }
                }
            }
            "QUIT" => {
                say(&mut talk, "221 bye")?;
                return Ok(());
            }
            "NOOP" | "RSET" => say(&mut talk, "250 ok")?,
            _ => say(&mut talk, "502 what")?,
        }
    }
}
