//! One entry of `agent.sources` with `type: file`, ready for use.
//!
//! In: the checked configuration, paths of files. Out: how a file is cut and read, the labels of its records. Touches
//! nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_log::record::{Labels, MAX_LABEL_BYTES, Tenant};

use crate::config::{FileFormat, FileSource, ReadFrom};
use crate::container::Runtime;
use crate::cut::{Container, Cutter, Encoded};
use crate::discover::Globs;
use crate::error::AgentError;
use crate::links::Follow;
use crate::multiline::Join;
use crate::path_labels::PathLabels;
use crate::split::Splitter;
use crate::timestamp::TimeReader;
use crate::transform::Chain;

/// Labels of a path leave so much for the end of a name that is too long, or are left out: it tells more.
const MIN_NAME: usize = 256;

/// One entry of `sources`, ready for use.
#[derive(Debug)]
pub(crate) struct FileSettings {
    pub globs: Globs,
    /// Which links are followed.
    pub follow: Follow,
    pub labels: Labels,
    pub tenant: Option<Bytes>,
    pub from_end: bool,
    pub cutter: Cutter,
    /// Label that names the stream of a container; empty: none.
    pub stream_label: String,
    /// Labels from the path.
    pub path_labels: PathLabels,
    pub partial_timeout: Duration,
    pub time: Option<TimeReader>,
    /// Transforms that its events go through before they are sent.
    pub transforms: Option<Arc<Chain>>,
}

impl FileSettings {
    /// From the configuration; `host` is the label of that name unless another is given.
    pub fn new(file: &FileSource, host: &str, transforms: Option<Arc<Chain>>) -> Result<Self, AgentError> {
        let setting = |key: &str, reason: String| AgentError::Setting { key: format!("sources[].{key}"), reason };
        let mut labels = Labels::new(file.labels.clone());
        if labels.get("host").is_none() {
            labels = labels.with("host", host);
        }
        labels.check().map_err(|error| setting("labels", error.to_string()))?;
        let tenant = match file.tenant.as_str() {
            "" | Tenant::DEFAULT => None,
            name => {
                let tenant = Tenant::new(name).map_err(|error| setting("tenant", error.to_string()))?;
                Some(Bytes::copy_from_slice(tenant.as_str().as_bytes()))
            }
        };
        let mut partial_timeout = file.partial_timeout.0;
        let join = match &file.multiline {
            None => None,
            Some(multiline) => {
                partial_timeout = multiline.timeout.0;
                Some(Join::new(multiline)?)
            }
        };
        let splitter = Splitter { max_line: usize::try_from(file.max_line_bytes.0).unwrap_or(256 << 10), join };
        let runtime = match file.format {
            FileFormat::Plain => None,
            FileFormat::Cri => Some(Runtime::Cri),
            FileFormat::Docker => Some(Runtime::Docker),
            FileFormat::Auto => Some(Runtime::Any),
        };
        let follow = if file.follow_foreign_symlinks { Follow::Any } else { Follow::SameOwner };
        let cutter = match (runtime, file.encoding.decoder()) {
            (Some(runtime), _) => {
                Cutter::Container(Container { runtime, splitter, label: !file.stream_label.is_empty() })
            }
            (None, Some(encoding)) => Cutter::Encoded(Encoded { splitter, encoding }),
            (None, None) => Cutter::Lines(splitter),
        };
        Ok(Self {
            globs: Globs::new(&file.include, &file.exclude, file.follow_symlinks.then_some(follow))?,
            follow,
            labels,
            tenant,
            from_end: file.read_from == ReadFrom::End,
            cutter,
            stream_label: file.stream_label.clone(),
            path_labels: PathLabels::new(&file.path_labels).map_err(|reason| setting("path_labels", reason))?,
            partial_timeout,
            time: file.timestamp.as_ref().map(TimeReader::new).transpose()?,
            transforms,
        })
    }

    /// Labels of a file as the header carries them, and those of each stream of a container if streams are labelled.
    pub fn headers(&self, filename: &Path) -> (Bytes, Option<Arc<[Bytes; 2]>>) {
        let labels = self.labels_of(filename);
        let streams = (!self.stream_label.is_empty() && matches!(self.cutter, Cutter::Container(_))).then(|| {
            let with = |stream: &str| Bytes::from(labels.clone().with(&self.stream_label, stream).to_json());
            Arc::new([with("stdout"), with("stderr")])
        });
        (labels.to_json().into(), streams)
    }

    fn labels_of(&self, filename: &Path) -> Labels {
        let name = filename.to_string_lossy();
        let of_path = self.path_labels.add_to(&self.labels, &name);
        let named = |known: &Labels, name: &str| match known.get("filename") {
            Some(_) => known.clone(),
            None => known.with("filename", name),
        };
        let labels = named(&of_path, &name);
        if labels.check().is_ok() {
            return labels;
        }
        // A very long path: its end tells more than its start. The label of a stream may come on top.
        let room = |known: &Labels| {
            let used: usize = known.iter().map(|(n, v)| n.len() + v.len()).sum();
            MAX_LABEL_BYTES.checked_sub(used + "filename".len() + self.stream_label.len() + 16)
        };
        let (known, room) = match room(&of_path) {
            Some(room) if room >= MIN_NAME => (&of_path, room),
            _ => (&self.labels, room(&self.labels).unwrap_or(0)),
        };
        let from = name.ceil_char_boundary(name.len().saturating_sub(room));
        named(known, &format!("…{}", name.get(from..).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_long_paths_keep_those_of_the_path_and_the_end_of_the_name() {
        let folder = |len: usize| format!("/{}", "d".repeat(len));
        let pod = |namespace: usize| format!("/{}_shop-1_u/api/0.log", "n".repeat(namespace));
        type Case = (&'static str, String, &'static [&'static str], bool);
        let cases: [Case; 5] = [
            ("kubernetes", pod(4), &["pod", "namespace", "container", "service"], true),
            ("kubernetes", folder(2000) + &pod(4), &["pod", "namespace", "container", "service"], false),
            // What comes from the path is too long by itself: the path is still there.
            (
                r"/(?P<a>x+)/(?P<b>x+)/(?P<c>x+)/(?P<d>x+)/",
                format!("{}/f.log", format!("/{}", "x".repeat(300)).repeat(4)),
                &[],
                false,
            ),
            // It leaves room, but too little.
            (
                r"/(?P<a>x+)/(?P<b>x+)/(?P<c>x+)/",
                format!("{}/f.log", format!("/{}", "x".repeat(300)).repeat(4)),
                &[],
                false,
            ),
            ("", folder(600) + "é" + &"é".repeat(400), &[], false),
        ];
        for (path_labels, path, want, whole) in cases {
            let source: FileSource = serde_json::from_value(serde_json::json!({
                "include": ["/*.log"], "labels": {"env": "prod"}, "path_labels": path_labels, "format": "cri",
                "stream_label": "stream",
            }))
            .unwrap();
            let entry = FileSettings::new(&source, "h", None).unwrap();
            let labels = entry.labels_of(Path::new(&path));
            labels.check().unwrap();
            labels.clone().with("stream", "stdout").check().unwrap();
            assert!(["env", "host"].iter().chain(want).all(|name| labels.get(name).is_some()), "{labels:?}");
            let name = labels.get("filename").unwrap();
            if whole {
                assert_eq!(name, path);
            } else {
                let end = name.strip_prefix('…').unwrap();
                assert!(path.ends_with(end) && end.len() > 500, "{name}");
            }
        }
    }
}
