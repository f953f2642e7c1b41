//! Listeners as clients meet them, and as attackers do: slow heads and bodies, many connections, wrong and changing
//! certificates, plain text where TLS is spoken, and both versions of HTTP.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::WebSocketUpgrade;
use millrace_doors::browser::Bodies;
use millrace_doors::config::{ClientAuth, ConnectionLimits, RequestLimits, TlsConfig};
use millrace_doors::routes::{Methods, Need, Routes};
use millrace_doors::serve::{HttpListener, HttpSettings, OpenError};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

type Certified = rcgen::CertifiedKey<rcgen::KeyPair>;

/// A running listener; stopped when dropped.
struct Running {
    address: SocketAddr,
    _stop: DropGuard,
}

fn settings(edit: impl FnOnce(&mut HttpSettings)) -> HttpSettings {
    let mut settings = HttpSettings::new("test", "test.listen", "127.0.0.1:0");
    edit(&mut settings);
    settings
}

async fn start(settings: HttpSettings) -> Running {
    let listener = HttpListener::open_async(settings).await.unwrap();
    let (address, stop) = (listener.address(), CancellationToken::new());
    let routes =
        Routes::new()
            .on(Need::Read, Methods::Get, "/", || async { "hello" })
            .on(Need::Read, Methods::Get, "/version", |request: axum::extract::Request| async move {
                format!("{:?}", request.version())
            })
            .on(Need::Write(Bodies::Any), Methods::Post, "/push", |body: Bytes| async move {
                format!("{} bytes", body.len())
            })
            .on(Need::Read, Methods::Get, "/tail", |upgrade: WebSocketUpgrade| async {
                upgrade.on_upgrade(|mut socket| async move { while let Some(Ok(_)) = socket.recv().await {} })
            });
    let token = stop.clone();
    tokio::spawn(async move { listener.serve(routes, token).await });
    Running { address, _stop: stop.drop_guard() }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    // Whoever is refused may learn of it only by the next read.
    stream.write_all(request.as_bytes()).await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    String::from_utf8_lossy(&answer).into_owned()
}

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

async fn get_plain(address: SocketAddr) -> String {
    exchange(TcpStream::connect(address).await.unwrap(), GET).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_senders_are_cut_off_and_others_are_answered_meanwhile() {
    let within = Duration::from_millis(300);
    let running = start(settings(|s| {
        s.connections =
            ConnectionLimits { max: 400, max_per_address: 400, head: within, ..ConnectionLimits::default() };
        s.requests = RequestLimits { body_wait: within, body_rate: 0, max_concurrent: 2, ..RequestLimits::default() };
    }))
    .await;
    let slow = |sent: &'static str| {
        let address = running.address;
        tokio::spawn(async move {
            let began = Instant::now();
            let answer = exchange(TcpStream::connect(address).await.unwrap(), sent).await;
            (answer, began.elapsed())
        })
    };
    let mut heads = Vec::new();
    let mut bodies = Vec::new();
    for _ in 0..150 {
        heads.push(slow("GET / HTTP/1.1\r\nhost: loc"));
        bodies.push(slow("POST /push HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nstart"));
    }
    for _ in 0..20 {
        let answer = get_plain(running.address).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    }
    for head in heads {
        let (answer, took) = head.await.unwrap();
        assert!(answer.is_empty() && took >= within && took < Duration::from_secs(20), "{took:?}: {answer}");
    }
    for body in bodies {
        let (answer, took) = body.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request body timed out"), "{took:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_can_not_take_all_connections() {
    let running = start(settings(|s| {
        let never = Duration::from_secs(3600);
        s.connections =
            ConnectionLimits { max: 10, max_per_address: 3, shed_after: never, ..ConnectionLimits::default() };
    }))
    .await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        held.push(stream);
    }
    assert_eq!(get_plain(running.address).await, "", "a fourth is closed");
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let answer = exchange(other.connect(running.address).await.unwrap(), GET).await;
    assert!(answer.ends_with("hello"), "another address has a place: {answer}");
    held.clear();
    while get_plain(running.address).await.is_empty() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_and_slow_senders_make_room_for_others_of_their_address() {
    let running = start(settings(|s| {
        let shed_after = Duration::from_millis(50);
        s.connections = ConnectionLimits { max: 20, max_per_address: 20, shed_after, ..ConnectionLimits::default() };
    }))
    .await;
    for first in ["", "GET / HT", "POST /push HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nstart"] {
        let mut held = Vec::new();
        for _ in 0..100 {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            stream.write_all(first.as_bytes()).await.ok();
            held.push(stream);
        }
        let began = Instant::now();
        for _ in 0..5 {
            let answer = loop {
                let answer = get_plain(running.address).await;
                if !answer.is_empty() || began.elapsed() > Duration::from_secs(5) {
                    break answer;
                }
            };
            assert!(answer.ends_with("hello"), "`{first}`: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_keeps_its_seat() {
    let running = start(settings(|s| {
        s.connections = ConnectionLimits { max: 10, max_per_address: 1, ..ConnectionLimits::default() };
    }))
    .await;
    let mut socket = TcpStream::connect(running.address).await.unwrap();
    let upgrade = "GET /tail HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    socket.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 101");
    for _ in 0..5 {
        assert_eq!(get_plain(running.address).await, "");
    }
    drop(socket);
    while get_plain(running.address).await.is_empty() {}
}

fn made(name: &str) -> Certified {
    rcgen::generate_simple_self_signed([name.to_owned()]).unwrap()
}

fn file(folder: &Path, name: &str, text: String) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

async fn get_tls(address: SocketAddr, trusted: &Certified, own: Option<&Certified>) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
            config.with_client_auth_cert(vec![own.cert.der().clone()], key).unwrap()
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(exchange(stream, GET).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_required_and_those_of_strangers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (server, known, stranger) = (made("localhost"), made("known"), made("stranger"));
    let tls = TlsConfig {
        cert_file: file(folder.path(), "cert.pem", server.cert.pem()),
        key_file: file(folder.path(), "key.pem", server.signing_key.serialize_pem()),
        client_ca_file: file(folder.path(), "clients.pem", known.cert.pem()),
        client_auth: ClientAuth::Required,
    };
    let running = start(settings(|s| s.tls = Some(tls))).await;
    for (own, is_let_in) in [(Some(&known), true), (Some(&stranger), false), (None, false)] {
        let answer = get_tls(running.address, &server, own).await.unwrap_or_default();
        assert_eq!(answer.ends_with("hello"), is_let_in, "{answer}");
    }
    assert!(get_tls(running.address, &stranger, Some(&known)).await.is_err(), "clients refuse another server");
    assert!(!get_plain(running.address).await.contains("HTTP"), "plain text is not answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_certificates_are_in_force_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (made("localhost"), made("localhost"));
    let tls = TlsConfig {
        cert_file: file(folder.path(), "cert.pem", old.cert.pem()),
        key_file: file(folder.path(), "key.pem", old.signing_key.serialize_pem()),
        ..TlsConfig::default()
    };
    let running = start(settings(|s| s.tls = Some(tls))).await;
    assert!(get_tls(running.address, &old, None).await.unwrap().ends_with("hello"));
    file(folder.path(), "cert.pem", format!("{}\n", new.cert.pem()));
    file(folder.path(), "key.pem", format!("{}\n", new.signing_key.serialize_pem()));
    let began = Instant::now();
    while get_tls(running.address, &new, None).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "the files are looked at every few seconds");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(get_tls(running.address, &old, None).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_of_http_are_spoken_on_one_port() {
    let running = start(settings(|_| {})).await;
    rustls::crypto::ring::default_provider().install_default().ok();
    for (client, want) in [
        (reqwest::Client::builder().http1_only(), "HTTP/1.1"),
        (reqwest::Client::builder().http2_prior_knowledge(), "HTTP/2.0"),
    ] {
        let answer = client.build().unwrap().get(format!("http://{}/version", running.address)).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), want);
    }
}

#[tokio::test]
async fn listeners_that_can_not_be_opened_name_the_key() {
    let running = start(settings(|_| {})).await;
    let taken = settings(|s| s.listen = running.address.to_string());
    let error = HttpListener::open_async(taken).await.err().unwrap();
    let text = error.to_string();
    assert!(text.contains("port is in use") && text.contains("test.listen"), "{text}");
    let tls = TlsConfig { cert_file: "/nowhere/cert.pem".to_owned(), ..TlsConfig::default() };
    let error = HttpListener::open_async(settings(|s| s.tls = Some(tls))).await.err().unwrap();
    assert!(matches!(error, OpenError::Tls { .. }) && error.to_string().contains("/nowhere/cert.pem"), "{error}");
}
