//! `millrace doctor`: the ledger of a running process, hop by hop.

use super::{print, runtime};
use crate::exit::{Code, Failure};
use crate::ledger::LedgerView;

/// Asks for the ledger and shows it; exit 1 if a hop does not add up.
pub fn doctor(address: &str, json: bool) -> Result<(), Failure> {
    let url = format!("{}/api/v1/ledger", address.trim_end_matches('/'));
    let view: LedgerView = runtime()?
        .block_on(async { reqwest::get(&url).await?.error_for_status()?.json().await })
        .map_err(|error: reqwest::Error| {
            Failure::new(
                Code::Unavailable,
                anyhow::Error::new(error).context(format!("{url} does not answer: is millrace running there?")),
            )
        })?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&view)?))?;
    } else {
        print(&view.table())?;
    }
    match view.hops.iter().find(|hop| !hop.adds_up()) {
        None => Ok(()),
        Some(hop) => Err(Failure::text(
            Code::Failed,
            format!(
                "hop `{}` does not add up: read {} is not stored {} + dropped {} + waiting {}",
                hop.hop, hop.read, hop.stored, hop.dropped, hop.waiting
            ),
        )),
    }
}
