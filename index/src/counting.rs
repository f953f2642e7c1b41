//! A partial aggregate over recent events and splits: each is counted by itself on a thread that may block, several at a time,
//! then merged.
//!
//! In: a plan, a view of what is searchable. Out: the merged [`Partial`]. Touches splits, for reading. Here is where summaries
//! of whole splits and blocks would be taken before their columns.

use std::sync::Arc;

use futures::StreamExt as _;
use millrace_log::record::{DocIdentity, Position, SourceId};

use crate::head::{self, Chunk};
use crate::live::{LiveSplit, Snapshot};
use crate::readers::{Readers, failed};
use crate::scan::{self, Aggregation, OverBudget, Partial, Plan, StorageError, StreamGroups};
use crate::split::CountError;

/// What a part adds up to; `None`: a row needs more than counting.
type Counted = Result<Option<Partial>, StorageError>;

/// A part of the index.
enum Part {
    Head(Vec<Arc<Chunk>>),
    Split(Arc<LiveSplit>),
}

/// What the rows of a plan add up to.
pub(crate) async fn aggregate(
    readers: &Arc<Readers>,
    mut plan: Plan,
    snapshot: Snapshot,
    aggregation: Arc<Aggregation>,
) -> Counted {
    plan.budget = plan.budget.part();
    let _stop = plan.budget.guard();
    let Snapshot { chunks, splits, change } = snapshot;
    let budget = plan.budget.clone();
    let plan = Arc::new(plan);
    let mut all = Partial::new(Arc::clone(&aggregation), &budget)?;
    let head = (!chunks.is_empty()).then_some(Part::Head(chunks));
    let parts = head.into_iter().chain(splits.into_iter().map(Part::Split));
    let mut counted = futures::stream::iter(parts)
        .map(|part| {
            let (on, plan, aggregation) = (Arc::clone(readers), Arc::clone(&plan), Arc::clone(&aggregation));
            readers.run(&budget, move || count(&on, &plan, change, aggregation, part))
        })
        .buffer_unordered(readers.read_ahead(&budget));
    while let Some(part) = budget.within(counted.next()).await? {
        let Some(part) = part? else { return Ok(None) };
        all.merge(part)?;
    }
    Ok(Some(all))
}

/// Why a chunk was not counted to its end.
enum Ended {
    NeedsRows,
    Failed(StorageError),
}

impl From<OverBudget> for Ended {
    fn from(over: OverBudget) -> Self {
        Self::Failed(over.into())
    }
}

/// Counts one part. Blocking.
fn count(readers: &Readers, plan: &Plan, change: u64, aggregation: Arc<Aggregation>, part: Part) -> Counted {
    let mut partial = Partial::new(aggregation, &plan.budget)?;
    let live = |doc: &DocIdentity, source: SourceId, position: Position| {
        let live = readers.docs.is_live(&plan.tenant, doc, source, position, change);
        live.map_err(|error| failed("the list of documents", error))
    };
    let mut read = 0;
    let ended = match part {
        Part::Head(chunks) => {
            let mut groups = (u32::MAX, StreamGroups::default());
            head::each_row(&chunks, plan, &mut read, |(chunk, _), batch, row| {
                if chunk != groups.0 {
                    groups = (chunk, StreamGroups::default());
                }
                if let Some(doc) = &row.doc
                    && !live(doc, row.source, row.position).map_err(Ended::Failed)?
                {
                    return Ok(());
                }
                if scan::count(&mut partial, &mut groups.1, batch, row)? { Ok(()) } else { Err(Ended::NeedsRows) }
            })
        }
        Part::Split(split) => {
            let counted = readers
                .reader(&split)
                .map_err(CountError::Split)
                .and_then(|reader| reader.count(plan, &mut partial, &mut read, live));
            match counted {
                Ok(()) => Ok(()),
                Err(CountError::NeedsRows) => Err(Ended::NeedsRows),
                Err(CountError::Split(error)) => Err(Ended::Failed(readers.fault(&split, error))),
                Err(CountError::Documents(error)) => Err(Ended::Failed(error)),
            }
        }
    };
    readers.metrics.query_bytes.inc_by(read);
    match ended {
        Ok(()) => Ok(Some(partial)),
        Err(Ended::NeedsRows) => Ok(None),
        Err(Ended::Failed(error)) => Err(error),
    }
}
