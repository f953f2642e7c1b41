//! A client's stream, plain or under TLS.
//!
//! In: an accepted socket. Out: bytes both ways, and the subject and names of the client's certificate. Touches the socket. Two
//! kinds in one type instead of a box: each byte passes here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::tls::{Tls, alternative_names, principal};

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whom its certificate names, e.g. `User:CN=agent-7`; only certificates of the configured authorities get here.
    pub certificate: Option<Arc<str>>,
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// Alternative names in its certificate.
    pub names: Arc<[String]>,
}

/// Both directions of a connection: plain, or under TLS.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Does the handshake if there is TLS.
pub(crate) async fn open(socket: TcpStream, tls: Option<&Tls>) -> io::Result<Stream> {
    match tls {
        None => Ok(Either::Left(socket)),
        Some(tls) => Ok(Either::Right(Box::new(tls.accept(socket).await?))),
    }
}

/// Who the other end of a stream is.
pub(crate) fn peer_of(stream: &Stream, address: SocketAddr) -> Peer {
    let (certificate, names) = match stream {
        Either::Left(_) => (None, Vec::new()),
        Either::Right(stream) => (principal(stream).map(Arc::from), alternative_names(stream)),
    };
    Peer { address, certificate, is_tls: matches!(stream, Either::Right(_)), names: names.into() }
}
