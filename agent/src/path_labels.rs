//! Labels from the path of a file: where Kubernetes and Docker say whose log it is, or by a pattern of the configuration.
//!
//! In: a path, once per file. Out: labels. Touches nothing. A path that does not fit gives none.

use millrace_log::record::{Labels, is_label_name};
use regex::Regex;

/// Labels that a pattern may give.
const MAX_GROUPS: usize = 8;
/// Longest value.
const MAX_VALUE: usize = 256;

/// `/var/log/pods/NAMESPACE_POD_UID/CONTAINER/RESTARTS.log`, and what it is rotated to.
const PODS: &str = r"/(?P<namespace>[^/_]+)_(?P<pod>[^/_]+)_[^/_]+/(?P<container>[^/]+)/\d+\.log[^/]*$";
/// `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`.
const CONTAINERS: &str = r"/(?P<pod>[^/_]+)_(?P<namespace>[^/_]+)_(?P<container>[^/]+)-[0-9a-f]{64}\.log[^/]*$";
/// `/var/lib/docker/containers/ID/ID-json.log`.
const DOCKER: &str = r"/(?P<container_id>[0-9a-f]{12})[0-9a-f]{52}/[0-9a-f]{64}-json\.log[^/]*$";

/// How a path becomes labels.
#[derive(Debug, Clone, Default)]
pub(crate) struct PathLabels {
    patterns: Vec<Regex>,
    /// Label that gets the value of another where it has none itself.
    also: Option<(&'static str, &'static str)>,
}

impl PathLabels {
    /// Reads the setting; the error says what is wrong with it.
    pub fn new(setting: &str) -> Result<Self, String> {
        let (texts, also): (&[&str], _) = match setting {
            "" => (&[], None),
            "kubernetes" => (&[PODS, CONTAINERS], Some(("service", "container"))),
            "docker" => (&[DOCKER], None),
            pattern => (&[pattern], None),
        };
        let patterns: Result<Vec<Regex>, _> = texts.iter().map(|text| Regex::new(text)).collect();
        let patterns = patterns.map_err(|error| format!("invalid regular expression: {error}"))?;
        for pattern in &patterns {
            let groups: Vec<&str> = pattern.capture_names().flatten().collect();
            if groups.is_empty() {
                let text = "has no named group: expected kubernetes, docker, or a regular expression with groups such as \
                            (?P<service>[^/]+)";
                return Err(text.to_owned());
            }
            if let Some(wrong) = groups.iter().find(|name| !is_label_name(name)) {
                return Err(format!("invalid label name `{wrong}` of a group: expected [a-zA-Z_][a-zA-Z0-9_]*"));
            }
            if groups.len() > MAX_GROUPS {
                return Err(format!("has {} named groups, {MAX_GROUPS} are allowed", groups.len()));
            }
        }
        Ok(Self { patterns, also })
    }

    /// Labels that it gives at most.
    pub fn len(&self) -> usize {
        let groups = self.patterns.iter().map(|pattern| pattern.capture_names().flatten().count());
        groups.max().unwrap_or(0) + usize::from(self.also.is_some())
    }

    /// The labels with those of a path; what is there already stays.
    pub fn add_to(&self, labels: &Labels, path: &str) -> Labels {
        let mut all = labels.clone();
        let Some(found) = self.patterns.iter().find_map(|pattern| Some((pattern, pattern.captures(path)?))) else {
            return all;
        };
        let (pattern, found) = found;
        let named = pattern.capture_names().flatten().filter_map(|name| Some((name, found.name(name)?.as_str())));
        for (name, value) in named {
            if all.get(name).is_none() && !value.is_empty() {
                let end = value.floor_char_boundary(MAX_VALUE);
                all = all.with(name, value.get(..end).unwrap_or_default());
            }
        }
        if let Some((name, from)) = self.also
            && all.get(name).is_none()
            && let Some(value) = all.get(from).map(str::to_owned)
        {
            all = all.with(name, &value);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_labels() {
        let id = "0123456789abcdef".repeat(4);
        let k8s = r#"{"container":"api","namespace":"shop","pod":"api-7f9c-x","service":"api"}"#;
        let cases = [
            ("kubernetes", "/var/log/pods/shop_api-7f9c-x_0a-1b/api/0.log".to_owned(), k8s),
            ("kubernetes", "/var/log/pods/shop_api-7f9c-x_0a-1b/api/3.log.20260102-030405".to_owned(), k8s),
            ("kubernetes", format!("/var/log/containers/api-7f9c-x_shop_api-{id}.log"), k8s),
            ("kubernetes", "/var/log/syslog".to_owned(), "{}"),
            ("docker", format!("/var/lib/docker/containers/{id}/{id}-json.log"), r#"{"container_id":"0123456789ab"}"#),
            (r"/srv/(?P<service>[^/]+)/(?P<part>\w*)", "/srv/web/.log".to_owned(), r#"{"service":"web"}"#),
            ("", "/srv/web/a.log".to_owned(), "{}"),
        ];
        for (setting, path, want) in cases {
            let found = PathLabels::new(setting).unwrap().add_to(&Labels::default(), &path);
            assert_eq!(found.to_json(), want, "{setting} {path}");
        }
        let given = Labels::new([("service".to_owned(), "mine".to_owned())]);
        let found = PathLabels::new("kubernetes").unwrap().add_to(&given, "/a_b_c/d/0.log");
        assert_eq!(found.to_json(), r#"{"container":"d","namespace":"a","pod":"b","service":"mine"}"#);
    }

    #[test]
    fn what_is_no_pattern_is_told() {
        let many: String = (0..9).map(|n| format!("(?P<a{n}>x)")).collect();
        for (setting, want) in [
            ("kubernets", "has no named group"),
            ("(", "invalid regular expression"),
            ("(?P<a.b>x)", "invalid label name"),
            (many.as_str(), "9 named groups"),
        ] {
            let error = PathLabels::new(setting).unwrap_err();
            assert!(error.contains(want), "{setting}: {error}");
        }
    }
}
