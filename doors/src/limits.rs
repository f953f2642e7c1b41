//! Limits of requests: how large bodies may be, how fast they must come, and how many requests are answered at once.
//!
//! In: requests. Out: the same with a body that ends in an error where a limit is broken, and a [`Ticket`] that says
//! afterwards whether the client was too slow. Touches the clock.
//!
//! A request counts among those that are answered at once when its body has come as a whole: slow senders take no place
//! of others.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{LengthLimitError, Limited};
use hyper::body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use crate::config::RequestLimits;
use crate::refusal::Refusal;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// A body that did not come in time.
#[derive(Debug, Clone, thiserror::Error)]
#[error("request body timed out{key}")]
pub struct TooSlow {
    key: String,
}

impl From<TooSlow> for Refusal {
    fn from(error: TooSlow) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, error.to_string())
    }
}

/// 413, with the key of the limit.
pub fn too_large(found: u64, limit: u64, key: &str) -> Refusal {
    let text = format!("body has {found} bytes or more, {limit} are allowed ({key})");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// The refusal for a body that can't be read to its end.
pub fn body_refusal(error: &(dyn std::error::Error + 'static), limit: u64, key: &str) -> Refusal {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(slow) = error.downcast_ref::<TooSlow>() {
            return slow.clone().into();
        }
        if error.is::<LengthLimitError>() {
            return too_large(limit.saturating_add(1), limit, key);
        }
        cause = error.source();
    }
    Refusal::bad(format!("body can't be read: {error}"))
}

/// Limits of a listener's requests.
#[derive(Debug, Clone)]
pub struct Limits {
    config: Arc<RequestLimits>,
    places: Arc<Semaphore>,
}

/// A request's place among those that are answered at once; given back when this is dropped.
#[derive(Debug, Clone, Default)]
pub struct Ticket {
    place: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    is_slow: Arc<AtomicBool>,
}

impl Limits {
    /// With all places free.
    pub fn new(config: RequestLimits) -> Self {
        let places = Arc::new(Semaphore::new(config.max_concurrent.clamp(1, Semaphore::MAX_PERMITS)));
        Self { config: Arc::new(config), places }
    }

    /// Bytes of a body at most.
    pub fn max_body(&self) -> u64 {
        self.config.max_body
    }

    /// Puts the limits around a body. Waits for a place if there is none. Probes need no place.
    pub async fn admit(&self, body: Body, is_probe: bool) -> Result<(Body, Ticket), Refusal> {
        let config = &self.config;
        if let Some(found) = body.size_hint().exact().filter(|found| *found > config.max_body) {
            return Err(too_large(found, config.max_body, config.max_body_key));
        }
        let ticket = Ticket::default();
        if is_probe {
            return Ok((body, ticket));
        }
        if body.is_end_stream() {
            let place = self.place().await;
            *ticket.place.lock() = place;
            return Ok((body, ticket));
        }
        let max = usize::try_from(config.max_body).unwrap_or(usize::MAX);
        let limited = LimitedBody {
            body: Limited::new(body, max),
            limits: self.clone(),
            ticket: ticket.clone(),
            arrived: 0,
            waited: Duration::ZERO,
            waiting: None,
            placing: None,
            is_whole: false,
        };
        Ok((Body::new(limited), ticket))
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    fn too_slow(&self) -> TooSlow {
        let key = self.config.body_wait_key;
        TooSlow { key: if key.is_empty() { String::new() } else { format!(" ({key})") } }
    }
}

impl Ticket {
    /// The refusal for a client whose body did not come in time.
    pub fn refusal(&self, limits: &Limits) -> Option<Refusal> {
        self.is_slow.load(Ordering::Relaxed).then(|| limits.too_slow().into())
    }
}

/// A body within limits.
struct LimitedBody {
    body: Limited<Body>,
    limits: Limits,
    ticket: Ticket,
    arrived: u64,
    /// How long it was waited for, before the present wait.
    waited: Duration,
    /// The present wait: since when, and its end.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
    placing: Option<Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>>,
    is_whole: bool,
}

impl LimitedBody {
    /// How long it may be waited for in all.
    fn allowed(&self) -> Duration {
        let config = &self.limits.config;
        let earned = self.arrived.checked_div(config.body_rate).unwrap_or(0);
        config.body_wait.saturating_add(Duration::from_secs(earned))
    }

    fn poll_slow(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let left = self.allowed().saturating_sub(self.waited);
        let (_, end) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
        ready!(end.as_mut().poll(cx));
        self.ticket.is_slow.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err(self.limits.too_slow().into())))
    }

    fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_whole {
            let limits = self.limits.clone();
            let placing = self.placing.get_or_insert_with(|| Box::pin(async move { limits.place().await }));
            let place = ready!(placing.as_mut().poll(cx));
            *self.ticket.place.lock() = place;
            (self.placing, self.is_whole) = (None, true);
        }
        Poll::Ready(())
    }
}

impl hyper::body::Body for LimitedBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        if this.placing.is_none() && !this.is_whole {
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else { return this.poll_slow(cx) };
            if let Some((since, _)) = this.waiting.take() {
                this.waited += since.elapsed();
            }
            match frame {
                Some(Ok(frame)) => {
                    this.arrived += frame.data_ref().map_or(0, |data| data.len() as u64);
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {}
            }
        }
        ready!(this.poll_place(cx));
        Poll::Ready(None)
    }

    /// Not before it has its place.
    fn is_end_stream(&self) -> bool {
        self.is_whole
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
