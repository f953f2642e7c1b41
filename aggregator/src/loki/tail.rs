//! `/tail`: a WebSocket that first sends what was written since `start`, then lines as they become searchable.
//!
//! In: `query` (a log query), `start`, `limit` (entries of the past: the newest so many), `delay_for` (seconds to wait
//! for slower sources before lines are sent in order of time). Out: text frames
//! `{"streams":[…],"dropped_entries":[…]}`. Touches the index only. Leaves stages to `filter`.
//!
//! The subscription starts before the past is scanned, so nothing lies between the two; a line that comes by both ways
//! is told by (source, position) and sent once. A reader that is too slow loses the oldest lines and is told so in
//! `dropped_entries`; a reader that takes nothing for [`SEND_PATIENCE`] is let go.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::Uri;
use axum::response::Response;
use futures::TryStreamExt as _;
use millrace_doors::lasting::LoginWatch;
use millrace_log::record::{Position, SourceId, Tenant};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::LokiError;
use super::json;
use super::params::{DEFAULT_LIMIT, Params, QUERY_SINCE};
use super::query_range::check_limit;
use super::state::{LokiState, Scoped, Whose};
use millrace_index::scan::{Budget, Kind, Order, Plan, RowBatch};

/// Rows through the stages of a query.
mod filter;

use filter::{Filter, TailLine};

/// Longest `delay_for`, seconds.
const MAX_DELAY: u64 = 5;
/// Entries of one frame.
const FRAME_ENTRIES: usize = 500;
/// Lines held back by `delay_for` at most; then the oldest go out early.
const MAX_HELD: usize = 20_000;
/// Batches taken from the subscription before a frame is sent.
const BATCHES_AT_ONCE: usize = 16;
/// How often a sign of life is sent.
const PING_EVERY: Duration = Duration::from_secs(15);
/// How long a client may take no frame.
const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// Batches with more rows are filtered on a blocking thread.
const FILTER_INLINE: usize = 100;

pub(super) async fn tail(
    Scoped(state): Scoped,
    Whose(tenant): Whose,
    uri: Uri,
    login: Option<Extension<LoginWatch>>,
    upgrade: WebSocketUpgrade,
) -> Result<Response, LokiError> {
    let params = Params::new(uri.query().unwrap_or_default(), b"");
    let (start_ns, _) = params.bounds(state.clock.now_ns(), QUERY_SINCE)?;
    let limit = params.limit(DEFAULT_LIMIT)?;
    check_limit(&state, &tenant, limit)?;
    let delay = match params.get("delay_for") {
        "" => 0,
        text => text
            .parse::<u64>()
            .map_err(|_| LokiError::Bad(format!("strconv.Atoi: parsing {text:?}: invalid syntax")))?,
    };
    if delay > MAX_DELAY {
        return Err(LokiError::Bad(format!("delay_for can't be greater than {MAX_DELAY}")));
    }
    let filter = Arc::new(Filter::new(params.get("query"), state.store.confines())?);
    let place = Arc::clone(&state.tails).try_acquire_owned().map_err(|_| {
        LokiError::Busy(
            "as many live tails run as there may be (`aggregator.http.max_tails`): repeat the request later".to_owned(),
        )
    })?;
    let tail = Tail {
        tenant,
        filter,
        start_ns,
        limit,
        delay: Duration::from_secs(delay),
        held: VecDeque::new(),
        sent: HashSet::new(),
        lost: 0,
        last_ns: start_ns,
    };
    Ok(upgrade.on_upgrade(async move |socket| {
        let _place = place;
        tail.serve(socket, state, login.map(|Extension(login)| login)).await;
    }))
}

type TailReceiver = Receiver<Arc<(Tenant, RowBatch)>>;

/// One client.
struct Tail {
    tenant: Tenant,
    filter: Arc<Filter>,
    start_ns: i64,
    limit: usize,
    delay: Duration,
    /// What waits for its time, with the moment at which it goes out.
    held: VecDeque<(Instant, TailLine)>,
    /// What the past had already.
    sent: HashSet<(SourceId, Position)>,
    /// Batches lost since the last frame.
    lost: u64,
    /// Time of the newest line sent, for the report of lost ones.
    last_ns: i64,
}

/// Why a tail ends.
enum End {
    /// The client has gone or takes nothing.
    Gone,
    /// Closed to the client.
    Closed(u16, String),
}

impl Tail {
    async fn serve(mut self, mut socket: WebSocket, state: LokiState, login: Option<LoginWatch>) {
        let cancel = state.queries.shutdown().child_token();
        let _gone = cancel.clone().drop_guard();
        let ended = async {
            match login {
                Some(login) => login.ended().await,
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            followed = self.follow(&mut socket, &state, &cancel) => match followed {
                Ok(()) => return,
                Err(end) => end,
            },
            () = ended => End::Closed(close_code::POLICY, "the login has ended".to_owned()),
        };
        if let End::Closed(code, reason) = end {
            let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
            // Whoever has gone already needs no farewell.
            tokio::time::timeout(SEND_PATIENCE, socket.send(close)).await.ok();
        }
    }

    async fn follow(
        &mut self,
        socket: &mut WebSocket,
        state: &LokiState,
        cancel: &CancellationToken,
    ) -> Result<(), End> {
        let mut live = state.store.subscribe();
        let past = state.run(&self.tenant, |budget| self.past(state, budget)).await;
        let past = past.map_err(|error| End::Closed(close_code::ERROR, clip(&error.to_string())))?;
        self.sent = past.iter().map(|found| found.key).collect();
        self.send(socket, past).await?;
        let mut ping = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        loop {
            let due = self.held.front().map(|(due, _)| *due);
            tokio::select! {
                () = cancel.cancelled() => {
                    return Err(End::Closed(close_code::AWAY, "server is stopping".to_owned()));
                }
                message = socket.recv() => match message {
                    None | Some(Err(_) | Ok(Message::Close(_))) => return Err(End::Gone),
                    Some(Ok(_)) => {}
                },
                batch = live.recv() => {
                    self.take(batch, &mut live).await?;
                    if self.delay.is_zero() {
                        self.flush(socket, Instant::now()).await?;
                    }
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.flush(socket, Instant::now()).await?;
                }
                _ = ping.tick() => send(socket, Message::Ping(Bytes::new())).await?,
            }
        }
    }

    /// The newest lines since `start`, oldest first.
    async fn past(&self, state: &LokiState, budget: Budget) -> Result<Vec<TailLine>, LokiError> {
        let plan = Plan {
            tenant: self.tenant.clone(),
            matchers: self.filter.matchers().to_vec(),
            start_ns: self.start_ns,
            // Also what is dated ahead: the subscription says nothing of lines that were there before.
            end_ns: i64::MAX,
            needles: self.filter.needles(),
            kind: Kind::All,
            order: Order::Backward,
            expect: Some(self.limit),
            budget,
        };
        let mut batches = state.store.scan(plan).await?;
        let mut past = Vec::new();
        while past.len() < self.limit
            && let Some(batch) = batches.try_next().await?
        {
            past.extend(self.filtered(Arc::new((self.tenant.clone(), batch)), None).await);
        }
        past.truncate(self.limit);
        past.reverse();
        Ok(past)
    }

    async fn filtered(
        &self,
        batch: Arc<(Tenant, RowBatch)>,
        without: Option<&HashSet<(SourceId, Position)>>,
    ) -> Vec<TailLine> {
        if batch.0 != self.tenant || !self.filter.wants_any(&batch.1) {
            return Vec::new();
        }
        let mut found = if batch.1.rows.len() <= FILTER_INLINE {
            self.filter.apply(&batch.1)
        } else {
            let filter = Arc::clone(&self.filter);
            tokio::task::spawn_blocking(move || filter.apply(&batch.1)).await.unwrap_or_default()
        };
        if let Some(without) = without {
            found.retain(|f| !without.contains(&f.key));
        }
        found
    }

    /// Takes what has come, without waiting for more.
    async fn take(
        &mut self,
        first: Result<Arc<(Tenant, RowBatch)>, RecvError>,
        live: &mut TailReceiver,
    ) -> Result<(), End> {
        let mut next = first;
        for taken in 1.. {
            match next {
                Ok(batch) => {
                    let found = self.filtered(batch, Some(&self.sent)).await;
                    let due = Instant::now() + self.delay;
                    self.held.extend(found.into_iter().map(|f| (due, f)));
                }
                Err(RecvError::Lagged(batches)) => self.lost += batches,
                Err(RecvError::Closed) => {
                    return Err(End::Closed(close_code::AWAY, "server is stopping".to_owned()));
                }
            }
            if taken == BATCHES_AT_ONCE {
                break;
            }
            next = match live.try_recv() {
                Ok(batch) => Ok(batch),
                Err(TryRecvError::Lagged(batches)) => Err(RecvError::Lagged(batches)),
                // A closed channel is met again by `recv`.
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            };
        }
        Ok(())
    }

    /// Sends what is due, in order of time.
    async fn flush(&mut self, socket: &mut WebSocket, now: Instant) -> Result<(), End> {
        let mut out = Vec::new();
        while self.held.len() > MAX_HELD || self.held.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, found)) = self.held.pop_front() else { break };
            out.push(found);
        }
        out.sort_by_key(|f| f.time_ns);
        self.send(socket, out).await
    }

    async fn send(&mut self, socket: &mut WebSocket, found: Vec<TailLine>) -> Result<(), End> {
        if found.is_empty() && self.lost > 0 {
            let text = self.frame(&[]);
            return send(socket, Message::text(text)).await;
        }
        for part in found.chunks(FRAME_ENTRIES) {
            let text = self.frame(part);
            if let Some(newest) = part.iter().map(|f| f.time_ns).max() {
                self.last_ns = self.last_ns.max(newest);
            }
            send(socket, Message::text(text)).await?;
        }
        Ok(())
    }

    /// Neighbouring entries of equal labels share a stream.
    fn frame(&mut self, found: &[TailLine]) -> String {
        let mut out = String::from(r#"{"streams":["#);
        for (i, run) in found.chunk_by(|a, b| a.labels == b.labels).enumerate() {
            json::comma(&mut out, i);
            out.push_str(r#"{"stream":"#);
            json::labels(&mut out, run.first().map_or(&[][..], |f| &f.labels));
            out.push_str(r#","values":["#);
            for (i, one) in run.iter().enumerate() {
                json::comma(&mut out, i);
                write!(out, r#"["{}","#, one.time_ns).ok();
                json::string(&mut out, &one.line);
                out.push(']');
            }
            out.push_str("]}");
        }
        out.push(']');
        if self.lost > 0 {
            // Which lines they were nobody knows any more: the selector and the newest time sent tell where to look.
            out.push_str(r#","dropped_entries":[{"labels":"#);
            json::string(&mut out, self.filter.selector());
            write!(out, r#","timestamp":"{}"}}]"#, self.last_ns).ok();
            tracing::warn!(batches = self.lost, "a live tail was too slow and lost lines");
            self.lost = 0;
        }
        out.push('}');
        out
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), End> {
    match tokio::time::timeout(SEND_PATIENCE, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Gone),
    }
}

/// A close frame's reason has 123 bytes at most.
fn clip(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() + c.len_utf8() > 123 {
            break;
        }
        out.push(c);
    }
    out
}
