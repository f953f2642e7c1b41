//! Counts of what endpoints refuse.
//!
//! In: refusals. Out: metrics for a registry. Touches nothing.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which endpoint, and how it answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refused {
    /// Name of the listener.
    pub listener: String,
    /// Status of the answer.
    pub status: u16,
}

/// Which endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Of {
    /// Name of the listener.
    pub listener: String,
}

/// Which token.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfToken {
    /// Its name.
    pub token: String,
}

/// Counts of all listeners. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct HttpMetrics {
    /// Requests that were refused before they reached an API, by status.
    pub refused: Family<Refused, Counter>,
    /// Logins that failed.
    pub failed_logins: Family<Of, Counter>,
    /// When tokens expire, seconds since 1970.
    pub token_ends: Family<OfToken, Gauge>,
    /// 1 while the login provider can't be asked.
    pub oidc_failing: Gauge,
    /// Times that the login provider could not be asked.
    pub oidc_failures: Counter,
}

impl HttpMetrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "millrace_http_refused_requests",
            "Requests refused before they reached an API: no login, wrong role or tenant, too large, too slow",
            self.refused.clone(),
        );
        registry.register("millrace_http_failed_logins", "Failed logins", self.failed_logins.clone());
        registry.register(
            "millrace_http_token_expiry_timestamp_seconds",
            "When a token expires, seconds since 1970; tokens that do not expire are left out",
            self.token_ends.clone(),
        );
        registry.register(
            "millrace_http_oidc_failing",
            "1 while description and keys of the login provider can't be fetched, otherwise 0",
            self.oidc_failing.clone(),
        );
        registry.register(
            "millrace_http_oidc_fetch_failures",
            "Failed fetches of the login provider's description and keys",
            self.oidc_failures.clone(),
        );
    }

    /// Takes over when tokens expire, ms since 1970.
    pub(crate) fn expire_tokens<'t>(&self, ends: impl Iterator<Item = (&'t str, i64)>) {
        self.token_ends.clear();
        for (token, end_ms) in ends {
            self.token_ends.get_or_create(&OfToken { token: token.to_owned() }).set(end_ms.div_euclid(1000));
        }
    }

    /// Counts a refused request.
    pub fn refused(&self, listener: &str, status: u16) {
        self.refused.get_or_create(&Refused { listener: listener.to_owned(), status }).inc();
    }
}
