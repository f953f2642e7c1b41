//! Sources of `type: file`: globs, labels, format and encoding of files.
//!
//! In: YAML as the binary read it. Out: typed values with defaults, and faults that types can't express. Touches nothing.

use std::collections::BTreeMap;

use millrace_log::record::{MAX_LABEL_BYTES, MAX_LABELS, is_label_name};
use millrace_log::value::{ByteSize, Faults, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checks::{LABEL_RULE, check_labels, check_max_line, check_tenant};
use crate::multiline::MultilineConfig;
use crate::path_labels::PathLabels;
use crate::timestamp::TimestampConfig;
use crate::transform::config::StepConfig;

/// Files named by globs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FileSource {
    /// Globs of the files to read: `*` and `?` stay within one name, `**` crosses folders, `{a,b}` chooses. Rotated
    /// files (`app.log.1`, `app.log-20260101.gz`) belong to the file they come from and need no glob.
    pub include: Vec<String>,
    /// Globs of files to leave out.
    pub exclude: Vec<String>,
    /// Whether symbolic links to files and folders are followed: those that root owns, and those whose owner also owns the
    /// file. When a link is switched to another file, the one it led to is read to its end.
    pub follow_symlinks: bool,
    /// Whether links of users other than root are followed to files of others as well. Whoever may write into the folder
    /// can then have any file published that the agent may read.
    pub follow_foreign_symlinks: bool,
    /// Labels of the stream; `host` and `filename` are added unless set here.
    pub labels: BTreeMap<String, String>,
    /// Labels from the path: `kubernetes` (namespace, pod, container and, unless it is given, service, from paths below
    /// `/var/log/pods` and `/var/log/containers`), `docker` (container_id), or a regular expression whose named groups
    /// are labels, as in `/srv/(?P<service>[^/]+)/`. Configured labels take precedence. Empty: none.
    pub path_labels: String,
    /// Format of the lines: `plain` text, or what a container runtime writes: `cri` (containerd, CRI-O), `docker`
    /// (json-file), or `auto` for both, detected line by line. Parts of a line are joined, the time is the runtime's
    /// unless `timestamp` finds another, and lines that no runtime wrote are sent unchanged, with the metadata
    /// `container=malformed`.
    pub format: FileFormat,
    /// Label with the stream of a container, `stdout` or `stderr`. Empty: metadata `stream` instead.
    pub stream_label: String,
    /// Encoding of the file: `utf-8`, `utf-16le`, `utf-16be`, `latin-1` or `windows-1252`. Records are UTF-8.
    pub encoding: Encoding,
    /// Tenant of the lines. Empty: `default`.
    pub tenant: String,
    /// Where to start in files that existed before the first start of the agent.
    pub read_from: ReadFrom,
    /// Longer lines are truncated to this length and get the metadata `truncated=true`.
    pub max_line_bytes: ByteSize,
    /// A last line without a line end is sent when it has not grown for this long.
    pub partial_timeout: Span,
    /// Joins several lines, such as a stack trace, to one event.
    pub multiline: Option<MultilineConfig>,
    /// Where and how to parse the event time in a line. Left out: the time of reading.
    pub timestamp: Option<TimestampConfig>,
    /// Transforms applied to each event, in this order: names from `agent.transforms`, or inline transforms.
    pub transforms: Vec<StepConfig>,
}

impl Default for FileSource {
    fn default() -> Self {
        Self {
            include: Vec::new(),
            exclude: Vec::new(),
            follow_symlinks: true,
            follow_foreign_symlinks: false,
            labels: BTreeMap::new(),
            path_labels: String::new(),
            format: FileFormat::Plain,
            stream_label: "stream".to_owned(),
            encoding: Encoding::Utf8,
            tenant: String::new(),
            read_from: ReadFrom::Beginning,
            max_line_bytes: ByteSize(256 << 10),
            partial_timeout: Span::secs(5),
            multiline: None,
            timestamp: None,
            transforms: Vec::new(),
        }
    }
}

impl FileSource {
    pub(super) fn check(&self, faults: &mut Faults) {
        if self.include.is_empty() {
            faults.add("include", "is empty: add at least one glob, as in [\"/var/log/app/*.log\"]");
        }
        for (key, globs) in [("include", &self.include), ("exclude", &self.exclude)] {
            for (i, glob) in globs.iter().enumerate() {
                if glob.is_empty() {
                    faults.add(&format!("{key}[{i}]"), "is empty");
                } else if let Err(error) = crate::discover::glob(glob) {
                    faults.add(&format!("{key}[{i}]"), error.to_string());
                }
            }
        }
        // `host`, `filename`, those of the path and of the stream come on top.
        let mut more = 2 + usize::from(self.format != FileFormat::Plain && !self.stream_label.is_empty());
        match PathLabels::new(&self.path_labels) {
            Ok(labels) => more += labels.len(),
            Err(reason) => faults.add("path_labels", reason),
        }
        check_labels(&self.labels, MAX_LABELS.saturating_sub(more), MAX_LABEL_BYTES / 2, faults);
        if !self.stream_label.is_empty() && !is_label_name(&self.stream_label) {
            faults.add("stream_label", LABEL_RULE);
        }
        if self.format != FileFormat::Plain && self.encoding != Encoding::Utf8 {
            faults.add("encoding", "requires `format: plain`: container runtimes write UTF-8");
        }
        check_tenant(&self.tenant, faults);
        check_max_line(self.max_line_bytes, faults);
        if self.partial_timeout.0.is_zero() {
            faults.add("partial_timeout", "is 0: expected a duration such as `5s`");
        }
        if let Some(multiline) = &self.multiline {
            faults.within("multiline", |f| multiline.check(f));
        }
        if let Some(timestamp) = &self.timestamp {
            faults.within("timestamp", |f| timestamp.check(f));
        }
    }
}

/// What lines of a file hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Text.
    #[default]
    Plain,
    /// Lines of containerd and CRI-O.
    Cri,
    /// Lines of Docker's json-file.
    Docker,
    /// Either, detected line by line.
    Auto,
}

/// Encoding of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encoding {
    /// As it is.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// The low byte first, as on Windows.
    #[serde(rename = "utf-16le")]
    Utf16Le,
    /// The high byte first.
    #[serde(rename = "utf-16be")]
    Utf16Be,
    /// ISO 8859-1, read as Windows-1252, as browsers do: the two differ in control characters only.
    #[serde(rename = "latin-1")]
    Latin1,
    /// Windows-1252.
    #[serde(rename = "windows-1252")]
    Windows1252,
}

impl Encoding {
    /// What reads it; `None`: nothing has to.
    pub(crate) fn decoder(self) -> Option<&'static encoding_rs::Encoding> {
        match self {
            Self::Utf8 => None,
            Self::Utf16Le => Some(encoding_rs::UTF_16LE),
            Self::Utf16Be => Some(encoding_rs::UTF_16BE),
            Self::Latin1 | Self::Windows1252 => Some(encoding_rs::WINDOWS_1252),
        }
    }
}

/// Where reading starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadFrom {
    /// At the first line.
    #[default]
    Beginning,
    /// At what is written from now on.
    End,
}
