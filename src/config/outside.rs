//! What a start reads besides its configuration: rule files, `alertmanager.yml`, secrets, certificates, the data folder;
//! and addresses that two listeners want.
//!
//! In: a configuration whose sections are checked. Out: all faults, each with the key or the line that it stands at, and
//! the values of the configuration with what was read, so that a change of a file is a change. Touches files by reading.
//!
//! What is a secret, a certificate or a file follows from values and names of keys, so that no section can be left out.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use millrace_doors::access::book::Book;
use millrace_doors::config::TlsConfig;
use millrace_doors::tls::{Tls, TlsError};
use millrace_log::clock::{Clock as _, SystemClock};
use millrace_log::value::{Faults, Secret};
use millrace_log::yaml::{LocatedFault, Node, Value, parse_with_aliases};
use millrace_notify::NotifyError;
use millrace_notify::routing::Routing;
use millrace_rules::file::{find_files, read_file};
use serde_json::{Map, Value as Json};

use super::damage::Damage;
use super::listeners;
use super::types::Config;

/// How secrets print.
const MASK: &str = "***";

/// What was found.
#[derive(Debug, Default)]
pub struct Outside {
    /// Faults of keys of the configuration.
    pub faults: Faults,
    /// Faults of files that the configuration names.
    pub in_files: Vec<LocatedFault>,
    /// What is most likely not meant so.
    pub warnings: Faults,
    /// Values with all defaults, secrets as they are written, and digests of the files named.
    pub values: Json,
}

impl Outside {
    /// Checks everything. `written` are the values as they stand in the file. Blocks.
    pub fn check(config: &Config, written: Json, damage: &Damage) -> Self {
        let mut found = Self::default();
        match serde_json::to_value(config) {
            Ok(values) => found.values = values,
            Err(error) => found.faults.add("", error.to_string()),
        }
        let mut values = std::mem::take(&mut found.values);
        found.walk(&mut values, &written, "");
        found.values = values;
        let mut listeners = listeners::listeners(config, &found.values);
        // An address beside what can't be read may be a default that is not meant.
        listeners.retain(|listener| !damage.explains(&damage.in_file(&listener.key)));
        listeners::check(&listeners, &mut found.faults);
        if !damage.is_in("access") {
            found.access(config, &listeners);
        }
        found.data_dir(&config.data_dir);
        if let Some(rules) = &config.rules {
            found.rules(&rules.files);
            if config.notify.is_none() {
                let message =
                    "there is no section `notify`: alerts are only written to the process's log, nobody will be paged";
                found.warnings.add("rules", message);
            }
        }
        if config.has_no_role() {
            found.warnings.add("", "the configuration has no role such as `agent` or `aggregator`: nothing will run");
        }
        if let Some(path) = config.notify.as_ref().and_then(|notify| notify.config_file.as_deref()) {
            found.alertmanager(path);
        }
        found
    }

    /// Puts what was read into values that name it: secrets, certificates of clients, programs.
    fn walk(&mut self, value: &mut Json, written: &Json, path: &str) {
        match value {
            Json::String(text) if text == MASK => *value = self.secret(written, path),
            Json::Array(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.walk(item, written.get(i).unwrap_or(&Json::Null), &format!("{path}[{i}]"));
                }
            }
            Json::Object(map) => {
                if ["cert_file", "key_file", "client_ca_file"].iter().all(|key| map.contains_key(*key)) {
                    self.certificates(map, path);
                    return;
                }
                for (key, value) in map {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    if let Json::String(file) = value
                        && !file.is_empty()
                        && (key.ends_with("ca_file") || key == "cert_file" || key == "key_file" || key == "file")
                    {
                        match std::fs::read(&*file) {
                            Ok(bytes) => *value = Json::from(vec![file.clone(), digest(&bytes)]),
                            // Sections that have programs in files report those themselves.
                            Err(_) if key == "file" => {}
                            Err(error) => self.faults.add(&path, format!("file `{file}` can't be read: {error}")),
                        }
                        continue;
                    }
                    self.walk(value, written.get(key).unwrap_or(&Json::Null), &path);
                }
            }
            _ => {}
        }
    }

    /// A secret that can be read, with a digest where it comes from elsewhere.
    fn secret(&mut self, written: &Json, path: &str) -> Json {
        let Some(text) = written.as_str() else { return Json::Null };
        if !text.starts_with("file:") && !text.starts_with("env:") {
            return Json::from(text);
        }
        match Secret::new(text).reveal() {
            Ok(secret) if secret.is_empty() => {
                self.faults
                    .add(path, "is empty where its value is read from: put the secret there, or leave the key out");
                Json::Null
            }
            Ok(secret) => Json::from(vec![text.to_owned(), digest(secret.as_bytes())]),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                self.faults.add(path, format!("{error}{cause}"));
                Json::Null
            }
        }
    }

    /// A listener's certificates. It reads them again by itself when they change: they make no other value.
    fn certificates(&mut self, map: &Map<String, Json>, path: &str) {
        let Ok(config) = serde_json::from_value::<TlsConfig>(Json::Object(map.clone())) else { return };
        if config.cert_file.is_empty() || config.key_file.is_empty() {
            return;
        }
        if let Err(error) = Tls::open(config) {
            let named = match &error {
                TlsError::File { path, .. } | TlsError::Authorities { path, .. } => path.as_str(),
                TlsError::Pair { cert_file, .. } => cert_file.as_str(),
            };
            let key = map.iter().find(|(_, value)| value.as_str() == Some(named)).map(|(key, _)| format!(".{key}"));
            self.faults.add(&format!("{path}{}", key.unwrap_or_default()), error.to_string());
        }
    }

    /// Hashes of logins, and HTTP endpoints that other hosts would reach without a login.
    fn access(&mut self, config: &Config, listeners: &[listeners::Listener]) {
        if let Err(error) = Book::read(&config.access) {
            let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            let key = format!("access.{}", error.key());
            // A file that can't be read was reported with the other secrets and files.
            if !error.is_unreadable() {
                self.faults.add(&key, reason);
            }
        }
        if let (Some(oidc), Some(aggregator)) = (&config.access.oidc, &config.aggregator)
            && oidc.redirect_url.is_empty()
            && config.access.hosts.is_empty()
            && listeners.iter().any(|l| l.key == "aggregator.http.listen" && l.is_exposed())
        {
            let message = format!(
                "is empty, `access.hosts` is too, and `{}` is not on loopback: people can't log in by the provider",
                aggregator.http.listen
            );
            self.warnings.add("access.oidc.redirect_url", message);
        }
        self.warnings.within("access", |w| config.access.warn(SystemClock.now_ms(), w));
        if config.access.insecure {
            return;
        }
        self.kafka_listeners(config);
        if !config.access.is_open() {
            return;
        }
        for listener in listeners.iter().filter(|listener| listener.is_http && listener.is_exposed()) {
            let (section, _) = listener.key.rsplit_once('.').unwrap_or(("", &listener.key));
            let own = |key: &str| {
                let path = format!("/{section}/{key}").replace('.', "/").replace('[', "/").replace(']', "");
                self.values.pointer(&path).cloned().unwrap_or(Json::Null)
            };
            let is_set = |login: &Json| {
                ["token", "username"]
                    .iter()
                    .any(|key| login.get(key).is_some_and(|value| value != "" && !value.is_null()))
            };
            let prefix = if listener.key.ends_with(".http") && !section.contains("sources") { "http_" } else { "" };
            let requires_certificate =
                own(&format!("{prefix}tls")).get("client_auth").is_some_and(|auth| auth == "required");
            if is_set(&own(&format!("{prefix}auth"))) || requires_certificate {
                continue;
            }
            let message = format!(
                "address `{}` is open to other hosts and has no login: configure `access`, listen on 127.0.0.1, or set \
                 `access.insecure: true`",
                listener.address
            );
            self.faults.add(&listener.key, message);
        }
    }

    /// Listeners of the broker that other hosts reach, and may use without a login.
    fn kafka_listeners(&mut self, config: &Config) {
        let Some(broker) = config.broker.as_ref().map(|broker| &broker.server) else { return };
        for (i, listener) in broker.all_listeners().iter().enumerate() {
            if !listener.has_login() && listeners::is_exposed(&listener.listen) {
                let key = match broker.listeners.is_empty() {
                    true => "broker.listen".to_owned(),
                    false => format!("broker.listeners[{i}].listen"),
                };
                self.faults.add(&key, listener.open_text(&listener.listen));
            }
        }
    }

    fn data_dir(&mut self, path: &Path) {
        // The nearest part that exists: what is missing below it is created at the start.
        let Some(existing) = path.ancestors().find(|part| part.exists()) else { return };
        if !existing.is_dir() {
            let message = format!("`{}` exists and is not a folder: choose another", existing.display());
            self.faults.add("data_dir", message);
        }
    }

    fn rules(&mut self, patterns: &[String]) {
        let mut contents = Vec::new();
        for (i, pattern) in patterns.iter().enumerate() {
            let key = format!("rules.files[{i}]");
            match find_files(std::slice::from_ref(pattern)) {
                Err(faults) => faults.into_iter().for_each(|fault| self.faults.add(&key, fault.to_string())),
                Ok(files) => {
                    if files.is_empty() {
                        self.warnings.add(&key, format!("no file matches `{pattern}`: no rule is evaluated from it"));
                    }
                    for file in files {
                        if !file.exists() {
                            self.faults.add(&key, format!("rule file `{}` does not exist", file.display()));
                        } else if file.is_dir() {
                            let message = format!(
                                "`{}` is a folder: name its files, as in `{}`",
                                file.display(),
                                file.join("*.yaml").display()
                            );
                            self.faults.add(&key, message);
                        } else if let Err(faults) = read_file(&file) {
                            self.in_files.extend(
                                faults.into_iter().filter(|fault| !self.in_files.contains(fault)).collect::<Vec<_>>(),
                            );
                        }
                        contents.push(content(&file));
                    }
                }
            }
        }
        self.note("rules", contents);
    }

    fn alertmanager(&mut self, path: &Path) {
        let key = "notify.config_file";
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.faults.add(key, format!("file `{}` can't be read: {error}", path.display()));
                return;
            }
        };
        match Routing::read(path) {
            Ok(routing) if !routing.notifies_somebody() => {
                let message = format!(
                    "no receiver of a route has an integration, such as `{}`: nobody will be paged",
                    routing.root_receiver()
                );
                self.warnings.add(key, message);
            }
            Ok(_) => {}
            Err(NotifyError::Files { mut faults }) => self.in_files.append(&mut faults),
            Err(error) => self.faults.add(key, error.to_string()),
        }
        let mut contents = vec![format!("{} {}", path.display(), digest(text.as_bytes()))];
        if let Ok(tree) = parse_with_aliases(&path.display().to_string(), &text) {
            self.named_files(&tree, path.parent().unwrap_or(Path::new("")), &mut contents);
        }
        self.note("notify", contents);
    }

    /// Files that keys of `alertmanager.yml` name, such as `password_file`; relative ones count from its folder.
    fn named_files(&mut self, node: &Node, folder: &Path, contents: &mut Vec<String>) {
        match &node.value {
            Value::Scalar { .. } => {}
            Value::List(items) => items.iter().for_each(|item| self.named_files(item, folder, contents)),
            Value::Map(entries) => {
                for entry in entries {
                    match &entry.node.value {
                        Value::Scalar { text, .. } if entry.key.ends_with("_file") && !text.is_empty() => {
                            let file = folder.join(text);
                            let read = std::fs::read(&file);
                            if let Err(error) = &read {
                                let message =
                                    format!("file `{}` of `{}` can't be read: {error}", file.display(), entry.key);
                                self.in_files.push(LocatedFault::new(entry.node.place.clone(), message));
                            }
                            let digest = read.map(|bytes| digest(&bytes)).unwrap_or_default();
                            contents.push(format!("{} {digest}", file.display()));
                        }
                        _ => self.named_files(&entry.node, folder, contents),
                    }
                }
            }
        }
    }

    /// Adds digests of files to the values of a section, under a key that no configuration has.
    fn note(&mut self, section: &str, contents: Vec<String>) {
        if let Json::Object(all) = &mut self.values {
            all.insert(format!("files of {section}"), Json::from(contents));
        }
    }
}

/// A file by its path and what is in it.
fn content(path: &Path) -> String {
    let digest = std::fs::read(path).map(|bytes| digest(&bytes)).unwrap_or_default();
    format!("{} {digest}", path.display())
}

/// Enough to see that something has changed: nobody gains from making two files alike.
fn digest(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
