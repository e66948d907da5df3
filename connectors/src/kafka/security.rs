//! TLS and SASL of a Kafka connection.

use super::settings::KafkaSettingsError;
use crate::secret::Secret;
use rdkafka::ClientConfig;
use rdkafka::producer::BaseProducer;
use std::fs::File;
use std::path::{Path, PathBuf};
use tidewatch_events::text::Shown as _;

/// How the connection is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Protocol {
    #[default]
    Plaintext,
    Tls,
    SaslPlaintext,
    SaslTls,
}

/// How an account proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl Mechanism {
    fn as_str(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// TLS and SASL. Files are PEM.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// The protocol.
    pub protocol: Protocol,
    /// Certificates of authorities to trust; without it those of the system.
    pub ca: Option<PathBuf>,
    /// This client's certificate.
    pub certificate: Option<PathBuf>,
    /// The certificate's key.
    pub key: Option<PathBuf>,
    /// The key's password.
    pub key_password: Option<Secret>,
    /// How the account proves itself.
    pub mechanism: Option<Mechanism>,
    /// The account.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
}

impl Security {
    pub(super) fn check(&self) -> Result<(), KafkaSettingsError> {
        let fail = |text: &str| Err(KafkaSettingsError::Security(text.to_owned()));
        let sasl = matches!(self.protocol, Protocol::SaslPlaintext | Protocol::SaslTls);
        let tls = matches!(self.protocol, Protocol::Tls | Protocol::SaslTls);
        if sasl && (self.mechanism.is_none() || self.username.is_none() || self.password.is_none()) {
            return fail("SASL needs a mechanism, a username and a password");
        }
        if !sasl && (self.mechanism.is_some() || self.username.is_some() || self.password.is_some()) {
            return fail("an account is given, but the protocol has no SASL");
        }
        if !tls && (self.ca.is_some() || self.certificate.is_some() || self.key.is_some()) {
            return fail("certificates are given, but the protocol has no TLS");
        }
        if self.certificate.is_some() != self.key.is_some() {
            return fail("a client's certificate and its key come together");
        }
        Ok(())
    }

    pub(super) fn apply(&self, config: &mut ClientConfig) {
        let protocol = match self.protocol {
            Protocol::Plaintext => "plaintext",
            Protocol::Tls => "ssl",
            Protocol::SaslPlaintext => "sasl_plaintext",
            Protocol::SaslTls => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if matches!(self.protocol, Protocol::Tls | Protocol::SaslTls) {
            // The library is linked statically, so where a system keeps its authorities has to be probed.
            let ca = self.ca.as_ref().map_or("probe".into(), |path| path.to_string_lossy());
            config.set("ssl.ca.location", ca);
        }
        let paths = [("ssl.certificate.location", &self.certificate), ("ssl.key.location", &self.key)];
        for (name, path) in paths.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?))) {
            config.set(name, path.to_string_lossy());
        }
        if let Some(password) = &self.key_password {
            config.set("ssl.key.password", password.expose());
        }
        if let Some(mechanism) = self.mechanism {
            config.set("sasl.mechanism", mechanism.as_str());
        }
        if let Some(username) = &self.username {
            config.set("sasl.username", username);
        }
        if let Some(password) = &self.password {
            config.set("sasl.password", password.expose());
        }
    }
}

/// The properties that name files of TLS, with the keys that they are written by.
const FILES: [(&str, &str); 3] =
    [("ssl.ca.location", "ca"), ("ssl.certificate.location", "cert"), ("ssl.key.location", "key")];

/// What librdkafka says of a file of TLS, with the file and its key; `None` where the words are about something else.
pub(super) fn of_file(config: &ClientConfig, words: &str) -> Option<String> {
    let (property, key) = FILES.iter().find(|(property, _)| words.starts_with(property))?;
    let path = config.get(property)?;
    let shown = Path::new(path).shown();
    // Of a file that is not there OpenSSL says only that it could not read it.
    Some(match File::open(path) {
        Err(error) => format!("the file of `{key}`, {shown}, cannot be read: {error}"),
        Ok(_) => format!("the file of `{key}`, {shown}, cannot be used: {words}"),
    })
}

/// Whether a file, or a directory as OpenSSL wants it, holds certificates of authorities. Nothing is connected.
///
/// # Errors
/// Why it cannot be used, with the file and its key.
pub fn check_ca(ca: &Path) -> Result<(), String> {
    let mut config = ClientConfig::new();
    Security { protocol: Protocol::Tls, ca: Some(ca.to_owned()), ..Security::default() }.apply(&mut config);
    let made = config.create::<BaseProducer>();
    made.map(drop).map_err(|error| super::client::creation(&config, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let junk = dir.path().join("junk.pem");
        std::fs::write(&junk, "no certificate").unwrap();
        let gone = dir.path().join("gone.pem");
        let rows = [(&gone, "cannot be read: No such file"), (&junk, "cannot be used: ssl.ca.location failed")];
        for (path, want) in rows {
            let said = check_ca(path).unwrap_err();
            assert!(said.starts_with(&format!("the file of `ca`, {}, {want}", path.display())), "{said}");
        }
        let mut config = ClientConfig::new();
        config.set("ssl.key.location", gone.to_string_lossy());
        let said = of_file(&config, "ssl.key.location failed: error:80000002").unwrap();
        assert!(said.starts_with("the file of `key`, ") && said.contains("cannot be read"), "{said}");
        assert_eq!(of_file(&config, "No provider for SASL mechanism X"), None);
    }
}
