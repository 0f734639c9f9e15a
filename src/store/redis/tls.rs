//! Encrypted connections: which authorities to trust, and which certificate to present.

use std::path::PathBuf;

use serde::Deserialize;

#[cfg(feature = "tls-rustls")]
pub(crate) use with_rustls::{handshake_advice, install_provider, with_certificates};

/// The authorities to trust and the client certificate, for `rediss://` URLs. The files are PEM; they are read when the store
/// is created.
///
/// By default the server's certificate must be from an authority that browsers trust too, or, with the feature
/// `tls-native-roots`, from one that the operating system trusts, and the store presents no client certificate. Verification
/// cannot be turned off.
///
/// ```
/// use sessile::{RedisConfig, TlsConfig};
///
/// let tls = TlsConfig::default().with_ca("/etc/ssl/redis-ca.pem");
/// let config = RedisConfig::new("rediss://redis.internal/").with_tls(tls);
/// ```
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificates of the only authorities to trust. By default the authorities that come with the crate, which are
    /// Mozilla's; with the feature `tls-native-roots` those of the operating system too, which on Linux is its bundle, or the
    /// file of the environment variable `SSL_CERT_FILE` and the directories of `SSL_CERT_DIR` if these are set. They are read
    /// once, when the process creates its first store. Unreadable certificates among them are skipped, with a warning in the
    /// log.
    pub ca: Option<PathBuf>,
    /// The client certificate, for a server that asks for one, followed by its intermediate certificates.
    pub client_cert: Option<PathBuf>,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, without a password.
    pub client_key: Option<PathBuf>,
}

impl TlsConfig {
    /// As a configuration file has it.
    pub(crate) fn text(&self) -> String {
        let settings = [
            ("ca", &self.ca),
            ("client_cert", &self.client_cert),
            ("client_key", &self.client_key),
        ];
        let set = settings
            .iter()
            .filter_map(|(name, path)| Some(format!("{name} = {:?}", path.as_ref()?)));
        format!("{{ {} }}", set.collect::<Vec<_>>().join(", "))
    }

    /// Sets [`ca`](Self::ca).
    #[must_use]
    pub fn with_ca(mut self, ca: impl Into<PathBuf>) -> Self {
        self.ca = Some(ca.into());
        self
    }

    /// Sets [`client_cert`](Self::client_cert).
    #[must_use]
    pub fn with_client_cert(mut self, client_cert: impl Into<PathBuf>) -> Self {
        self.client_cert = Some(client_cert.into());
        self
    }

    /// Sets [`client_key`](Self::client_key).
    #[must_use]
    pub fn with_client_key(mut self, client_key: impl Into<PathBuf>) -> Self {
        self.client_key = Some(client_key.into());
        self
    }
}

/// Without TLS there are no handshakes.
#[cfg(not(feature = "tls-rustls"))]
pub(crate) fn handshake_advice(_: &redis::RedisError) -> Option<String> {
    None
}

#[cfg(feature = "tls-native-roots")]
mod native_roots {
    use std::sync::OnceLock;

    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use rustls::RootCertStore;
    use rustls::pki_types::CertificateDer;
    use webpki_root_certs::TLS_SERVER_ROOT_CERTS;

    /// The authorities of the operating system, and those that come with the crate, in PEM.
    ///
    /// redis uses the ones or the others, depending on its features, so it gets both as if they came from a file.
    pub(crate) fn authorities() -> Vec<u8> {
        static READ: OnceLock<Vec<u8>> = OnceLock::new();
        READ.get_or_init(read_authorities).clone()
    }

    fn read_authorities() -> Vec<u8> {
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            tracing::warn!(target: "sessile", %error, "could not read some certificates of the operating system: sessile trusts the others, and those that come with the crate");
        }
        pem(TLS_SERVER_ROOT_CERTS.iter().chain(&native.certs))
    }

    /// The usable certificates: a single unusable one would make all of them fail.
    fn pem<'a>(certificates: impl Iterator<Item = &'a CertificateDer<'static>>) -> Vec<u8> {
        let mut pem = String::new();
        for certificate in certificates {
            if RootCertStore::empty().add(certificate.clone()).is_ok() {
                pem.push_str("-----BEGIN CERTIFICATE-----\n");
                BASE64_STANDARD.encode_string(certificate, &mut pem);
                pem.push_str("\n-----END CERTIFICATE-----\n");
            }
        }
        pem.into_bytes()
    }

    #[cfg(test)]
    mod tests {
        use rustls::pki_types::pem::PemObject as _;

        use super::*;

        fn read(pem: &[u8]) -> Vec<CertificateDer<'static>> {
            let certificates = CertificateDer::pem_slice_iter(pem);
            certificates.collect::<Result<_, _>>().unwrap()
        }

        #[test]
        fn the_authorities_of_the_crate_and_of_the_system_are_trusted() {
            let trusted = read(&authorities());
            let native = rustls_native_certs::load_native_certs().certs;
            let mut store = RootCertStore::empty();
            let (usable, _) = store.add_parsable_certificates(native.iter().cloned());
            assert_eq!(trusted.len(), TLS_SERVER_ROOT_CERTS.len() + usable);
            for certificate in TLS_SERVER_ROOT_CERTS {
                assert!(trusted.contains(certificate));
            }
        }

        #[test]
        fn an_unusable_certificate_is_skipped() {
            let good = &TLS_SERVER_ROOT_CERTS[0];
            let bad = CertificateDer::from_slice(b"none");
            let trusted = read(&pem([&bad, good].into_iter()));
            assert_eq!(trusted, std::slice::from_ref(good));
        }
    }
}

#[cfg(feature = "tls-rustls")]
mod with_rustls {
    use std::path::Path;

    use redis::{Client, ClientTlsConfig, ConnectionInfo, RedisError, TlsCertificates};
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::sign::CertifiedKey;
    use rustls::{AlertDescription, CertificateError, RootCertStore};

    use crate::error::config::ConfigError;
    use crate::store::redis::error::wrapped;
    use crate::store::redis::tls::TlsConfig;

    /// rustls uses the provider of cryptography that the process has installed, and panics if there is none and several could
    /// be.
    pub(crate) fn install_provider() {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may have installed one meanwhile, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
    }

    /// The settings of a connection, with the certificates of the files.
    pub(crate) fn with_certificates(
        info: ConnectionInfo,
        config: &TlsConfig,
    ) -> Result<ConnectionInfo, ConfigError> {
        let certificates = certificates(config)?;
        let client = Client::build_with_tls(info, certificates).map_err(|error| {
            ConfigError::invalid("tls", config, format!("{error}: correct the files"))
        })?;
        Ok(client.get_connection_info().clone())
    }

    /// Reads and validates the files.
    fn certificates(config: &TlsConfig) -> Result<TlsCertificates, ConfigError> {
        let root_cert = match &config.ca {
            Some(path) => Some(authorities(path)?),
            #[cfg(feature = "tls-native-roots")]
            None => Some(crate::store::redis::tls::native_roots::authorities()),
            // redis then uses the authorities that come with it.
            #[cfg(not(feature = "tls-native-roots"))]
            None => None,
        };
        let client_tls = match (&config.client_cert, &config.client_key) {
            (Some(cert), Some(key)) => Some(client(cert, key)?),
            (None, None) => None,
            (Some(cert), None) => {
                let advice = "write the path of its private key into `tls.client_key`";
                return Err(ConfigError::invalid("tls.client_cert", cert, advice));
            }
            (None, Some(key)) => {
                let advice = "write the path of its certificate into `tls.client_cert`";
                return Err(ConfigError::invalid("tls.client_key", key, advice));
            }
        };
        Ok(TlsCertificates {
            client_tls,
            root_cert,
        })
    }

    fn authorities(path: &Path) -> Result<Vec<u8>, ConfigError> {
        let (pem, chain) = chain("tls.ca", path)?;
        let mut store = RootCertStore::empty();
        for certificate in chain {
            store.add(certificate).map_err(|error| {
                let advice = format!("one of its certificates is not usable: {error}");
                ConfigError::invalid("tls.ca", path, advice)
            })?;
        }
        Ok(pem)
    }

    fn client(cert: &Path, key: &Path) -> Result<ClientTlsConfig, ConfigError> {
        let (client_cert, chain) = chain("tls.client_cert", cert)?;
        let client_key = read("tls.client_key", key)?;
        let invalid = |advice: String| ConfigError::invalid("tls.client_key", key, advice);
        let private = PrivateKeyDer::from_pem_slice(&client_key).map_err(|_| {
            invalid("it holds no private key in PEM: write the path of a file with `-----BEGIN PRIVATE KEY-----`".to_owned())
        })?;
        install_provider();
        if let Some(provider) = rustls::crypto::CryptoProvider::get_default() {
            CertifiedKey::from_der(chain, private, provider).map_err(|error| {
                invalid(format!("it is not the key of `tls.client_cert`: {error}"))
            })?;
        }
        Ok(ClientTlsConfig {
            client_cert,
            client_key,
        })
    }

    fn chain(
        setting: &'static str,
        path: &Path,
    ) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), ConfigError> {
        let pem = read(setting, path)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        match chain {
            Ok(chain) if !chain.is_empty() => Ok((pem, chain)),
            _ => {
                let advice = "it holds no certificate in PEM: write the path of a file with `-----BEGIN CERTIFICATE-----`";
                Err(ConfigError::invalid(setting, path, advice))
            }
        }
    }

    fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
        std::fs::read(path).map_err(|error| {
            let advice =
                format!("the file cannot be read ({error}): correct the path, or its permissions");
            ConfigError::invalid(setting, path, advice)
        })
    }

    /// The advice for a failed handshake; `None` for another error.
    pub(crate) fn handshake_advice(error: &RedisError) -> Option<String> {
        let error = wrapped::<rustls::Error>(error)?;
        let advice = match error {
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                CertificateError::UnknownIssuer => {
                    "the server's certificate is from an authority that is not trusted here: write the path of that \
                     authority's certificate into `tls.ca`"
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    "the server's certificate is for another host: write the name that it is for into `url`, or give the \
                     server a certificate for this name"
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "the server's certificate has expired: renew it, or correct the clock here"
                }
                _ => {
                    "the server's certificate is not usable: give the server one that an authority has issued for its name, \
                     and write the path of the authority's certificate into `tls.ca`"
                }
            },
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
                "the server asks for a certificate: write the paths of a certificate and its key into `tls.client_cert` and \
                 `tls.client_key`"
            }
            rustls::Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired,
            ) => {
                "the server rejects the certificate of `tls.client_cert`: write the path of one that its authority has \
                 issued"
            }
            rustls::Error::InvalidMessage(_) => {
                "the server at this port does not speak TLS: write `redis://`, or the server's `tls-port`"
            }
            _ => {
                "the TLS handshake failed: if the server asks for a certificate, write `tls.client_cert` and \
                 `tls.client_key`; otherwise look at its log"
            }
        };
        Some(format!("{error}: {advice}"))
    }
}
