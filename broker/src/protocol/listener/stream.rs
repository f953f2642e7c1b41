//! Both halves of a connection's stream, plain or under TLS.
//!
//! Out: [`Reader`] and [`Writer`]. Touches the socket. Two kinds in one type instead of a box: each request passes here.

use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::protocol::disconnect::Disconnect;

/// A slow client must make progress on each piece of a response.
pub(crate) const WRITE_PIECE_BYTES: usize = 256 << 10;

/// What comes from the client: plain, or under TLS.
pub(crate) type Reader = Either<OwnedReadHalf, Box<ReadHalf<TlsStream<TcpStream>>>>;

/// What goes to the client: plain, or under TLS.
pub(crate) type Writer = Either<OwnedWriteHalf, Box<WriteHalf<TlsStream<TcpStream>>>>;

/// Halves of a plain stream.
pub(crate) fn plain(stream: TcpStream) -> (Reader, Writer) {
    let (reader, writer) = stream.into_split();
    (Either::Left(reader), Either::Left(writer))
}

/// Halves of a stream under TLS.
pub(crate) fn tls(stream: TlsStream<TcpStream>) -> (Reader, Writer) {
    let (reader, writer) = tokio::io::split(stream);
    (Either::Right(Box::new(reader)), Either::Right(Box::new(writer)))
}

/// Writes an answer; the client must take each piece of it in time.
pub(crate) async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    patience: Duration,
) -> Result<(), Disconnect> {
    for piece in bytes.chunks(WRITE_PIECE_BYTES) {
        timeout(patience, writer.write_all(piece))
            .await
            .map_err(|_| Disconnect::Stalled)?
            .map_err(Disconnect::Write)?;
    }
    Ok(())
}
