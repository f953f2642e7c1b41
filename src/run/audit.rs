//! Starts what writes audit events to the log.
//!
//! In: the section `access.audit`, the way to the log. Out: a running stage. Touches the log, through its client.

use millrace_doors::access::config::AuditConfig;
use millrace_log::client::ConnectionConfig;

use super::part::Part;
use super::site::Site;
use crate::audit::AuditWriter;
use crate::exit::{Code, Failure};
use crate::stages::{STOP_LIMIT, Stages};

/// Writes the events of the process.
pub fn start(
    config: &AuditConfig,
    connection: ConnectionConfig,
    site: &Site,
    stages: &mut Stages<Part>,
) -> Result<(), Failure> {
    let writer = AuditWriter::new(site.audit.clone(), config.clone(), connection);
    let writer = writer.map_err(|error| Failure::new(Code::Config, error))?;
    site.audit.written(true);
    stages.start(Part::Audit, "audit", STOP_LIMIT, |token| async move {
        writer.run(token).await;
        Ok(())
    });
    Ok(())
}
