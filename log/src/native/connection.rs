//! One connection to one broker: requests out, answers back in their order.
//!
//! In: an address with TLS and login as configured; requests of `kafka-protocol`. Out: their answers, or why there is
//! none. Touches the network. Two tasks belong to a connection, one that writes and one that reads; both end with it.
//! Leaves leaders, retries and sequences to its callers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Decodable as _, Encodable as _, HeaderVersion, Request, StrBytes};
use kafka_protocol::{ResponseError as Code, protocol};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::error::WireError;
use super::login::{Login, Talk};
use super::tls::{SetupError, Tls};
use crate::kafka::{ClientOptions, ConnectionConfig};

/// Requests that may be on their way at once.
const IN_FLIGHT: usize = 64;
/// Room made for an answer before it has come.
const ROOM: usize = 4 << 20;
/// Longest answer that is read.
const MAX_ANSWER: usize = 256 << 20;

/// How to reach brokers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    tls: Option<Tls>,
    login: Option<Login>,
    pub options: ClientOptions,
}

impl Manner {
    /// Reads certificates and checks names. The password is read when a login begins.
    pub fn of(config: &ConnectionConfig) -> Result<Self, SetupError> {
        let options = config.client_options().map_err(|reason| SetupError { key: "options", reason })?;
        let tls = config.tls.then(|| Tls::new(&options)).transpose()?;
        let login = match config.sasl_mechanism.as_str() {
            "" => None,
            name => {
                let login = Login::new(name, &config.sasl_username, &config.sasl_password);
                let reason = format!("unsupported mechanism {name}");
                Some(login.ok_or(SetupError { key: "sasl_mechanism", reason })?)
            }
        };
        Ok(Self { tls, login, options })
    }
}

/// What a reader needs to give an answer back.
type Waiting = (i32, oneshot::Sender<Bytes>);

/// A connection that is ready for requests.
pub(crate) struct Connection {
    address: Arc<str>,
    client_id: StrBytes,
    /// Time for connecting, hand-shake and login together.
    connect_timeout: Duration,
    outgoing: mpsc::Sender<(Bytes, Waiting)>,
    next_id: AtomicI32,
    versions: HashMap<i16, (i16, i16)>,
    broken: Arc<AtomicBool>,
    /// Its reader and writer: they end when this is dropped.
    _tasks: JoinSet<()>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.address)
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connection {
    /// Connects, agrees on versions and logs in.
    pub async fn open(address: &str, manner: &Manner) -> Result<Self, WireError> {
        let limit = manner.options.connect_timeout;
        match tokio::time::timeout(limit, Self::try_open(address, manner)).await {
            Ok(opened) => opened,
            Err(_) => {
                Err(WireError::Connect { address: address.to_owned(), cause: format!("no answer within {limit:?}") })
            }
        }
    }

    async fn try_open(address: &str, manner: &Manner) -> Result<Self, WireError> {
        let failed = |error: &dyn std::fmt::Display| WireError::Connect {
            address: address.to_owned(),
            cause: error.to_string(),
        };
        let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
        stream.set_nodelay(true).map_err(|e| failed(&e))?;
        let stream: Box<dyn Stream> = match &manner.tls {
            Some(tls) => Box::new(tls.connect(address, stream).await?),
            None => Box::new(stream),
        };
        let (reading, writing) = tokio::io::split(stream);
        let (outgoing, queue) = mpsc::channel(IN_FLIGHT);
        let (sent, waiting) = mpsc::channel(IN_FLIGHT);
        let broken = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        let mark = Arc::clone(&broken);
        tasks.spawn(async move {
            write(writing, queue, sent).await;
            mark.store(true, Ordering::Release);
        });
        let (mark, name) = (Arc::clone(&broken), address.to_owned());
        tasks.spawn(async move {
            if let Err(cause) = read(reading, waiting).await {
                tracing::debug!(address = name, cause, "connection to a broker ended");
            }
            mark.store(true, Ordering::Release);
        });
        let mut connection = Self {
            address: address.into(),
            client_id: StrBytes::from_string(manner.options.client_id.clone()),
            connect_timeout: manner.options.connect_timeout,
            outgoing,
            next_id: AtomicI32::new(0),
            versions: HashMap::new(),
            broken,
            _tasks: tasks,
        };
        connection.agree().await?;
        if let Some(login) = &manner.login {
            connection.log_in(login).await?;
        }
        Ok(connection)
    }

    /// Whether it can take no more requests.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Asks which versions the broker speaks.
    async fn agree(&mut self) -> Result<(), WireError> {
        // Version 0 is understood by every broker there is.
        let answer = self.call_version(&ApiVersionsRequest::default(), 0, self.connect_timeout).await?;
        self.versions = answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(())
    }

    async fn log_in(&self, login: &Login) -> Result<(), WireError> {
        let refused = |cause: String| WireError::Login {
            address: self.address.to_string(),
            mechanism: login.mechanism().to_owned(),
            cause,
        };
        let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(login.mechanism()));
        let answer = self.call_version(&request, 1, self.connect_timeout).await?;
        if answer.error_code != 0 {
            let known: Vec<&str> = answer.mechanisms.iter().map(StrBytes::as_str).collect();
            return Err(refused(format!("the broker offers {}", known.join(", "))));
        }
        let mut talk = Talk::begin(login).map_err(|e| refused(e.to_string()))?;
        let mut message = talk.first();
        loop {
            let request = SaslAuthenticateRequest::default().with_auth_bytes(message);
            let version = self.version::<SaslAuthenticateRequest>(0, 1)?;
            let answer = self.call_version(&request, version, self.connect_timeout).await?;
            if answer.error_code != 0 {
                let said = answer.error_message.as_ref().map_or("", |text| text.as_str());
                return Err(refused(said.to_owned()));
            }
            match talk.next(&answer.auth_bytes).map_err(&refused)? {
                Some(next) => message = next,
                None => return Ok(()),
            }
        }
    }

    /// The newest version within bounds that both sides speak.
    pub fn version<R: Request>(&self, min: i16, max: i16) -> Result<i16, WireError> {
        let spoken = self.versions.get(&R::KEY).map(|(low, high)| (min.max(*low), max.min(*high)));
        match spoken {
            Some((low, high)) if low <= high => Ok(high),
            _ => Err(WireError::Version { address: self.address.to_string(), api: R::KEY }),
        }
    }

    /// Sends a request at the newest version within `min..=max` and waits for the answer.
    pub async fn call<R: Request>(
        &self,
        request: &R,
        (min, max): (i16, i16),
        limit: Duration,
    ) -> Result<R::Response, WireError> {
        let version = self.version::<R>(min, max)?;
        self.call_version(request, version, limit).await
    }

    /// The same with a request whose fields depend on the version: one that a version lacks can't be sent.
    pub async fn call_as<R: Request>(
        &self,
        request: impl Fn(i16) -> R,
        (min, max): (i16, i16),
        limit: Duration,
    ) -> Result<R::Response, WireError> {
        let version = self.version::<R>(min, max)?;
        self.call_version(&request(version), version, limit).await
    }

    /// Sends a request at a version that the broker speaks and waits for the answer.
    pub async fn call_version<R: Request>(
        &self,
        request: &R,
        version: i16,
        limit: Duration,
    ) -> Result<R::Response, WireError> {
        let unreadable = |cause: String| WireError::Answer { address: self.address.to_string(), cause };
        let lost = || WireError::Lost { address: self.address.to_string() };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        let frame = frame(request, version, id, &self.client_id).map_err(unreadable)?;
        let (give, answer) = oneshot::channel();
        let talk = async {
            self.outgoing.send((frame, (id, give))).await.map_err(|_| lost())?;
            answer.await.map_err(|_| lost())
        };
        let Ok(answer) = tokio::time::timeout(limit, talk).await else {
            // The answer may still come, but nobody knows when: what stands behind it would wait too.
            self.broken.store(true, Ordering::Release);
            return Err(WireError::Late { address: self.address.to_string(), seconds: limit.as_secs() });
        };
        let mut answer = answer?;
        let header = <R::Response as HeaderVersion>::header_version(version);
        ResponseHeader::decode(&mut answer, header).map_err(|e| unreadable(e.to_string()))?;
        protocol::Decodable::decode(&mut answer, version).map_err(|e| unreadable(e.to_string()))
    }
}

/// Length, header and request.
fn frame<R: Request>(request: &R, version: i16, id: i32, client: &StrBytes) -> Result<Bytes, String> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(id)
        .with_client_id(Some(client.clone()));
    let key = ApiKey::try_from(R::KEY).map_err(|()| "unknown API".to_owned())?;
    let header_version = key.request_header_version(version);
    let size = header.compute_size(header_version).and_then(|a| Ok(a + request.compute_size(version)?));
    let size = size.map_err(|e| e.to_string())?;
    let mut out = BytesMut::with_capacity(4 + size);
    out.extend_from_slice(&u32::try_from(size).map_err(|e| e.to_string())?.to_be_bytes());
    header.encode(&mut out, header_version).map_err(|e| e.to_string())?;
    request.encode(&mut out, version).map_err(|e| e.to_string())?;
    Ok(out.freeze())
}

/// Writes frames in their order until the connection or its owner ends.
async fn write(
    mut stream: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<(Bytes, Waiting)>,
    sent: mpsc::Sender<Waiting>,
) {
    while let Some((frame, waiting)) = queue.recv().await {
        // Told to the reader first: the answer may come before the write returns.
        if sent.send(waiting).await.is_err() || stream.write_all(&frame).await.is_err() || stream.flush().await.is_err()
        {
            return;
        }
    }
}

/// Reads answers and gives each to who asked: Kafka answers in the order of the requests.
///
/// It also listens while nothing is asked: a connection that the broker closes meanwhile takes no more requests, and the next
/// one goes out on a fresh connection.
async fn read(mut stream: impl AsyncRead + Unpin, mut waiting: mpsc::Receiver<Waiting>) -> Result<(), String> {
    loop {
        let (mut length, mut first) = ([0; 4], [0; 1]);
        let next = tokio::select! {
            biased;
            next = waiting.recv() => next.map(|next| (next, 0)),
            came = stream.read(&mut first) => match came.map_err(|e| e.to_string())? {
                0 => return Err("closed by the broker while it was idle".to_owned()),
                // The answer was faster than the word of its request.
                _ => waiting.recv().await.map(|next| (next, 1)),
            },
        };
        let Some(((id, give), have)) = next else { return Ok(()) };
        length[0] = first[0];
        let rest = length.get_mut(have..).unwrap_or_default();
        stream.read_exact(rest).await.map_err(|e| e.to_string())?;
        let length = i32::from_be_bytes(length);
        let length = usize::try_from(length).ok().filter(|n| (4..=MAX_ANSWER).contains(n));
        let length = length.ok_or_else(|| "answer of an invalid length".to_owned())?;
        // As it comes: a length that lies costs little memory.
        let mut answer = BytesMut::with_capacity(length.min(ROOM));
        while answer.len() < length {
            let missing = (length - answer.len()) as u64;
            if (&mut stream).take(missing).read_buf(&mut answer).await.map_err(|e| e.to_string())? == 0 {
                return Err("ended in the middle of an answer".to_owned());
            }
        }
        let answer = answer.freeze();
        if answer.clone().get_i32() != id {
            return Err("answer to another request".to_owned());
        }
        // Nobody may wait any more.
        drop(give.send(answer));
    }
}

/// The code of an answer as a result.
pub(crate) fn checked(code: i16, message: Option<&str>) -> Result<(), WireError> {
    match Code::try_from_code(code) {
        None => Ok(()),
        Some(code) => Err(WireError::refused(code, message)),
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::messages::{ApiVersionsResponse, MetadataRequest, MetadataResponse, ResponseHeader};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers so many requests on one connection, then closes it.
    async fn answer(listener: &TcpListener, requests: usize) {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..requests {
            answer_one(&mut stream).await;
        }
    }

    async fn answer_one(stream: &mut TcpStream) {
        let length = stream.read_i32().await.unwrap();
        let mut request = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut request).await.unwrap();
        let (key, id) = (i16::from_be_bytes([request[0], request[1]]), &request[4..8]);
        let mut out = BytesMut::new();
        let header = ResponseHeader::default().with_correlation_id(i32::from_be_bytes(id.try_into().unwrap()));
        header.encode(&mut out, 0).unwrap();
        if key == ApiVersionsRequest::KEY {
            let metadata = ApiVersion::default().with_api_key(MetadataRequest::KEY);
            let metadata = metadata.with_min_version(4).with_max_version(8);
            ApiVersionsResponse::default().with_api_keys(vec![metadata]).encode(&mut out, 0).unwrap();
        } else {
            MetadataResponse::default().encode(&mut out, 8).unwrap();
        }
        stream.write_all(&u32::try_from(out.len()).unwrap().to_be_bytes()).await.unwrap();
        stream.write_all(&out).await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_is_made_anew_without_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cluster = crate::native::cluster::Cluster::new(&[address], Manner::default());
        let broker = async {
            // Closed when the versions are agreed on; then after one answer; the last one answers too.
            for requests in [1, 2, 2] {
                answer(&listener, requests).await;
            }
        };
        let client = async {
            let idle = cluster.any().await.unwrap();
            tokio::time::timeout(Duration::from_secs(30), async {
                while !idle.is_broken() {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .expect("the end of an idle connection is seen without a request");
            for _ in 0..2 {
                cluster.metadata(&["t"]).await.unwrap();
            }
        };
        tokio::join!(broker, client);
    }

    #[tokio::test]
    async fn a_connection_that_ends_at_a_question_is_one_repeat() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cluster = crate::native::cluster::Cluster::new(&[address], Manner::default());
        let broker = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            answer_one(&mut stream).await;
            // The request is taken, and the connection closed instead of an answer.
            let length = stream.read_i32().await.unwrap();
            stream.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await.unwrap();
            drop(stream);
            answer(&listener, 2).await;
        };
        let client = async { cluster.metadata(&["t"]).await.unwrap() };
        let ((), found) = tokio::join!(broker, client);
        assert!(found.is_empty());
    }
}
