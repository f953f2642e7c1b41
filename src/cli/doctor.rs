//! `millrace doctor`: the ledger of a running process, hop by hop, with what is behind and what is slowest.

use std::time::Duration;

use super::door::DoorFlags;
use super::runtime::block_on;
use super::terminal::print;
use crate::exit::{Code, Failure};

/// Between the two looks that tell how fast the hops are.
const BETWEEN: Duration = Duration::from_secs(1);

/// Asks for the ledger twice and shows it; exit 1 if a hop does not add up, or nobody knows how far it is behind.
pub fn doctor(door: &DoorFlags, json: bool) -> Result<(), Failure> {
    let view = block_on(async {
        let client = door.client()?;
        let first = door.ledger(&client).await?;
        if json {
            print(&format!("{}\n", serde_json::to_string_pretty(&first)?))?;
            return Ok::<_, Failure>(first);
        }
        let began = tokio::time::Instant::now();
        tokio::time::sleep(BETWEEN).await;
        let second = door.ledger(&client).await?;
        print(&second.table(Some((&first, began.elapsed()))))?;
        Ok(second)
    })?;
    match view.hops.iter().find(|hop| !hop.adds_up()) {
        None => match view.unknown() {
            None => Ok(()),
            Some(hops) => {
                let text = format!("how far a stage is behind is not known ({hops}): see above what is in its way");
                Err(Failure::text(Code::Failed, text))
            }
        },
        Some(hop) => Err(Failure::text(
            Code::Failed,
            format!(
                "stage `{}` is not balanced: read {} is not stored {} + dropped {} + waiting {}",
                hop.hop, hop.read, hop.stored, hop.dropped, hop.waiting
            ),
        )),
    }
}
