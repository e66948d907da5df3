//! TLS and SASL of a Kafka connection.

use super::settings::KafkaSettingsError;
use crate::secret::Secret;
use rdkafka::ClientConfig;
use std::path::PathBuf;

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
