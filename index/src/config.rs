//! Settings of the index: when splits are cut, merged and dropped, and what one query may cost.
//!
//! In: the parts `index` and `retention` of the section `aggregator:`. Out: typed values with defaults, and faults that types
//! can't say. Touches nothing.

use std::collections::BTreeMap;

use millrace_log::record::Tenant;
use millrace_log::value::{ByteSize, Faults, Span};
use millrace_logql::storage::QueryLimits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Queries at once that a configuration may ask for: each holds a thread for blocking work, of which the runtime has 512, and
/// waits for others.
const MOST_CONCURRENT: usize = 256;
/// Threads for rules that a configuration may ask for: queries need theirs.
const MOST_RULE_THREADS: usize = 64;

/// Retention of the index. Without `age` and `size` nothing is deleted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// A split is deleted when its newest event is older than this. Absent: no limit.
    pub age: Option<Span>,
    /// The oldest splits are deleted when all splits together take more than this on disk. Absent: no limit.
    pub size: Option<ByteSize>,
    /// Retention of single tenants, by name.
    pub tenants: BTreeMap<String, TenantRetention>,
}

/// Retention of one tenant.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantRetention {
    /// A split of the tenant is deleted when its newest event is older than this. Absent: as for all.
    pub age: Option<Span>,
    /// The tenant's oldest splits are deleted when its splits take more than this on disk. Absent: no limit of its own; the one
    /// for all splits together applies as well.
    pub size: Option<ByteSize>,
}

impl RetentionConfig {
    /// Age beyond which a tenant's splits are deleted.
    pub fn age_of(&self, tenant: &str) -> Option<Span> {
        self.tenants.get(tenant).and_then(|own| own.age).or(self.age)
    }

    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        let check_one = |age: Option<Span>, size: Option<ByteSize>, f: &mut Faults| {
            if age.is_some_and(|age| age < Span::secs(60)) {
                f.add("age", "is below a minute: events would go before anyone can ask for them");
            }
            if size.is_some_and(|size| size < ByteSize::mib(1)) {
                f.add("size", "is below 1MiB: events would go before anyone can ask for them");
            }
        };
        check_one(self.age, self.size, faults);
        for (name, own) in &self.tenants {
            faults.within(&format!("tenants.{name}"), |f| check_one(own.age, own.size, f));
        }
        check_tenants(self.tenants.keys(), faults);
    }
}

/// Reports names in `tenants` that no tenant can have.
pub fn check_tenants<'n>(names: impl Iterator<Item = &'n String>, faults: &mut Faults) {
    for name in names {
        if let Err(error) = Tenant::new(name) {
            faults.add(&format!("tenants.{name}"), error.to_string());
        }
    }
}

/// Storage of events, and limits of queries.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// Bytes of lines after which a split is written.
    pub split_bytes: ByteSize,
    /// Age of the oldest event in memory after which a split is written.
    pub split_age: Span,
    /// Bytes of one line at most. Longer lines are cut and marked; longer documents go to the dead letters.
    pub max_line_bytes: ByteSize,
    /// Memory for events that are not yet in a split. When it is used up, reading from the log pauses.
    pub head_bytes: ByteSize,
    /// Number of splits of one tenant and level that are merged into one.
    pub merge_splits: usize,
    /// Maximum bytes of lines in a merged split.
    pub merge_bytes: ByteSize,
    /// Maximum time range of a merged split. Retention deletes whole splits.
    pub merge_span: Span,
    /// Interval of merging and retention.
    pub upkeep_interval: Span,
    /// Time without events after which a source is forgotten: its later events are not recognised as duplicates. Set it to the
    /// topic's retention and a week.
    pub source_idle: Span,
    /// Maximum number of splits that queries keep open.
    pub open_splits: usize,
    /// Number of threads that read splits for queries. 0: one per CPU.
    pub query_threads: usize,
    /// Number of threads that read splits for rules, 64 at most. Queries never use them, so that rules are evaluated in time
    /// whatever is asked for. 0: one for every two CPUs, but at least 2.
    pub rule_threads: usize,
    /// Number of batches that a live tail may lag behind; beyond it, the oldest are dropped.
    pub tail_batches: usize,
    /// Limits of one query.
    pub query: QueryConfig,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            split_bytes: ByteSize::mib(64),
            split_age: Span::secs(30),
            max_line_bytes: ByteSize::mib(8),
            head_bytes: ByteSize::mib(256),
            merge_splits: 8,
            merge_bytes: ByteSize::mib(1024),
            merge_span: Span::secs(24 * 3600),
            upkeep_interval: Span::secs(5),
            source_idle: Span::secs(14 * 24 * 3600),
            open_splits: 256,
            query_threads: 0,
            rule_threads: 0,
            tail_batches: 256,
            query: QueryConfig::default(),
        }
    }
}

impl IndexConfig {
    /// Threads that read splits.
    pub fn threads(&self) -> usize {
        match self.query_threads {
            0 => std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
            n => n,
        }
    }

    /// Threads that read splits for rules.
    pub fn rule_threads(&self) -> usize {
        match self.rule_threads {
            0 => std::thread::available_parallelism().map_or(2, |cpus| (cpus.get() / 2).clamp(2, MOST_RULE_THREADS)),
            n => n,
        }
    }

    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        faults.at_least("split_bytes", self.split_bytes.0, 1024);
        faults.not_zero("split_age", self.split_age);
        if !(1024..=256 << 20).contains(&self.max_line_bytes.0) {
            faults.add("max_line_bytes", format!("is {}: must lie between 1KiB and 256MiB", self.max_line_bytes));
        }
        if self.head_bytes.0 < self.split_bytes.0.saturating_mul(2) {
            faults.add("head_bytes", "must be at least twice `split_bytes`: one part is written while the next fills");
        }
        faults.at_least("merge_splits", self.merge_splits, 2);
        faults.not_zero("merge_span", self.merge_span);
        faults.not_zero("upkeep_interval", self.upkeep_interval);
        faults.not_zero("source_idle", self.source_idle);
        faults.at_least("open_splits", self.open_splits, 1);
        if self.rule_threads > MOST_RULE_THREADS {
            faults.add("rule_threads", format!("is {}: at most {MOST_RULE_THREADS}", self.rule_threads));
        }
        faults.at_least("tail_batches", self.tail_batches, 1);
        faults.within("query", |f| self.query.check(f));
    }
}

/// Limits of one query. A query that would exceed one gets an error that names the limit.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueryConfig {
    /// Maximum duration.
    pub timeout: Span,
    /// Maximum bytes of lines read.
    pub max_bytes_read: ByteSize,
    /// Maximum number of series of a metric query.
    pub max_series: usize,
    /// Maximum number of entries of a log query.
    pub max_entries: usize,
    /// Maximum memory.
    pub max_memory: ByteSize,
    /// Maximum memory of all queries of the APIs and the page together; those of rules are not counted. Beyond it, the
    /// newest large queries are ended with an error; small ones, which hold less than 1/64 of it, are ended last.
    pub max_memory_total: ByteSize,
    /// Maximum number of concurrent queries, 256 at most; others wait.
    pub max_concurrent: usize,
    /// Maximum number of concurrent queries of one tenant. Left out: three quarters of `max_concurrent`, so that other
    /// tenants' queries need not wait for the end of a long one.
    pub max_concurrent_per_tenant: Option<usize>,
    /// Maximum number of queries of one tenant that wait; further ones are refused (429).
    pub max_queued: usize,
    /// Limits of single tenants, by name. Those of `rules.tenant` apply to rules too.
    pub tenants: BTreeMap<String, TenantQueries>,
}

/// Limits of one tenant's queries. Those left out are those of all.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantQueries {
    /// Maximum duration.
    pub timeout: Option<Span>,
    /// Maximum bytes of lines read.
    pub max_bytes_read: Option<ByteSize>,
    /// Maximum number of series of a metric query.
    pub max_series: Option<usize>,
    /// Maximum number of entries of a log query.
    pub max_entries: Option<usize>,
    /// Maximum memory of one query.
    pub max_memory: Option<ByteSize>,
    /// Maximum number of concurrent queries.
    pub max_concurrent: Option<usize>,
}

impl Default for QueryConfig {
    fn default() -> Self {
        let limits = QueryLimits::default();
        Self {
            timeout: Span(limits.timeout),
            max_bytes_read: ByteSize(limits.max_bytes_read),
            max_series: limits.max_series,
            max_entries: limits.max_entries,
            max_memory: ByteSize(limits.max_memory_bytes),
            max_memory_total: ByteSize(2 << 30),
            max_concurrent: 16,
            max_concurrent_per_tenant: None,
            max_queued: 100,
            tenants: BTreeMap::new(),
        }
    }
}

impl QueryConfig {
    /// The same as queries carry it.
    pub fn limits(&self) -> QueryLimits {
        QueryLimits {
            timeout: self.timeout.0,
            max_bytes_read: self.max_bytes_read.0,
            max_series: self.max_series,
            max_entries: self.max_entries,
            max_memory_bytes: self.max_memory.0,
        }
    }

    /// The same of one tenant.
    pub fn limits_of(&self, tenant: &str) -> QueryLimits {
        let all = self.limits();
        let Some(own) = self.tenants.get(tenant) else { return all };
        QueryLimits {
            timeout: own.timeout.map_or(all.timeout, |span| span.0),
            max_bytes_read: own.max_bytes_read.map_or(all.max_bytes_read, |size| size.0),
            max_series: own.max_series.unwrap_or(all.max_series),
            max_entries: own.max_entries.unwrap_or(all.max_entries),
            max_memory_bytes: own.max_memory.map_or(all.max_memory_bytes, |size| size.0),
        }
    }

    /// Path of the setting that the time-out of one tenant is from.
    pub fn timeout_setting_of(&self, tenant: &str) -> String {
        let is_own = self.tenants.get(tenant).is_some_and(|own| own.timeout.is_some());
        let of_tenant = if is_own { format!(".tenants.{tenant}") } else { String::new() };
        format!("aggregator.index.query{of_tenant}.timeout")
    }

    /// The number of concurrent queries that one tenant may have, unless `tenants` says otherwise.
    pub fn per_tenant(&self) -> usize {
        self.max_concurrent_per_tenant.unwrap_or(self.max_concurrent - self.max_concurrent / 4)
    }

    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        let all = TenantQueries {
            timeout: Some(self.timeout),
            max_bytes_read: Some(self.max_bytes_read),
            max_series: Some(self.max_series),
            max_entries: Some(self.max_entries),
            max_memory: Some(self.max_memory),
            max_concurrent: None,
        };
        check_limits(&all, faults);
        if self.max_memory_total < self.max_memory {
            faults
                .add("max_memory_total", "must be at least `max_memory`: one query could use up what there is for all");
        }
        for (name, own) in &self.tenants {
            faults.within(&format!("tenants.{name}"), |f| {
                check_limits(own, f);
                if own.max_memory.is_some_and(|most| most > self.max_memory_total) {
                    let message = "must be at most `max_memory_total`: one query could use up what there is for all";
                    f.add("max_memory", message);
                }
                if own.max_concurrent.is_some_and(|most| !(1..=self.max_concurrent).contains(&most)) {
                    f.add("max_concurrent", "must lie between 1 and the `max_concurrent` of all");
                }
            });
        }
        check_tenants(self.tenants.keys(), faults);
        faults.at_least("max_concurrent", self.max_concurrent, 1);
        faults.at_least("max_queued", self.max_queued, 1);
        if let Some(per_tenant) = self.max_concurrent_per_tenant {
            faults.at_least("max_concurrent_per_tenant", per_tenant, 1);
            if per_tenant > self.max_concurrent {
                faults.add("max_concurrent_per_tenant", "must be `max_concurrent` at most");
            }
        }
        if self.max_concurrent > MOST_CONCURRENT {
            let message = format!("is {}: at most {MOST_CONCURRENT}, each query takes threads", self.max_concurrent);
            faults.add("max_concurrent", message);
        }
    }
}

/// Reports limits that are too low, of those that are set.
fn check_limits(limits: &TenantQueries, faults: &mut Faults) {
    if let Some(timeout) = limits.timeout {
        faults.not_zero("timeout", timeout);
    }
    let numbers = [
        ("max_bytes_read", limits.max_bytes_read.map(|size| size.0), 1),
        ("max_series", limits.max_series.map(|n| n as u64), 1),
        ("max_entries", limits.max_entries.map(|n| n as u64), 1),
        ("max_memory", limits.max_memory.map(|size| size.0), 1 << 20),
    ];
    for (key, found, least) in numbers {
        if let Some(found) = found {
            faults.at_least(key, found, least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_tenants_are_checked_and_stand_over_those_of_all() {
        let queries: QueryConfig = serde_json::from_value(serde_json::json!({
            "timeout": "30s",
            "tenants": {
                "pay": {"timeout": "5s", "max_series": 7, "max_concurrent": 2},
                "odd": {"timeout": "0s", "max_memory": "4GiB", "max_concurrent": 17},
                "a|b": {},
            },
        }))
        .unwrap();
        let (pay, other) = (queries.limits_of("pay"), queries.limits_of("other"));
        assert_eq!((pay.timeout.as_secs(), pay.max_series, pay.max_entries), (5, 7, 5000));
        assert_eq!((other.timeout.as_secs(), other.max_series), (30, 500));
        assert_eq!(queries.timeout_setting_of("pay"), "aggregator.index.query.tenants.pay.timeout");
        for tenant in ["a|b", "other"] {
            assert_eq!(queries.timeout_setting_of(tenant), "aggregator.index.query.timeout", "{tenant}");
        }
        let retention: RetentionConfig = serde_json::from_value(serde_json::json!({
            "age": "30d", "tenants": {"pay": {"age": "90d"}, "tiny": {"size": "1KiB", "age": "1s"}, "big": {"size": "1GiB"}},
        }))
        .unwrap();
        let ages = ["pay", "big", "other"].map(|tenant| retention.age_of(tenant));
        assert_eq!(ages, [90, 30, 30].map(|days| Some(Span::secs(days * 24 * 3600))));
        let mut faults = Faults::default();
        faults.within("query", |f| queries.check(f));
        faults.within("retention", |f| retention.check(f));
        let paths: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
        assert_eq!(
            paths,
            [
                "query.tenants.odd.timeout",
                "query.tenants.odd.max_memory",
                "query.tenants.odd.max_concurrent",
                "query.tenants.a|b",
                "retention.tenants.tiny.age",
                "retention.tenants.tiny.size",
            ]
        );
    }

    #[test]
    fn each_fault_is_reported_once_at_the_key_that_has_it() {
        for (queries, want) in [
            (serde_json::json!({"timeout": "0s", "tenants": {"pay": {"max_series": 7}}}), vec!["timeout"]),
            (
                serde_json::json!({"max_memory_total": "64MiB", "max_memory": "128MiB", "tenants": {"pay": {}}}),
                vec!["max_memory_total"],
            ),
            (
                serde_json::json!({"max_memory": "1KiB", "tenants": {"pay": {"max_memory": "2KiB"}}}),
                vec!["max_memory", "tenants.pay.max_memory"],
            ),
        ] {
            let mut faults = Faults::default();
            serde_json::from_value::<QueryConfig>(queries).unwrap().check(&mut faults);
            let paths: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.path).collect();
            assert_eq!(paths, want);
        }
    }
}
