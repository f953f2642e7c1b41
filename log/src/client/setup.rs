//! From the configuration to a cluster that can be talked to.
//!
//! In: [`ConnectionConfig`]. Out: a [`Cluster`], or which key is wrong. Touches files of certificates and passwords, once.

use super::error::ClientError;
use crate::kafka::ConnectionConfig;
use crate::native::cluster::Cluster;
use crate::native::connection::Manner;

/// Checks what the connection needs; connects when there is something to ask.
pub(super) fn connect(config: &ConnectionConfig) -> Result<Cluster, ClientError> {
    let manner =
        Manner::of(config).map_err(|fault| ClientError::Connection { key: fault.key, reason: fault.reason })?;
    // Read once, so that a secret that is not there is reported now and not at the first line.
    config.sasl_password.reveal()?;
    Ok(Cluster::new(&config.brokers, manner))
}
