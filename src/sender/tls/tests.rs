//! Handshakes against a real TLS server with the certificates in tests/tls.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::sender::http::{Answer, Fault, Http as _, HttpSettings, TransportError, UreqHttp};
use crate::sender::resolver::Resolve;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn settings(ca: &str, client: Option<(&str, &str)>) -> Tls {
    let client = client.map(|(cert, key)| (file(cert), file(key)));
    Tls { ca_file: Some(file(ca)), client }
}

fn server_config() -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(file("server.pem")).unwrap()],
            PrivateKeyDer::from_pem_file(file("server.key")).unwrap(),
        )
        .unwrap();
    Arc::new(config)
}

/// One request over TLS to a server that answers 204 with a client's certificate, else 403.
fn request(tls: &Tls) -> Result<Answer, TransportError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/push", listener.local_addr().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let connection = ServerConnection::new(server_config()).unwrap();
            serve(StreamOwned::new(connection, stream));
        });
        let (requests, _) = crossbeam_channel::bounded(1);
        let settings = HttpSettings {
            url,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            proxy: None,
            tls: Some(tls_config(tls).unwrap()),
        };
        let mut http = UreqHttp::new(settings, Resolve::new(Arc::default(), requests)).unwrap();
        http.post(&vec![7; 300_000], &[], Instant::now() + Duration::from_secs(20))
    })
}

fn serve(stream: StreamOwned<ServerConnection, std::net::TcpStream>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line.trim_end() != "" || line.is_empty() {
        line.clear();
        if !matches!(reader.read_line(&mut line), Ok(n) if n > 0) {
            return;
        }
    }
    if reader.read_exact(&mut vec![0; 300_000]).is_err() {
        return;
    }
    let known = reader.get_ref().conn.peer_certificates().is_some();
    let status = if known { "204 No Content" } else { "403 Forbidden" };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).unwrap();
    reader.get_mut().flush().unwrap();
}

#[test]
fn files_of_no_use_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let tls = Tls { ca_file: Some(path.clone()), client: None };
    let error = tls_config(&tls).unwrap_err().to_string();
    assert!(error.contains("ca.pem") && error.contains("No such file"), "{error}");
    std::fs::write(&path, "no certificate").unwrap();
    let error = tls_config(&tls).unwrap_err().to_string();
    assert!(error.contains("holds no PEM certificate"), "{error}");
    let error = tls_config(&settings("ca.pem", Some(("client.pem", "ca.pem")))).unwrap_err();
    assert!(error.to_string().contains("holds no PEM key"), "{error}");
}

#[test]
fn a_certificate_that_does_not_fit_its_key_is_refused_beforehand() {
    let tls = settings("ca.pem", Some(("client.pem", "server.key")));
    let error = tls_config(&tls).unwrap_err();
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
}

#[test]
fn an_own_authority_and_a_client_certificate_are_used() {
    assert_eq!(request(&settings("ca.pem", None)).unwrap().status, 403);
    for key in ["client.key", "client-sec1.key"] {
        let tls = settings("ca.pem", Some(("client.pem", key)));
        assert_eq!(request(&tls).unwrap().status, 204, "{key}");
    }
}

#[test]
fn a_server_of_an_unknown_authority_is_not_trusted() {
    let error = request(&settings("client.pem", None)).unwrap_err();
    assert_eq!(error.fault, Fault::Tls, "{error}");
}
