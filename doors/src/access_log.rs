//! Access log: one line of level debug for each request, with who asked for what and how it was answered.
//!
//! In: the head of a request before it is answered. Out: a `tracing` event when the answer's head is there. No headers, no
//! query strings, no bodies: secrets stand there. Switched on by `millrace_doors::access_log=debug` in the filter.

use http::request::Parts;
use http::{Method, StatusCode};
use tokio::time::Instant;

use crate::stream::Peer;
use crate::tenant::Whose;

/// A request that is being answered.
#[derive(Debug)]
pub struct AccessEntry {
    /// Only where somebody listens.
    head: Option<(Method, String)>,
    began: Instant,
}

/// Who asked, as far as it was found out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// Name of the client.
    pub user: &'a str,
    /// Tenant of the request, or several.
    pub tenant: Option<&'a Whose>,
}

impl AccessEntry {
    /// At the start of a request.
    pub fn begin(head: &Parts) -> Self {
        let is_on = tracing::enabled!(tracing::Level::DEBUG);
        // Only visible ASCII stands in a path: it was parsed.
        let head = is_on.then(|| (head.method.clone(), head.uri.path().to_owned()));
        Self { head, began: Instant::now() }
    }

    /// When its answer begins.
    pub fn end(self, listener: &str, peer: &Peer, asked: Asked<'_>, status: StatusCode) {
        let Some((method, path)) = self.head else { return };
        tracing::debug!(
            listener,
            peer = %peer.address,
            user = asked.user,
            tenant = asked.tenant.map(tracing::field::display),
            %method,
            path,
            status = status.as_u16(),
            ms = self.began.elapsed().as_millis(),
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use millrace_log::record::Tenant;
    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_say_who_asked_for_what_and_hold_no_secret() {
        let request = http::Request::get("/loki/api/v1/query?query=x&token=s3cret").header("Authorization", "s3cret");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let peer =
            Peer { address: "10.0.0.1:5".parse().unwrap(), certificate: None, is_tls: false, names: Arc::new([]) };
        let written = |level| {
            let lines = Lines::default();
            let out = lines.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_writer(move || out.clone())
                .with_max_level(level)
                .with_ansi(false)
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                let entry = AccessEntry::begin(&head);
                let tenant = Whose::One(Tenant::new("team-a").unwrap());
                entry.end("Loki API", &peer, Asked { user: "grafana", tenant: Some(&tenant) }, StatusCode::OK);
            });
            let bytes = lines.0.lock().clone();
            String::from_utf8(bytes).unwrap()
        };
        let line = written(tracing::Level::DEBUG);
        for part in ["Loki API", "10.0.0.1:5", "grafana", "team-a", "GET", "/loki/api/v1/query", "200"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!line.contains("s3cret") && !line.contains('?'), "{line}");
        assert_eq!(written(tracing::Level::INFO), "");
    }
}
