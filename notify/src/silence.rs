//! Silences: what they mute, from when to when, and which changes are allowed.
//!
//! In: silences as people ask for them. Out: silences as they are kept, or Alertmanager's refusal. Touches nothing.

use millrace_log::go;
use millrace_log::record::{SourceId, is_label_name};
use serde::{Deserialize, Serialize};

use crate::matcher::Matcher;

/// Bytes that one silence may have: texts and compiled expressions.
const MAX_BYTES: usize = 4 << 20;
/// Matchers of one silence at most.
pub(crate) const MAX_MATCHERS: usize = 64;

/// Alerts that all matchers match are muted, from the start to before the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// A UUID; empty in a request for a new one.
    pub id: String,
    /// All must match.
    pub matchers: Vec<Matcher>,
    /// When it begins, ns since 1970.
    pub starts_at_ns: i64,
    /// When it is over.
    pub ends_at_ns: i64,
    /// When it was last changed.
    pub updated_at_ns: i64,
    /// Who asked for it, as they say.
    pub created_by: String,
    /// Why.
    pub comment: String,
}

/// Where a silence stands at a time. In the order of lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SilenceState {
    /// It mutes.
    Active,
    /// It has not begun.
    Pending,
    /// It is over.
    Expired,
}

impl SilenceState {
    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Expired => "expired",
        }
    }
}

/// Why a silence is not taken, not found or not changed; in Alertmanager's words where it has some.
#[derive(Debug, thiserror::Error)]
pub enum SilenceError {
    /// No silence has the id.
    #[error("silence not found")]
    NotFound,
    /// It can't mute what it is to mute.
    #[error("{fault}")]
    Invalid {
        /// Why.
        fault: String,
    },
    /// There are as many as there may be.
    #[error(
        "{held} silences are kept, {max} are allowed (`notify.max_silences`, those that are over included): expire some, or allow more"
    )]
    Full {
        /// How many there are.
        held: usize,
        /// How many may be.
        max: usize,
    },
    /// It could not be made durable, and so does not hold.
    #[error("keeping the silence failed, it does not hold: {source}")]
    Store {
        /// The cause.
        #[from]
        source: millrace_log::store::StoreError,
    },
}

impl Silence {
    /// Where it stands.
    pub fn state(&self, now_ns: i64) -> SilenceState {
        if now_ns < self.starts_at_ns {
            SilenceState::Pending
        } else if now_ns < self.ends_at_ns {
            SilenceState::Active
        } else {
            SilenceState::Expired
        }
    }

    /// A new id: a UUID of version 4.
    pub fn new_id() -> String {
        let SourceId(mut bytes) = SourceId::random();
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let hex = |part: &[u8]| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (a, b, c, d, e) = (&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]);
        [a, b, c, d, e].map(hex).join("-")
    }

    /// Approximately the bytes that it holds in memory.
    pub fn weight(&self) -> usize {
        let texts = self.id.len() + self.created_by.len() + self.comment.len() + size_of::<Self>();
        texts + self.matchers.iter().map(Matcher::weight).sum::<usize>()
    }

    /// What Alertmanager refuses, in its words; and what is too large.
    pub fn check(&self, now_ns: i64) -> Result<(), SilenceError> {
        let invalid = |fault: String| Err(SilenceError::Invalid { fault });
        if self.starts_at_ns >= self.ends_at_ns {
            return invalid("Failed to create silence: start time must be before end time".to_owned());
        }
        if self.ends_at_ns < now_ns {
            return invalid("Failed to create silence: end time can't be in the past".to_owned());
        }
        if self.matchers.is_empty() {
            return invalid("silence invalid: at least one matcher required".to_owned());
        }
        if self.matchers.len() > MAX_MATCHERS {
            return invalid(format!(
                "silence invalid: it has {} matchers, {MAX_MATCHERS} are allowed",
                self.matchers.len()
            ));
        }
        for (at, matcher) in self.matchers.iter().enumerate() {
            if !is_label_name(&matcher.name) {
                let name = go::quote(&matcher.name);
                return invalid(format!("silence invalid: invalid label matcher {at}: invalid label name {name}"));
            }
        }
        // What must differ counts as a choice, as in Alertmanager.
        if self.matchers.iter().all(|matcher| matcher.operator.is_equal() && matcher.matches_value("")) {
            return invalid("silence invalid: at least one matcher must not match the empty string".to_owned());
        }
        let weight = self.weight();
        if weight > MAX_BYTES {
            return invalid(format!(
                "silence invalid: it takes about {weight} bytes with its expressions, {MAX_BYTES} are allowed"
            ));
        }
        Ok(())
    }

    /// Whether this one may become the other without a new id.
    pub fn may_become(&self, other: &Self, now_ns: i64) -> bool {
        let seconds = |ns: i64| ns.div_euclid(1_000_000_000);
        self.matchers == other.matchers
            && match self.state(now_ns) {
                SilenceState::Active => {
                    seconds(self.starts_at_ns) == seconds(other.starts_at_ns) && other.ends_at_ns >= now_ns
                }
                SilenceState::Pending => other.starts_at_ns >= now_ns,
                SilenceState::Expired => false,
            }
    }

    /// The same, over now if it was not before.
    #[must_use]
    pub fn expired(&self, now_ns: i64) -> Self {
        let over = Self { ends_at_ns: now_ns, updated_at_ns: now_ns, ..self.clone() };
        match self.state(now_ns) {
            SilenceState::Active => over,
            SilenceState::Pending => Self { starts_at_ns: now_ns, ..over },
            SilenceState::Expired => self.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn silence(starts: i64, ends: i64) -> Silence {
        Silence {
            id: "a".into(),
            matchers: Matcher::parse_list("a=b").unwrap(),
            starts_at_ns: starts * SECOND,
            ends_at_ns: ends * SECOND,
            updated_at_ns: 0,
            created_by: "kim".into(),
            comment: "planned".into(),
        }
    }

    #[test]
    fn changes_in_place_depend_on_the_state() {
        let other = Silence { matchers: Matcher::parse_list("a=c").unwrap(), ..silence(5, 20) };
        for (old, new, now, want) in [
            (silence(5, 20), silence(5, 30), 10, true),
            (silence(5, 20), silence(6, 30), 10, false),
            (silence(5, 20), silence(5, 9), 10, false),
            (silence(5, 20), other, 10, false),
            (silence(15, 20), silence(12, 30), 10, true),
            (silence(15, 20), silence(9, 30), 10, false),
            (silence(5, 8), silence(5, 30), 10, false),
        ] {
            assert_eq!(old.may_become(&new, now * SECOND), want, "{old:?} {new:?}");
        }
        assert_eq!(silence(5, 20).expired(10 * SECOND).ends_at_ns, 10 * SECOND);
        assert_eq!(silence(15, 20).expired(10 * SECOND).state(10 * SECOND), SilenceState::Expired);
        assert_eq!(silence(1, 2).expired(10 * SECOND), silence(1, 2));
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let with = |list: Vec<Matcher>| Silence { matchers: list, ..silence(5, 20) };
        let many = (0..65).map(|n| Matcher::parse(&format!("a{n}=b")).unwrap()).collect();
        let heavy = (0..8).map(|n| Matcher::parse(&format!("a{n}=~\"\\pL{{20}}\"")).unwrap()).collect();
        for (silence, want) in [
            (with(many), "65 matchers"),
            (with(heavy), "bytes with its expressions"),
            (Silence { comment: "x".repeat(5 << 20), ..silence(5, 20) }, "bytes with its expressions"),
        ] {
            let error = silence.check(0).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert!(silence(5, 20).check(0).is_ok());
        let id = Silence::new_id();
        assert!(id.len() == 36 && id.as_bytes()[14] == b'4' && id != Silence::new_id(), "{id}");
    }
}
