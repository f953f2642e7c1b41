//! The section `access.oidc` as it is in force, with what its files and variables hold.
//!
//! In: settings. Out: the plan, or why it can't be used. Touches the files and variables that it names, once.

use millrace_log::value::{Secret, ValueError};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::config::OidcConfig;
use super::grants::Grants;
use crate::access::hash::EntryDigest;

/// Why a login provider can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The secret can't be read.
    #[error(transparent)]
    Secret(#[from] ValueError),
    /// The file of the certificate authorities can't be read.
    #[error("file `{path}` can't be read: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("file `{path}` can't be used: {reason}")]
    Authorities {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

impl PlanError {
    /// Path of the key below `access`.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Secret(_) => "oidc.client_secret",
            Self::File { .. } | Self::Authorities { .. } => "oidc.ca_file",
        }
    }
}

/// How people log in by a provider.
pub(crate) struct Plan {
    pub(crate) config: OidcConfig,
    /// Empty: a public client.
    pub(super) secret: String,
    /// Certificate authorities, PEM; empty: those of the system.
    pub(super) authorities: Vec<u8>,
    pub(super) grants: Grants,
    /// Audiences of tokens that programs send.
    pub(super) audiences: Vec<String>,
    /// Sessions end when it changes.
    pub(crate) entry: EntryDigest,
}

impl Plan {
    /// Reads secret and authorities. Blocks.
    pub(crate) fn read(config: &OidcConfig) -> Result<Self, PlanError> {
        let secret =
            if config.client_secret == Secret::default() { String::new() } else { config.client_secret.reveal()? };
        let mut authorities = Vec::new();
        if !config.ca_file.is_empty() {
            let path = config.ca_file.clone();
            authorities = std::fs::read(&path).map_err(|source| PlanError::File { path: path.clone(), source })?;
            let failed = |reason: String| PlanError::Authorities { path, reason };
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&authorities).collect();
            match found {
                Ok(found) if found.is_empty() => return Err(failed("it has no certificate".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        let grants = config.grants.iter().map(|grant| format!("{grant:?}"));
        let fields = [&config.issuer, &config.client_id, &config.roles_claim, &config.name_claim].map(Clone::clone);
        let entry: Vec<String> = fields.into_iter().chain(grants).collect();
        Ok(Self {
            config: config.clone(),
            secret,
            authorities,
            grants: Grants::new(&config.grants),
            audiences: config.audiences(),
            entry: EntryDigest::of(entry.iter().map(String::as_str)),
        })
    }
}
