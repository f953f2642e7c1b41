//! What is shipped beside the binary agrees with it: the Debian configuration and the ConfigMap of the DaemonSet are good
//! configurations, the unit starts a command that exists and waits as long as a stop may take.

#![allow(clippy::unwrap_used)] // a test that fails says where

use std::path::Path;

use millrace::config::environment::Variables;
use millrace_log::yaml::{self, Node, Value};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// What stands at a path of keys and places, joined by `/`.
fn get<'n>(node: &'n Node, path: &str) -> &'n Node {
    path.split('/').fold(node, |node, key| match &node.value {
        Value::Map(entries) => {
            &entries.iter().find(|entry| entry.key == key).unwrap_or_else(|| panic!("{path}: {key}")).node
        }
        Value::List(items) => &items[key.parse::<usize>().unwrap()],
        Value::Scalar { .. } => panic!("{path}: {key}"),
    })
}

fn text(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, .. } => text.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_configuration_of_the_package_is_good() {
    let name = "packaging/debian/millrace.yaml";
    let config = millrace::config::parse(name, &read(name), &Variables::new()).unwrap();
    let all = [config.agent.is_some(), config.broker.is_some(), config.aggregator.is_some(), config.rules.is_some()];
    assert_eq!(all, [true; 4]);
    assert_eq!(config.rules.unwrap().files, ["/etc/millrace/rules/*.yaml"]);
    assert_eq!(config.notify.unwrap().config_file.as_deref(), Some(Path::new("/etc/millrace/alertmanager.yml")));
    assert_eq!(config.data_dir, Path::new("/var/lib/millrace"));
    // As its comment says: an agent alone is made by removing sections.
    let alone: String =
        read(name).lines().take_while(|line| *line != "broker:").map(|line| format!("{line}\n")).collect();
    let config = millrace::config::parse(name, &alone, &Variables::new()).unwrap();
    assert!(config.agent.is_some() && config.broker.is_none());
}

#[test]
fn the_package_pages_somebody_once_one_line_is_filled_in() {
    use millrace_notify::routing::Routing;

    let name = "packaging/debian/alertmanager.yml";
    let shipped = read(name);
    assert!(!Routing::parse(Path::new(name), &shipped).unwrap().notifies_somebody(), "there is nobody to page yet");
    let filled = shipped.replace("    # webhook_configs:", "    webhook_configs:");
    assert_ne!(filled, shipped);
    assert!(Routing::parse(Path::new(name), &filled).unwrap().notifies_somebody());
    // Its rules ask for lines that the shipped sources give.
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/rules/host.yaml");
    let groups = millrace_rules::file::read_file(&rules).unwrap();
    assert!(groups.iter().flat_map(|group| &group.rules).count() > 2);
    assert!(read("packaging/debian/millrace.yaml").contains("labels: {job: varlogs}"));
    let manifest = read("Cargo.toml");
    for file in ["millrace.yaml", "alertmanager.yml", "rules/host.yaml"] {
        assert!(manifest.contains(&format!("\"/etc/millrace/{file}\"")), "{file} is a conffile");
    }
}

#[test]
fn the_alerts_for_prometheus_ask_for_metrics_that_exist() {
    let alerts = read("dashboards/prometheus/millrace.yaml");
    assert!(yaml::parse("alerts", &alerts).is_ok());
    for metric in ["stalled_seconds", "hole_offsets"] {
        assert!(alerts.contains(&format!("millrace_(aggregator|export|route)_{metric}")), "{metric}");
        assert!(read("log/src/consume/metrics.rs").contains(&format!("register(\"{metric}\"")), "{metric}");
    }
    assert!(alerts.contains(&format!("{} > 30", millrace_rules::metrics::names::OVERDUE_SECONDS)));
}

#[test]
fn the_unit_runs_what_exists_and_waits_for_the_stop() {
    let unit = read("packaging/debian/millrace.service");
    let value = |key: &str| {
        let prefix = format!("{key}=");
        unit.lines().find_map(|line| line.strip_prefix(prefix.as_str())).unwrap_or_else(|| panic!("{key}")).to_owned()
    };
    assert_eq!(value("ExecStart"), "/usr/bin/millrace run -c /etc/millrace/millrace.yaml");
    assert_eq!(value("Type"), "notify");
    assert_eq!(value("TimeoutStopSec"), "90s");
    assert_eq!(value("RestartPreventExitStatus"), "2 78");
    // The start raises the limit of open files: that call must not be filtered.
    assert!(unit.contains("SystemCallFilter=@system-service\n") && !unit.contains("~@resources"));
    let limit = millrace_agent::AgentConfig::default().shutdown_timeout.0;
    assert!(limit < std::time::Duration::from_secs(90));
}

#[test]
fn the_daemon_set_agrees_with_its_configuration() {
    let all = read("packaging/kubernetes/millrace-agent.yaml");
    let parts: Vec<Node> = all.split("\n---\n").map(|part| yaml::parse("k8s", part).unwrap()).collect();
    let kind = |kind: &str| parts.iter().find(|part| text(get(part, "kind")) == kind).unwrap();
    let written = text(get(kind("ConfigMap"), "data/millrace.yaml"));
    let node = Variables::from([("NODE_NAME".to_owned(), "node-1".to_owned())]);
    let agent = millrace::config::parse("ConfigMap", &written, &node).unwrap().agent.unwrap();
    let set = get(kind("DaemonSet"), "spec/template/spec");
    let grace: u64 = text(get(set, "terminationGracePeriodSeconds")).parse().unwrap();
    assert!(agent.shutdown_timeout.0.as_secs() + 20 < grace, "status and agent each have their limit");
    let port = text(get(set, "containers/0/ports/0/containerPort"));
    assert!(agent.http.unwrap().ends_with(&format!(":{port}")));
    for (path, want) in [
        ("containers/0/args/0", "agent"),
        ("containers/0/env/0/name", "NODE_NAME"),
        ("containers/0/readinessProbe/httpGet/path", "/ready"),
        ("containers/0/securityContext/readOnlyRootFilesystem", "true"),
        ("containers/0/securityContext/capabilities/drop/0", "ALL"),
        ("containers/0/volumeMounts/1/mountPath", "/var/log"),
        ("serviceAccountName", "millrace-agent"),
    ] {
        assert_eq!(text(get(set, path)), want, "{path}");
    }
    assert_eq!(text(get(kind("ServiceAccount"), "metadata/name")), "millrace-agent");
}

/// The package installs completions where each shell looks for them; each asks the binary.
#[test]
fn completions_are_packaged() {
    let manifest = read("Cargo.toml");
    for (file, place, command) in [
        ("millrace.bash", "usr/share/bash-completion/completions/millrace", "millrace completions bash"),
        ("_millrace", "usr/share/zsh/vendor-completions/", "millrace completions zsh"),
        ("millrace.fish", "usr/share/fish/vendor_completions.d/", "millrace completions fish"),
    ] {
        assert!(manifest.contains(&format!("[\"packaging/completions/{file}\", \"{place}\", \"644\"]")), "{file}");
        assert!(read(&format!("packaging/completions/{file}")).contains(command), "{file}");
        use clap::Parser as _;
        assert!(millrace::cli::Command::try_parse_from(command.split(' ')).is_ok(), "{command}");
    }
}

/// What the unit leaves open to the service, 0 (nothing) to 10, times ten: the network, files of the host, its own group.
const MAX_EXPOSURE: &str = "20";

#[test]
fn the_unit_leaves_little_open_to_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("millrace.service");
    std::fs::write(&unit, read("packaging/debian/millrace.service")).unwrap();
    let analyze = |threshold: &str| {
        std::process::Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=yes", &format!("--threshold={threshold}")])
            .arg(&unit)
            .output()
    };
    let version = std::process::Command::new("systemd-analyze").arg("--version").output();
    let text = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version: u32 = text.split_whitespace().nth(1).and_then(|version| version.parse().ok()).unwrap_or_default();
    // Older ones, and hosts without it, can't look at a file.
    assert!(
        version < 250 || !analyze("1").unwrap().status.success(),
        "a unit that may do anything at all is above this"
    );
    if version >= 250 {
        let output = analyze(MAX_EXPOSURE).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
