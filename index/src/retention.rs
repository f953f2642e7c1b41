//! Upkeep of splits: merges small ones, drops old ones, deletes folders that nobody reads any more.
//!
//! In: the splits of the index. Out: fewer, larger or none. Touches `index/tmp` and `index/splits`; runs on one named
//! thread. Leaves publication to `publish`.
//!
//! Merges go by levels: `merge_splits` neighbours in time of one tenant and level become one of the next level, if
//! together they stay below `merge_bytes` and `merge_span`. A replacement is one transaction of the catalog; scans
//! that began before keep the old folders until they end. Nothing is dropped unless `aggregator.retention` says so.
//!
//! A split that the system refuses to read is left out of merges and read again; if that fails for 90 s, it is
//! quarantined until it can be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::record::Tenant;
use millrace_log::value::ByteSize;

use crate::catalog::{Replacement, SplitId, SplitRecord};
use crate::config::{IndexConfig, RetentionConfig};
use crate::docs::DocKey;
use crate::ledger::Amount;
use crate::live::LiveSplit;
use crate::publish::{PublishError, Tools};
use crate::scan::{Budget, Kind, Order, Plan};
use crate::split::{self, SplitError, SplitReader, StoredEvent};

/// Levels beyond which splits are left as they are.
const MAX_LEVEL: u8 = 6;
/// How often a split is read that the system refused to read: a disk may take seconds to refuse.
const LOOK_EVERY_MS: i64 = 30_000;
/// How long a split may be unreadable before queries go on without it: storage across a network may be away for a minute while
/// it changes over, and an error is better then than an answer that lacks events.
const PATIENCE_MS: i64 = 90_000;

/// The upkeep's thread: everything it owns.
pub struct Upkeep {
    tools: Tools,
    config: IndexConfig,
    retention: RetentionConfig,
    /// Splits that went and may still be read.
    leaving: Vec<Arc<LiveSplit>>,
    refused: BTreeMap<SplitId, Refused>,
}

/// A split that could not be read.
struct Refused {
    since_ms: i64,
    next_look_ms: i64,
}

impl std::fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upkeep").field("leaving", &self.leaving.len()).finish_non_exhaustive()
    }
}

impl Upkeep {
    /// Ready to run.
    pub fn new(tools: Tools, config: IndexConfig, retention: RetentionConfig) -> Self {
        Self { tools, config, retention, leaving: Vec::new(), refused: BTreeMap::new() }
    }

    /// Works until cancelled. Blocking. A fault is told and tried again in the next round.
    pub fn run(mut self) {
        while !self.tools.cancel.is_cancelled() {
            if let Err(error) = self.round() {
                self.tools.shared.metrics.upkeep_failures.inc();
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "merging or removing splits failed, trying again"
                );
            }
            let mut waited = Duration::ZERO;
            while waited < self.config.upkeep_interval.0 && !self.tools.cancel.is_cancelled() {
                let step = Duration::from_millis(50);
                std::thread::sleep(step);
                waited += step;
            }
        }
        self.delete_folders();
    }

    /// One look around.
    pub fn round(&mut self) -> Result<(), PublishError> {
        self.read_refused();
        let done = self.expire().and_then(|()| self.merge_all());
        self.delete_folders();
        self.tools.shared.index.tidy();
        done
    }

    /// Reads what the system refused to read before: every file of it, since one may be readable and another not.
    fn read_refused(&mut self) {
        let (index, now_ms) = (&self.tools.shared.index, self.tools.clock.now_ms());
        let splits = index.unreadable();
        self.refused.retain(|id, _| splits.iter().any(|split| split.record.id == *id));
        for split in splits {
            let new = Refused { since_ms: now_ms, next_look_ms: now_ms };
            let refused = self.refused.entry(split.record.id.clone()).or_insert(new);
            if now_ms < refused.next_look_ms {
                continue;
            }
            refused.next_look_ms = now_ms.saturating_add(LOOK_EVERY_MS);
            let read = SplitReader::open(self.tools.folders.fs(), &split.dir).and_then(|reader| reader.verify());
            match read {
                Ok(()) => index.readers().release(&split),
                Err(error) if error.is_refused() && now_ms >= refused.since_ms.saturating_add(PATIENCE_MS) => {
                    index.readers().quarantine(&split, &error);
                }
                Err(error) => drop(index.readers().note_fault(&split, &error)),
            }
        }
    }

    /// Folders of splits that no scan holds any more.
    pub fn delete_folders(&mut self) {
        self.leaving.retain(|split| {
            if Arc::strong_count(split) > 1 {
                return true;
            }
            let removed = self.tools.folders.remove(&split.dir);
            if let Err(error) = &removed {
                tracing::warn!(%error, "folder of a deleted split not removed, trying again; a start removes it too");
            }
            removed.is_err()
        });
    }

    fn replace(&mut self, replacement: Replacement) -> Result<(), PublishError> {
        let tools = &self.tools;
        tools.runtime.block_on(tools.catalog.replace(replacement.clone()))?;
        let Replacement { removed, added, replaced, expired, .. } = replacement;
        let index = &tools.shared.index;
        let added = added.into_iter().map(|record| index.live_split(record)).collect();
        tools.shared.book.removed(replaced, expired);
        let gone = index.replace(&removed, added);
        self.leaving.extend(gone);
        Ok(())
    }

    /// Drops splits by age, then by the sizes of tenants, then by that of all.
    fn expire(&mut self) -> Result<(), PublishError> {
        let mut doomed: Vec<Arc<LiveSplit>> = Vec::new();
        let mut rest = self.tools.shared.index.splits();
        rest.sort_by_key(|s| newest_ns(&s.record));
        let now_ns = self.tools.clock.now_ns();
        let is_old = |split: &LiveSplit| {
            let age = self.retention.age_of(&split.record.meta.tenant)?;
            let age_ns = i64::try_from(age.0.as_nanos()).unwrap_or(i64::MAX);
            Some(newest_ns(&split.record) < now_ns.saturating_sub(age_ns))
        };
        doomed.extend(rest.extract_if(.., |split| is_old(split).unwrap_or(false)));
        for (tenant, own) in &self.retention.tenants {
            let Some(size) = own.size else { continue };
            let is_of = |split: &LiveSplit| split.record.meta.tenant == *tenant;
            let mut sum: u64 = rest.iter().filter(|split| is_of(split)).map(|s| s.record.meta.disk_bytes).sum();
            doomed.extend(rest.extract_if(.., |split| is_of(split) && exceeds(&mut sum, size, split)));
        }
        if let Some(size) = self.retention.size {
            let mut sum: u64 = rest.iter().map(|s| s.record.meta.disk_bytes).sum();
            doomed.extend(rest.extract_if(.., |split| exceeds(&mut sum, size, split)));
        }
        let mut by_tenant: BTreeMap<String, Vec<Arc<LiveSplit>>> = BTreeMap::new();
        for split in doomed {
            by_tenant.entry(split.record.meta.tenant.clone()).or_default().push(split);
        }
        for (tenant, splits) in by_tenant {
            let mut removable = Vec::with_capacity(splits.len());
            for split in splits {
                match self.forget_documents(&tenant, &split) {
                    Ok(()) => removable.push(split),
                    // It goes when it can be read or is quarantined.
                    Err(PublishError::Split(error)) if self.tools.shared.index.readers().note_fault(&split, &error) => {
                    }
                    Err(error) => return Err(error),
                }
            }
            if removable.is_empty() {
                continue;
            }
            let mut expired = Amount::default();
            for meta in removable.iter().map(|s| &s.record.meta) {
                expired += Amount { lines: meta.rows, bytes: meta.raw_bytes };
            }
            let removed: Vec<SplitId> = removable.iter().map(|s| s.record.id.clone()).collect();
            tracing::info!(tenant, splits = removed.len(), lines = expired.lines, "retention removes splits");
            self.tools.shared.metrics.splits_expired.inc_by(removed.len() as u64);
            drop(removable);
            self.replace(Replacement { tenant, removed, expired, ..Replacement::default() })?;
        }
        Ok(())
    }

    fn forget_documents(&self, tenant: &str, split: &LiveSplit) -> Result<(), PublishError> {
        if split.record.meta.documents == 0 || split.is_set_aside() {
            return Ok(());
        }
        let Ok(tenant) = Tenant::new(tenant) else { return Ok(()) };
        let plan = Plan {
            tenant: tenant.clone(),
            matchers: Vec::new(),
            start_ns: i64::MIN,
            end_ns: i64::MAX,
            needles: Vec::new(),
            kind: Kind::Documents,
            order: Order::Any,
            expect: None,
            budget: Budget::unlimited(),
        };
        for batch in self.tools.shared.index.reader(split)?.scan(&plan) {
            let batch = batch?;
            let rows: Vec<_> = batch
                .rows
                .iter()
                .filter_map(|row| Some((DocKey::of(&tenant, row.doc.as_ref()?), row.source, row.position)))
                .collect();
            self.tools.shared.docs.forget(&rows)?;
        }
        Ok(())
    }

    /// Merges while there is something to merge. Gives the first error; one of an input does not stop the others.
    fn merge_all(&mut self) -> Result<(), PublishError> {
        let mut done = Ok(());
        while !self.tools.cancel.is_cancelled()
            && let Some((tenant, inputs)) = self.next_merge()
        {
            let Err(error) = self.merge(&tenant, &inputs) else { continue };
            // The next choice is made without an input that can't be read.
            let goes_on = matches!(&error, PublishError::Split(cause) if self.note_fault(&inputs, cause));
            done = done.and(Err(error));
            if !goes_on {
                break;
            }
        }
        done
    }

    /// Notes what is wrong with the split that an error of merging names. False: none of them is at fault.
    fn note_fault(&self, inputs: &[Arc<LiveSplit>], error: &SplitError) -> bool {
        let is_of = |input: &&Arc<LiveSplit>| error.path().is_some_and(|path| path.starts_with(&input.dir));
        let input = inputs.iter().find(is_of);
        input.is_some_and(|input| self.tools.shared.index.readers().note_fault(input, error))
    }

    fn next_merge(&self) -> Option<(Tenant, Vec<Arc<LiveSplit>>)> {
        let index = &self.tools.shared.index;
        index.tenants().into_iter().find_map(|tenant| {
            let inputs = choose(&self.config, index.splits_of(tenant.as_str()))?;
            Some((tenant, inputs))
        })
    }

    fn merge(&mut self, tenant: &Tenant, inputs: &[Arc<LiveSplit>]) -> Result<(), PublishError> {
        let (shared, folders) = (self.tools.shared.clone(), self.tools.folders.clone());
        let readers: Vec<SplitReader> =
            inputs.iter().map(|input| shared.index.reader(input)).collect::<Result<_, _>>()?;
        let id = SplitId::new(self.tools.clock.now_ms());
        let is_replaced = |event: &StoredEvent| match &event.doc {
            None => false,
            Some(doc) => shared.docs.is_replaced(tenant, doc, event.source, event.position).unwrap_or_else(|error| {
                tracing::warn!(%error, "list of documents can't be read: merging keeps all versions");
                false
            }),
        };
        let merged = split::merge(folders.fs(), &readers, &folders.new_split(&id), is_replaced);
        let kept = merged.map_err(PublishError::from).and_then(|meta| {
            folders.keep(&id)?;
            Ok(meta)
        });
        let meta = match kept {
            Ok(meta) => meta,
            Err(error) => {
                folders.discard(&id);
                return Err(error);
            }
        };
        let mut replaced = Amount::default();
        for input in inputs.iter().map(|s| &s.record.meta) {
            replaced += Amount { lines: input.rows, bytes: input.raw_bytes };
        }
        replaced -= Amount { lines: meta.rows, bytes: meta.raw_bytes };
        let removed: Vec<SplitId> = inputs.iter().map(|s| s.record.id.clone()).collect();
        let level = inputs.iter().map(|s| s.record.level).max().unwrap_or(0).saturating_add(1);
        let published_ms = inputs.iter().map(|s| s.record.published_ms).max().unwrap_or(0);
        tracing::debug!(%tenant, splits = removed.len(), into = %id, rows = meta.rows, level, "merged splits");
        let record = SplitRecord { id: id.clone(), level, published_ms, intervals: Vec::new(), meta };
        // A split without rows (all replaced) is not worth listing.
        let added = if record.meta.rows > 0 { vec![record] } else { Vec::new() };
        let is_empty = added.is_empty();
        let tenant = tenant.to_string();
        let done = self.replace(Replacement { tenant, removed, added, replaced, ..Replacement::default() });
        // After a failed transaction the folder stays: whether the catalog names it is only known at the next start.
        if is_empty && done.is_ok() {
            folders.discard(&id);
        }
        done?;
        self.tools.shared.metrics.merges.inc();
        Ok(())
    }
}

/// Whether splits take more than they may with this one, which then no longer counts.
fn exceeds(sum: &mut u64, size: ByteSize, split: &LiveSplit) -> bool {
    let is_over = *sum > size.0;
    if is_over {
        *sum -= split.record.meta.disk_bytes;
    }
    is_over
}

/// Newest event of a split; events dated ahead count as of their publication, or they would keep it for ever.
fn newest_ns(record: &SplitRecord) -> i64 {
    record.meta.max_time_ns.min(record.published_ms.saturating_mul(1_000_000))
}

/// Neighbours in time of one level that may become one split.
fn choose(config: &IndexConfig, splits: Vec<Arc<LiveSplit>>) -> Option<Vec<Arc<LiveSplit>>> {
    let span_ns = i64::try_from(config.merge_span.0.as_nanos()).unwrap_or(i64::MAX);
    let mut levels: BTreeMap<u8, Vec<Arc<LiveSplit>>> = BTreeMap::new();
    for split in splits {
        if !split.is_set_aside() && !split.is_unreadable() && split.record.level < MAX_LEVEL {
            levels.entry(split.record.level).or_default().push(split);
        }
    }
    for (_, mut level) in levels {
        level.sort_by_key(|s| (s.record.meta.min_time_ns, s.record.id.clone()));
        for run in level.windows(config.merge_splits) {
            let bytes: u64 = run.iter().map(|s| s.record.meta.raw_bytes).sum();
            let start = run.iter().map(|s| s.record.meta.min_time_ns).min().unwrap_or(0);
            let end = run.iter().map(|s| s.record.meta.max_time_ns).max().unwrap_or(0);
            if bytes <= config.merge_bytes.0 && end.saturating_sub(start) <= span_ns {
                return Some(run.to_vec());
            }
        }
    }
    None
}
