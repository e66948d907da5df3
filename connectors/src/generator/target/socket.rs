//! TCP: connecting, with a new connection where one is lost, and listening, where every client gets every line.
//!
//! Invariants
//! - A connection begins with a whole line. Lines in flight when one is lost may be lost with it: TCP cannot tell.
//! - A client that reads slower than lines are made for [`PATIENCE`] is dropped; it does not hold up the others.

use super::{LineMeta, Stop, Target, TargetError};
use crate::source::{SourceError, cannot_listen};
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// So much is gathered before it is sent.
const FULL: usize = 1 << 16;
/// Longest pause between attempts to connect.
const MOST_PAUSE: Duration = Duration::from_secs(5);
/// How long a peer may take no bytes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a server.
pub struct Connection {
    address: String,
    stream: Option<TcpStream>,
    gathered: Vec<u8>,
    stop: Stop,
}

impl Connection {
    /// Connects; a server that is not there at the start is an error.
    pub fn open(address: &str, stop: Stop) -> Result<Connection, TargetError> {
        let stream = connect(address)
            .map_err(|error| TargetError::Service(format!("nobody takes lines at tcp://{address}: {error}")))?;
        Ok(Connection {
            address: address.to_owned(),
            stream: Some(stream),
            gathered: Vec::with_capacity(2 * FULL),
            stop,
        })
    }

    fn send(&mut self) -> Result<(), TargetError> {
        let mut pause = Duration::from_millis(50);
        while !self.gathered.is_empty() {
            let problem = match &mut self.stream {
                Some(stream) => match stream.write_all(&self.gathered) {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(address = %self.address, %error, "connection lost, connecting again");
                        error
                    }
                },
                None => match connect(&self.address) {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            self.stream = None;
            if (self.stop)() {
                let lines = self.gathered.iter().filter(|b| **b == b'\n').count();
                return Err(TargetError::Service(format!(
                    "tcp://{} is away ({problem}), {lines} lines were not sent",
                    self.address
                )));
            }
            let until = Instant::now() + pause;
            while Instant::now() < until && !(self.stop)() {
                std::thread::sleep(Duration::from_millis(20));
            }
            pause = (pause * 2).min(MOST_PAUSE);
        }
        self.gathered.clear();
        Ok(())
    }
}

fn connect(address: &str) -> std::io::Result<TcpStream> {
    let mut problem = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

impl Target for Connection {
    fn write(&mut self, _: &LineMeta, line: &[u8]) -> Result<(), TargetError> {
        self.gathered.extend_from_slice(line);
        self.gathered.push(b'\n');
        if self.gathered.len() >= FULL { self.send() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), TargetError> {
        self.send()
    }
}

/// A listener and its clients. Nothing is written while nobody listens: the first line waits for the first client.
pub struct Listener {
    listener: TcpListener,
    clients: Vec<TcpStream>,
    gathered: Vec<u8>,
    stop: Stop,
    had_client: bool,
}

impl Listener {
    /// Listens.
    pub fn open(address: &str, stop: Stop) -> Result<Listener, TargetError> {
        let failed = |error: std::io::Error| match cannot_listen(address, &error) {
            SourceError::Service(text) => TargetError::Service(text),
            SourceError::Usage(text) | SourceError::Io(text) => TargetError::Usage(text),
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        tracing::info!(address = %local, "waiting for clients");
        Ok(Listener { listener, clients: Vec::new(), gathered: Vec::with_capacity(2 * FULL), stop, had_client: false })
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let ready = stream
                .set_nonblocking(false)
                .and_then(|()| stream.set_nodelay(true))
                .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
            if ready.is_ok() {
                self.clients.push(stream);
                self.had_client = true;
            }
        }
    }

    fn send(&mut self) {
        self.accept();
        while self.clients.is_empty() && !self.had_client && !(self.stop)() {
            std::thread::sleep(Duration::from_millis(20));
            self.accept();
        }
        let gathered = &self.gathered;
        self.clients.retain_mut(|client| match client.write_all(gathered) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "a client disconnected");
                false
            }
        });
        self.gathered.clear();
    }
}

impl Target for Listener {
    fn write(&mut self, _: &LineMeta, line: &[u8]) -> Result<(), TargetError> {
        self.gathered.extend_from_slice(line);
        self.gathered.push(b'\n');
        if self.gathered.len() >= FULL {
            self.send();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), TargetError> {
        if !self.gathered.is_empty() {
            self.send();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::sync::Arc;

    const META: LineMeta = LineMeta { time_ms: 0, host: 0, partition: 0, client: None, attack: None };

    #[test]
    fn a_lost_connection_is_made_again() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap().to_string();
        let mut target = Connection::open(&address, Arc::new(|| false)).unwrap();
        target.write(&META, b"one").unwrap();
        target.flush().unwrap();
        let (stream, _) = server.accept().unwrap();
        assert_eq!(BufReader::new(&stream).lines().next().unwrap().unwrap(), "one");
        drop(stream);
        // Writes succeed until the peer's reset is seen; then a new connection is made.
        server.set_nonblocking(true).unwrap();
        let begun = Instant::now();
        let (stream, _) = loop {
            target.write(&META, b"two").unwrap();
            target.flush().unwrap();
            if let Ok(accepted) = server.accept() {
                break accepted;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not connect again");
            std::thread::sleep(Duration::from_millis(1));
        };
        stream.set_nonblocking(false).unwrap();
        assert_eq!(BufReader::new(stream).lines().next().unwrap().unwrap(), "two");
    }

    #[test]
    fn nobody_there_is_said() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = Connection::open(&format!("127.0.0.1:{port}"), Arc::new(|| false)).err().unwrap();
        assert!(matches!(&error, TargetError::Service(text) if text.contains("nobody takes lines")), "{error}");
    }

    #[test]
    fn every_client_gets_lines() {
        let mut target = Listener::open("127.0.0.1:0", Arc::new(|| false)).unwrap();
        let address = target.listener.local_addr().unwrap();
        let clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        while target.clients.len() < 2 {
            target.accept();
        }
        target.write(&META, b"one").unwrap();
        target.finish().unwrap();
        drop(target);
        for client in clients {
            assert_eq!(BufReader::new(client).lines().map(Result::unwrap).collect::<Vec<_>>(), ["one"]);
        }
    }
}
