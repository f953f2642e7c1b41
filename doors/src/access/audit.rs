//! Audit events: who logged in, was refused, deleted or changed something.
//!
//! In: nothing. Out: [`AuditEvent`]s, for the [`Audit`] of the process; what differs between two lists of logins.
//! Touches nothing: the binary writes the events to the log.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Characters of what clients choose: names and paths.
const MAX_TEXT: usize = 500;

/// Something that those who look after a process want to see later. Empty fields: unknown, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditEvent {
    /// What happened, e.g. `login` or `login_failed`.
    pub event: &'static str,
    /// Who did it.
    pub user: String,
    /// From where.
    pub address: Option<IpAddr>,
    /// By which listener.
    pub listener: String,
    /// Whose data it was about.
    pub tenant: String,
    /// What exactly, in words for people.
    pub detail: String,
}

impl AuditEvent {
    /// Somebody logged in.
    pub const LOGIN: &'static str = "login";
    /// A login failed.
    pub const LOGIN_FAILED: &'static str = "login_failed";
    /// A session was ended.
    pub const LOGOUT: &'static str = "logout";
    /// A request was refused with 403.
    pub const ACCESS_DENIED: &'static str = "access_denied";
    /// A token, user or certificate was added, changed or removed.
    pub const TOKEN: &'static str = "token";
    /// Something was deleted.
    pub const DELETE: &'static str = "delete";
    /// An alert was silenced or acknowledged, or that was ended.
    pub const SILENCE: &'static str = "silence";
    /// An administrator changed something else.
    pub const ADMIN: &'static str = "admin";
    /// The configuration was read again.
    pub const RELOAD: &'static str = "reload";
    /// Dead letters were sent again.
    pub const REPLAY: &'static str = "replay";

    /// Whether anybody can cause such events, without a login, as often as they like.
    pub fn is_cheap(&self) -> bool {
        matches!(self.event, Self::LOGIN_FAILED | Self::ACCESS_DENIED)
    }

    /// With what clients chose shortened.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        for text in [&mut self.user, &mut self.tenant, &mut self.detail] {
            if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
                text.truncate(at);
                text.push('…');
            }
        }
        self
    }
}

/// Where [`AuditEvent`]s go.
pub trait Audit: Send + Sync + 'static {
    /// Takes one; never waits.
    fn note(&self, event: AuditEvent);
}

/// What differs between two lists of logins: names with all that makes them.
pub(super) fn changes(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let added = after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("{name} added"));
    let removed = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("{name} removed"));
    let is_changed = |(name, value): &(&String, &String)| after.get(*name).is_some_and(|other| other != *value);
    let changed = before.iter().filter(is_changed).map(|(name, _)| format!("{name} changed"));
    added.chain(removed).chain(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_logins_are_compared_by_name_and_content() {
        let list = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        for (before, after, want) in [
            (list(&[]), list(&[("token `a`", "1")]), vec!["token `a` added"]),
            (list(&[("token `a`", "1")]), list(&[]), vec!["token `a` removed"]),
            (list(&[("a", "1"), ("b", "1")]), list(&[("a", "1"), ("b", "2")]), vec!["b changed"]),
            (list(&[("a", "1")]), list(&[("a", "1")]), vec![]),
        ] {
            assert_eq!(changes(&before, &after), want);
        }
    }

    #[test]
    fn what_clients_choose_is_shortened() {
        let event = AuditEvent { user: "é".repeat(MAX_TEXT + 1), detail: "x".to_owned(), ..AuditEvent::default() };
        let event = event.bounded();
        assert_eq!((event.user.chars().count(), event.detail.as_str()), (MAX_TEXT + 1, "x"));
        assert!(event.user.ends_with('…'));
    }
}
