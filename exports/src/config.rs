//! The list `exports:` of the configuration.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't say. Touches nothing.

use millrace_log::value::{ByteSize, Faults, Secret, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One export, told apart by `type:`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExportConfig {
    /// Elasticsearch or OpenSearch.
    Elasticsearch(ElasticBulkConfig),
}

impl ExportConfig {
    /// Reports what types can't say.
    pub fn check(&self, faults: &mut Faults) {
        match self {
            Self::Elasticsearch(config) => config.check(faults),
        }
    }
}

/// Reports what types can't say of all exports.
pub fn check(exports: &[ExportConfig], faults: &mut Faults) {
    let feed =
        |ExportConfig::Elasticsearch(export): &ExportConfig| (export.kafka.brokers.clone(), export.kafka.group.clone());
    let name = |ExportConfig::Elasticsearch(export): &ExportConfig| export.name.clone();
    for (i, export) in exports.iter().enumerate() {
        faults.within(&format!("[{i}]"), |faults| {
            export.check(faults);
            if let Some(other) = exports.iter().take(i).position(|other| name(other) == name(export)) {
                let message =
                    format!("`{}` is the name of exports[{other}] too: metrics tell them apart by it", name(export));
                faults.add("name", message);
            }
            if let Some(other) = exports.iter().take(i).position(|other| feed(other) == feed(export)) {
                let group = feed(export).1;
                faults.add(
                    "kafka.group",
                    format!("`{group}` is the group of exports[{other}] too: two exports need two"),
                );
            }
        });
    }
}

/// Feeds Elasticsearch or OpenSearch by `_bulk`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ElasticBulkConfig {
    /// Name for logs and metrics.
    pub name: String,
    /// The log to read.
    pub kafka: FeedConfig,
    /// Address of the server, `http://` or `https://`.
    pub url: String,
    /// Index or data stream that lines are written to.
    pub index: String,
    /// User of basic authentication; empty: none.
    pub username: String,
    /// Password of basic authentication.
    pub password: Secret,
    /// Value of `Authorization: ApiKey`; empty: none.
    pub api_key: Secret,
    /// Bytes of one request at most.
    pub max_request: ByteSize,
    /// Time one request may take.
    pub timeout: Span,
    /// First wait after a failure; doubles up to `max_backoff`.
    pub min_backoff: Span,
    /// Longest wait after failures. It is tried for ever: nothing is dropped because the server is away.
    pub max_backoff: Span,
}

impl Default for ElasticBulkConfig {
    fn default() -> Self {
        Self {
            name: "elasticsearch".to_owned(),
            kafka: FeedConfig::default(),
            url: "http://127.0.0.1:9201".to_owned(),
            index: "millrace-logs".to_owned(),
            username: String::new(),
            password: Secret::default(),
            api_key: Secret::default(),
            max_request: ByteSize::mib(5),
            timeout: Span::secs(60),
            min_backoff: Span::millis(500),
            max_backoff: Span::secs(30),
        }
    }
}

impl ElasticBulkConfig {
    fn check(&self, faults: &mut Faults) {
        faults.within("kafka", |f| self.kafka.check(f));
        match url::Url::parse(&self.url) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => faults.add(
                "url",
                "contains a user or a password, which logs would show and which would replace `api_key`: remove them and set `username` and `password`",
            ),
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {}
            // What stands before an `@` may be a password.
            _ if self.url.contains('@') => faults.add("url", "invalid URL: expected http://host:port"),
            _ => faults.add("url", format!("invalid URL `{}`: expected http://host:port", self.url)),
        }
        let bad = |c: char| c.is_uppercase() || c.is_whitespace() || r#"\/*?"<>|,#:"#.contains(c);
        if self.index.is_empty() || self.index.starts_with(['-', '_', '+']) || self.index.contains(bad) {
            faults.add(
                "index",
                format!("invalid index name `{}`: lower case, none of \\ / * ? \" < > | , # :", self.index),
            );
        }
        if self.name.is_empty() {
            faults.add("name", "is empty: metrics and logs tell exports apart by it");
        }
        if self.max_request < ByteSize::mib(1) {
            faults.add("max_request", "is below 1MiB: one long line would not fit");
        }
        for (key, span) in
            [("timeout", self.timeout), ("min_backoff", self.min_backoff), ("max_backoff", self.max_backoff)]
        {
            if span.0.is_zero() {
                faults.add(key, "must not be zero");
            }
        }
    }
}

millrace_log::kafka_section! {
    /// The log as an export reads it.
    pub struct FeedConfig {
        /// Topics to export. One that does not exist yet is waited for.
        pub topics: Vec<String> = vec!["logs".to_owned()],
        /// Consumer group: its committed offsets say where to read on. Two exports must not share one.
        pub group: String = "millrace-export-elasticsearch".to_owned(),
        /// Name of this process among others that run the same export and share its work. An export takes over from an
        /// earlier one of the same name at once: two at the same time must have two names.
        pub instance: String = "1".to_owned(),
        /// Topic for records that the other system refuses for good.
        pub dead_letter_topic: String = "millrace.dlq".to_owned(),
    }
}

impl FeedConfig {
    fn check(&self, faults: &mut Faults) {
        self.connection().check(faults);
        if self.topics.is_empty() {
            faults.add("topics", "is empty: name at least one topic to export");
        }
        if self.group.is_empty() {
            faults.add("group", "is empty: the group's offsets say where to read on");
        }
        if self.instance.is_empty() {
            faults.add("instance", "is empty: the member of the group is named by it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_told_apart_by_type_and_check_their_keys() {
        let config: ExportConfig = serde_json::from_value(serde_json::json!({
            "type": "elasticsearch", "url": "search:9200", "index": "Logs",
            "kafka": {"topics": [], "group": "", "instance": ""},
        }))
        .unwrap();
        let mut faults = Faults::default();
        config.check(&mut faults);
        let paths: Vec<String> = faults.into_vec().into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["kafka.topics", "kafka.group", "kafka.instance", "url", "index"]);
        assert!(serde_json::from_str::<ExportConfig>(r#"{"type": "elasticsearch", "urll": "x"}"#).is_err());
        let two: Vec<ExportConfig> = vec![ExportConfig::Elasticsearch(ElasticBulkConfig::default()); 2];
        let mut faults = Faults::default();
        check(&two, &mut faults);
        let paths: Vec<String> = faults.into_vec().into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["[1].name", "[1].kafka.group"], "the second has the name and the group of the first");
    }

    #[test]
    fn a_login_in_the_url_is_refused_and_not_shown() {
        for (url, want) in [
            ("https://search:9200", None),
            ("https://me:s3cret@search:9200", Some("contains a user or a password")),
            ("https://me@search:9200", Some("contains a user or a password")),
            ("ftp://me:s3cret@search:9200", Some("contains a user or a password")),
            ("me:s3cret@search:9200", Some("invalid URL: expected http://host:port")),
            ("search", Some("invalid URL `search`")),
        ] {
            let config = ElasticBulkConfig { url: url.to_owned(), ..ElasticBulkConfig::default() };
            let mut faults = Faults::default();
            config.check(&mut faults);
            let texts: Vec<String> = faults.into_vec().into_iter().map(|fault| fault.message).collect();
            assert!(texts.iter().all(|text| !text.contains("s3cret")), "{url}: {texts:?}");
            assert_eq!(texts.len(), usize::from(want.is_some()), "{url}: {texts:?}");
            assert!(want.is_none_or(|want| texts[0].starts_with(want)), "{url}: {texts:?}");
        }
    }
}
