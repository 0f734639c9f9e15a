//! Certificates for TLS connections of tests, created by the test.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::Server;
use super::server::free_port;

/// A certificate authority, with its files.
pub struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Authorities need different names, or a client would try the wrong one.
        let name = format!("authority of {}", directory.path().display());
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            directory,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Issues a certificate for a host; returns its path and that of its key.
    pub fn issue(&self, host: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, host);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let paths = (
            self.path(&format!("{host}.pem")),
            self.path(&format!("{host}.key")),
        );
        std::fs::write(&paths.0, certificate.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    /// Starts a server with a certificate for this host; returns it and its TLS port.
    pub fn server(&self, host: &str, clients: &str) -> (Server, u16) {
        let mut port = 0;
        let server = Server::start_by(|| {
            port = free_port();
            self.arguments(host, port, clients)
        });
        (server, port)
    }

    /// The arguments of a server or a sentinel with such a certificate.
    pub fn arguments(&self, host: &str, port: u16, clients: &str) -> Vec<String> {
        let port = ["--tls-port".to_owned(), port.to_string()];
        [&port[..], &self.certificate(host, clients)].concat()
    }

    /// The same arguments without the port.
    pub fn certificate(&self, host: &str, clients: &str) -> Vec<String> {
        let ((cert, key), ca) = (self.issue(host), self.ca());
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![
            "--tls-cert-file".to_owned(),
            text(&cert),
            "--tls-key-file".to_owned(),
            text(&key),
            "--tls-ca-cert-file".to_owned(),
            text(&ca),
            "--tls-auth-clients".to_owned(),
            clients.to_owned(),
        ]
    }
}
