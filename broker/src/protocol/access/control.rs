//! Access control: principals, passwords and access rules in force, and their changes by clients.
//!
//! In: the configuration, changes by clients, questions of the handlers. Out: principals, credentials, decisions. Touches
//! one file ([`crate::protocol::access::store`]); a change is durable before it is in force and answered. Which request
//! needs which right is left to the handlers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use ring::hmac;

use crate::protocol::access::acl::{Binding, CLUSTER_NAME, Filter, Kind, Operation, Rules, Verdict};
use crate::protocol::access::scram::{self, Credential};
use crate::protocol::access::store::{self, Kept, Store};
use crate::protocol::config::BrokerConfig;
use crate::protocol::config::listener::Mechanism;
use crate::protocol::error::{BrokerError, Code};
use millrace_log::fs::Filesystem;

/// Most rules kept: bounds memory and the time of a change.
const MAX_RULES: usize = 100_000;
/// Most users with salted passwords.
const MAX_SCRAM_USERS: usize = 100_000;
const ANONYMOUS: &str = "User:ANONYMOUS";

/// Who a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    /// With its kind, e.g. `User:alice`.
    pub name: String,
    is_super: bool,
}

/// What somebody wants to do something with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource<'a> {
    Topic(&'a str),
    Group(&'a str),
    TransactionalId(&'a str),
    Cluster,
}

impl Resource<'_> {
    fn parts(&self) -> (Kind, &str) {
        match self {
            Self::Topic(name) => (Kind::Topic, name),
            Self::Group(name) => (Kind::Group, name),
            Self::TransactionalId(name) => (Kind::TransactionalId, name),
            Self::Cluster => (Kind::Cluster, CLUSTER_NAME),
        }
    }

    /// The code of a refusal.
    const fn refusal(&self) -> Code {
        match self {
            Self::Topic(_) => Code::TopicAuthorizationFailed,
            Self::Group(_) => Code::GroupAuthorizationFailed,
            Self::TransactionalId(_) => Code::TransactionalIdAuthorizationFailed,
            Self::Cluster => Code::ClusterAuthorizationFailed,
        }
    }
}

/// A refusal's text, as clients know it from Kafka.
pub(crate) fn say(code: Code) -> &'static str {
    match code {
        Code::TopicAuthorizationFailed => "Topic authorization failed.",
        Code::GroupAuthorizationFailed => "Group authorization failed.",
        Code::TransactionalIdAuthorizationFailed => "Transactional Id authorization failed.",
        _ => "Cluster authorization failed.",
    }
}

/// A refusal with its text.
pub(crate) fn refused(code: Code) -> (Code, String) {
    (code, say(code).to_owned())
}

/// A user of the configuration. The password itself is not kept.
struct User {
    /// Of the password under [`Access::key`].
    plain: hmac::Tag,
    scram: BTreeMap<Mechanism, Credential>,
}

/// Users, passwords, rules.
pub(crate) struct Access {
    is_enforced: bool,
    allow_without_rules: bool,
    super_users: HashSet<String>,
    users: HashMap<String, User>,
    /// For comparing passwords and for the salts of users that don't exist; new with each start.
    key: hmac::Key,
    rules: RwLock<Rules>,
    /// Goes up with each change of the rules.
    version: AtomicU64,
    scram: RwLock<store::Scram>,
    store: Arc<Store>,
    /// The latest state on disk; held while a change is written, so that changes follow each other.
    kept: tokio::sync::Mutex<Kept>,
    denied: Counter,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Access(enforced: {})", self.is_enforced)
    }
}

impl Access {
    /// Reads what is kept and salts the passwords of the configuration. Blocks.
    pub fn open(
        config: &BrokerConfig,
        fs: Arc<dyn Filesystem>,
        dir: &Path,
        denied: Counter,
    ) -> Result<Self, BrokerError> {
        let (store, kept) = Store::open(fs, dir)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
        let mut users = HashMap::new();
        for user in &config.users {
            let password =
                user.password.reveal().map_err(|source| BrokerError::Password { user: user.name.clone(), source })?;
            let mut scram = BTreeMap::new();
            for mechanism in [Mechanism::Scram256, Mechanism::Scram512] {
                let salt = rand::random::<[u8; 24]>();
                scram.extend(
                    Credential::from_password(mechanism, &password, &salt, scram::ITERATIONS).map(|c| (mechanism, c)),
                );
            }
            users.insert(user.name.clone(), User { plain: hmac::sign(&key, password.as_bytes()), scram });
        }
        Ok(Self {
            is_enforced: config.authorization.enabled,
            allow_without_rules: config.authorization.allow_everyone_if_no_acl,
            super_users: config.authorization.super_users.iter().cloned().collect(),
            users,
            key,
            rules: RwLock::new(Rules::new(kept.rules.clone())),
            version: AtomicU64::new(0),
            scram: RwLock::new(kept.scram.clone()),
            store: Arc::new(store),
            kept: tokio::sync::Mutex::new(kept),
            denied,
        })
    }

    /// Whether rules are enforced.
    pub fn is_enforced(&self) -> bool {
        self.is_enforced
    }

    /// Goes up with each change of the rules: whoever keeps what they allowed asks again then.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Somebody by name with kind, e.g. `User:alice`.
    pub fn principal(&self, name: String) -> Arc<Principal> {
        let is_super = self.super_users.contains(&name);
        Arc::new(Principal { name, is_super })
    }

    /// Somebody who has not said a name.
    pub fn anonymous(&self) -> Arc<Principal> {
        self.principal(ANONYMOUS.to_owned())
    }

    fn decide(&self, who: &Principal, ask: impl FnOnce(&Rules) -> Verdict) -> bool {
        !self.is_enforced
            || who.is_super
            || match ask(&self.rules.read()) {
                Verdict::Allowed => true,
                Verdict::Denied => false,
                Verdict::Silent => self.allow_without_rules,
            }
    }

    /// Whether somebody may do something. Takes no memory; without rules in force one look at a flag.
    pub fn allows(&self, who: &Principal, from: IpAddr, operation: Operation, resource: Resource<'_>) -> bool {
        let (kind, name) = resource.parts();
        self.decide(who, |rules| rules.ask(&who.name, from.to_canonical(), operation, kind, name))
    }

    /// The same with the code of a refusal; counted and logged.
    pub fn allowed(
        &self,
        who: &Principal,
        from: IpAddr,
        operation: Operation,
        resource: Resource<'_>,
    ) -> Result<(), Code> {
        if self.allows(who, from, operation, resource) {
            return Ok(());
        }
        self.denied.inc();
        tracing::debug!(principal = who.name, %from, ?operation, ?resource, "access denied");
        Err(resource.refusal())
    }

    /// Whether somebody may do something with any topic there could be.
    pub fn allows_any_topic(&self, who: &Principal, from: IpAddr, operation: Operation) -> bool {
        self.decide(who, |rules| rules.ask_any(&who.name, from.to_canonical(), operation, Kind::Topic))
    }

    /// What somebody may do with a resource, as bits.
    pub fn operations(&self, who: &Principal, from: IpAddr, resource: Resource<'_>) -> i32 {
        let all = resource.parts().0.operations();
        if !self.is_enforced || who.is_super {
            return all;
        }
        Operation::within(all).filter(|op| self.allows(who, from, *op, resource)).map(Operation::bit).sum()
    }

    /// Rules that a filter means.
    pub fn rules(&self, filter: &Filter) -> Vec<Binding> {
        self.rules.read().bindings().iter().filter(|binding| filter.matches(binding)).cloned().collect()
    }

    async fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> Result<T, BrokerError> {
        let mut kept = self.kept.lock().await;
        let mut next = kept.clone();
        let result = change(&mut next);
        if next == *kept {
            return Ok(result);
        }
        let (store, written) = (Arc::clone(&self.store), next.clone());
        let replaced = tokio::task::spawn_blocking(move || store.replace(&written)).await;
        replaced.map_err(|panic| BrokerError::State {
            path: "access.json".into(),
            what: "written",
            reason: panic.to_string(),
        })??;
        if next.rules != kept.rules {
            let rules = Rules::new(next.rules.clone());
            *self.rules.write() = rules;
            self.version.fetch_add(1, Ordering::Release);
        }
        if next.scram != kept.scram {
            *self.scram.write() = next.scram.clone();
        }
        *kept = next;
        Ok(result)
    }

    /// Adds rules; false if there would be too many.
    pub async fn add_rules(&self, rules: Vec<Binding>) -> Result<bool, BrokerError> {
        self.change(|kept| {
            let fresh = rules.iter().filter(|rule| !kept.rules.contains(rule)).count();
            let fits = kept.rules.len() + fresh <= MAX_RULES;
            if fits {
                kept.rules.extend(rules);
            }
            fits
        })
        .await
    }

    /// Deletes what filters mean; gives it per filter.
    pub async fn delete_rules(&self, filters: &[Filter]) -> Result<Vec<Vec<Binding>>, BrokerError> {
        self.change(|kept| {
            let found: Vec<Vec<Binding>> =
                filters.iter().map(|f| kept.rules.iter().filter(|b| f.matches(b)).cloned().collect()).collect();
            for binding in found.iter().flatten() {
                kept.rules.remove(binding);
            }
            found
        })
        .await
    }

    /// Whether the configuration names a user.
    pub fn is_configured(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// Users with salted passwords: mechanisms with their rounds.
    pub fn scram_users(&self) -> BTreeMap<String, Vec<(Mechanism, u32)>> {
        let rounds = |list: &BTreeMap<Mechanism, Credential>| list.iter().map(|(m, c)| (*m, c.iterations)).collect();
        let kept = self.scram.read();
        let kept = kept.iter().map(|(user, list)| (user.clone(), rounds(list)));
        kept.chain(self.users.iter().map(|(name, user)| (name.clone(), rounds(&user.scram)))).collect()
    }

    /// Whether a user has a salted password that a client made.
    pub fn has_scram(&self, user: &str, mechanism: Mechanism) -> bool {
        self.scram.read().get(user).is_some_and(|list| list.contains_key(&mechanism))
    }

    /// Sets (or with `None` deletes) salted passwords; false if there would be too many users.
    pub async fn alter_scram(
        &self,
        changes: Vec<(String, Mechanism, Option<Credential>)>,
    ) -> Result<bool, BrokerError> {
        self.change(|kept| {
            let before = kept.scram.clone();
            for (user, mechanism, credential) in changes {
                let list = kept.scram.entry(user).or_default();
                match credential {
                    Some(credential) => drop(list.insert(mechanism, credential)),
                    None => drop(list.remove(&mechanism)),
                }
            }
            kept.scram.retain(|_, list| !list.is_empty());
            let fits = kept.scram.len() <= MAX_SCRAM_USERS;
            if !fits {
                kept.scram = before;
            }
            fits
        })
        .await
    }

    /// What is kept of a user's password; for a user that does not exist, something like it and false.
    pub fn credential(&self, user: &str, mechanism: Mechanism) -> (Credential, bool) {
        let configured = self.users.get(user).and_then(|user| user.scram.get(&mechanism)).cloned();
        let found = configured.or_else(|| self.scram.read().get(user)?.get(&mechanism).cloned());
        match found {
            Some(found) => (found, true),
            None => {
                let salt = hmac::sign(&self.key, user.as_bytes());
                let salt = salt.as_ref().get(..24).unwrap_or_default().to_vec();
                let (stored_key, server_key) = (vec![0; 32], vec![0; 32]);
                (Credential { salt, stored_key, server_key, iterations: scram::ITERATIONS }, false)
            }
        }
    }

    /// Whether a password of the configuration is right; takes the same time whether the user exists or not.
    pub fn is_password(&self, user: &str, password: &[u8]) -> bool {
        let known = self.users.get(user);
        let nobody = hmac::sign(&self.key, b"");
        let tag = known.map_or(&nobody, |user| &user.plain);
        hmac::verify(&self.key, password, tag.as_ref()).is_ok() && known.is_some()
    }
}

#[cfg(test)]
mod tests;
