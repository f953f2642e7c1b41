//! Access rules and salted passwords on disk: `access.json` in the data folder.
//!
//! In: changes. Out: what is kept. Touches one file through the file-system seam: each change writes a new file, syncs
//! it and puts it in the place of the old one, so that after a crash the one or the other is there, whole. A file that
//! can't be read stops the start: going on without it would open every door.
//!
//! Layout: one JSON object `{"version": 1, "rules": [...], "scram": {user: {mechanism: {...}}}}`; a newer version is
//! refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::protocol::access::acl::Binding;
use crate::protocol::access::scram::Credential;
use crate::protocol::config::listener::Mechanism;
use crate::protocol::error::BrokerError;
use crate::protocol::state_file::{read, replace};
use millrace_log::fs::Filesystem;

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptCredential {
    salt: String,
    stored_key: String,
    server_key: String,
    iterations: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    rules: BTreeSet<Binding>,
    scram: BTreeMap<String, BTreeMap<Mechanism, KeptCredential>>,
}

/// Salted passwords by user and mechanism.
pub(crate) type Scram = BTreeMap<String, BTreeMap<Mechanism, Credential>>;

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub rules: BTreeSet<Binding>,
    pub scram: Scram,
}

impl Kept {
    fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        let kept = |c: &Credential| KeptCredential {
            salt: BASE64.encode(&c.salt),
            stored_key: BASE64.encode(&c.stored_key),
            server_key: BASE64.encode(&c.server_key),
            iterations: c.iterations,
        };
        let scram = self.scram.iter();
        let scram = scram.map(|(user, list)| (user.clone(), list.iter().map(|(m, c)| (*m, kept(c))).collect()));
        serde_json::to_vec(&File { version: VERSION, rules: self.rules.clone(), scram: scram.collect() })
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if file.version != VERSION {
            return Err(format!("it has version {}, this millrace knows {VERSION}", file.version));
        }
        let decode = |text: &str| BASE64.decode(text).map_err(|e| format!("a key is not valid base64: {e}"));
        let mut scram = Scram::new();
        for (user, list) in file.scram {
            for (mechanism, c) in list {
                let credential = Credential {
                    salt: decode(&c.salt)?,
                    stored_key: decode(&c.stored_key)?,
                    server_key: decode(&c.server_key)?,
                    iterations: c.iterations,
                };
                scram.entry(user.clone()).or_default().insert(mechanism, credential);
            }
        }
        Ok(Self { rules: file.rules, scram })
    }
}

/// The file.
pub(crate) struct Store {
    fs: Arc<dyn Filesystem>,
    path: PathBuf,
}

impl Store {
    /// Reads the file; where there is none, nothing is kept yet. Blocks.
    pub fn open(fs: Arc<dyn Filesystem>, dir: &Path) -> Result<(Self, Kept), BrokerError> {
        let path = dir.join("access.json");
        let fault = |reason: String| BrokerError::State { path: path.clone(), what: "read", reason };
        let kept = match read(&*fs, &path) {
            Ok(bytes) => Kept::read(&bytes).map_err(|e| {
                fault(format!("{e}; restore it from a backup, or move it away and create the rules again"))
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(e) => return Err(fault(e.to_string())),
        };
        Ok((Self { fs, path }, kept))
    }

    /// Puts a new state in the place of the old one, durably. Blocks.
    pub fn replace(&self, kept: &Kept) -> Result<(), BrokerError> {
        let fault = |reason: String| BrokerError::State { path: self.path.clone(), what: "written", reason };
        let bytes = kept.write().map_err(|e| fault(e.to_string()))?;
        replace(&*self.fs, &self.path, &bytes).map_err(|e| fault(e.to_string()))
    }
}
