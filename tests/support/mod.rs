//! What the tests of the whole system share: fresh folders and ports, real processes of the built binary, writers that
//! number their lines and rotate, and readers that count every line through each API.
//!
//! Everything is bounded by deadlines: nothing sleeps for a fixed time and hopes.

#![allow(dead_code, clippy::unwrap_used)] // each test binary uses its own part; a test that fails says where

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

/// The folder with conformance suites and servers.
pub fn shared() -> PathBuf {
    std::env::var_os("MILLRACE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from)
}

/// A port that nobody listens on and that the system gives to nobody by itself: below the range of outgoing
/// connections, where a client that dials while its server is down may be handed that very port and hold it.
/// Each call of a process gets another one.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(131);
    (0..COUNT)
        .map(|_| FIRST + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .map(|port| u16::try_from(port).unwrap())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// Asks `done` until it gives an answer; panics with the last complaint at the deadline.
pub fn until<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match done() {
            Ok(value) => return value,
            Err(complaint) if Instant::now() > deadline => panic!("{what}: not within {limit:?}: {complaint}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Has a process reload its configuration.
pub fn hang_up(process: &Process) {
    let sent = Command::new("kill").args(["-HUP", &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits until a process listens for SIGTERM: one that was started a moment ago would die of it instead of stopping.
pub fn until_it_can_be_stopped(pid: u32) {
    const SIGTERM: u64 = 1 << (15 - 1);
    until("the process listens for signals", Duration::from_secs(60), || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        // One that has ended already tells by its exit code how.
        let has_ended = status.lines().any(|line| line.starts_with("State:\tZ"));
        if caught & SIGTERM != 0 || has_ended { Ok(()) } else { Err("not yet".to_owned()) }
    });
}

/// One installation: folder, ports, configuration.
pub struct Site {
    /// Everything lies below it.
    pub folder: tempfile::TempDir,
    /// Port of the embedded broker, or of a real Kafka.
    pub kafka: u16,
    /// Loki API and page.
    pub http: u16,
    /// Elasticsearch API.
    pub elastic: u16,
    /// Alertmanager API.
    pub alertmanager: u16,
    /// Real OpenSearch that an export feeds, if any.
    pub opensearch: Option<u16>,
    /// Whether the embedded broker runs.
    pub embedded: bool,
    /// Written in place of the usual configuration.
    pub written: Option<String>,
}

impl Site {
    /// Fresh folder and ports, embedded broker.
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            kafka: free_port(),
            http: free_port(),
            elastic: free_port(),
            alertmanager: free_port(),
            opensearch: None,
            embedded: true,
            written: None,
        }
    }

    /// Where the log files are.
    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// The configuration of all roles.
    pub fn config(&self) -> String {
        if let Some(written) = &self.written {
            return written.clone();
        }
        let Self { kafka, http, elastic, alertmanager, .. } = self;
        let folder = self.folder.path().display();
        let broker = if self.embedded { format!("broker: {{listen: \"127.0.0.1:{kafka}\"}}\n") } else { String::new() };
        let exports = self.opensearch.map_or_else(String::new, |port| {
            format!(
                "exports:\n  - type: elasticsearch\n    url: http://127.0.0.1:{port}\n    index: exported\n    \
                 kafka: {{brokers: [\"127.0.0.1:{kafka}\"], topics: [logs], group: export}}\n"
            )
        });
        format!(
            "data_dir: {folder}/data\n\
             agent:\n  sources:\n    - type: file\n      include: [\"{folder}/logs/*.log\"]\n      \
             labels: {{service: writer, env: test}}\n  \
             kafka: {{brokers: [\"127.0.0.1:{kafka}\"], topic: logs}}\n\
             {broker}\
             aggregator:\n  kafka: {{brokers: [\"127.0.0.1:{kafka}\"], topics: [logs], group: millrace}}\n  \
             http: {{listen: \"127.0.0.1:{http}\"}}\n  \
             elasticsearch: {{listen: \"127.0.0.1:{elastic}\"}}\n  \
             index: {{split_age: 2s, split_bytes: 8MiB, query: {{max_entries: 1000000, timeout: 5m}}}}\n\
             rules: {{files: []}}\n\
             notify: {{listen: \"127.0.0.1:{alertmanager}\"}}\n\
             {exports}"
        )
    }

    /// Starts one role (`run`, `agent`, `broker`, `aggregator`) as a process of its own.
    pub fn start(&self, role: &str) -> Process {
        self.start_with(role, &[])
    }

    /// The same with variables that override keys.
    pub fn start_with(&self, role: &str, variables: &[(&str, &str)]) -> Process {
        let path = self.folder.path().join("millrace.yaml");
        // As a whole or not at all: a role that was just started may be reading it.
        let fresh = self.folder.path().join("millrace.yaml.new");
        std::fs::write(&fresh, self.config()).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        let log =
            OpenOptions::new().create(true).append(true).open(self.folder.path().join(format!("{role}.out"))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_millrace"))
            .args([role, "-c"])
            .arg(&path)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Process { child, role: role.to_owned() }
    }

    /// What a role printed.
    pub fn output(&self, role: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("{role}.out"))).unwrap_or_default()
    }

    /// Waits until `/ready` says so.
    pub fn wait_ready(&self) {
        until("ready", Duration::from_secs(60), || match get(&format!("http://127.0.0.1:{}/ready", self.http)) {
            Ok((200, _)) => Ok(()),
            Ok((status, text)) => Err(format!("{status} {text}\n{}", self.output("broker"))),
            Err(error) => Err(format!("{error}\n{}{}", self.output("run"), self.output("aggregator"))),
        });
    }

    /// How often each line was found through the Loki API.
    pub fn lines_by_loki(&self, query: &str) -> HashMap<String, usize> {
        let query = encoded(query);
        let url = format!(
            "http://127.0.0.1:{}/loki/api/v1/query_range?query={query}&since=24h&limit=1000000&direction=forward",
            self.http
        );
        let (status, text) = get(&url).unwrap();
        assert_eq!(status, 200, "{text}");
        let answer: Json = serde_json::from_str(&text).unwrap();
        let mut found = HashMap::new();
        for stream in answer["data"]["result"].as_array().unwrap() {
            for value in stream["values"].as_array().unwrap() {
                *found.entry(value[1].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        found
    }

    /// Number of lines that a selector finds, by the Loki API.
    pub fn count_by_loki(&self, selector: &str) -> Result<u64, String> {
        let query = encoded(&format!("sum(count_over_time({selector}[24h]))"));
        let (status, text) = get(&format!("http://127.0.0.1:{}/loki/api/v1/query?query={query}", self.http))?;
        if status != 200 {
            return Err(format!("{status} {text}"));
        }
        let answer: Json = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let value = answer["data"]["result"][0]["value"][1].as_str().unwrap_or("0").to_owned();
        value.parse::<f64>().map(|n| n as u64).map_err(|e| e.to_string())
    }

    /// How often each line was found through the Elasticsearch API, page by page.
    pub fn lines_by_elastic(&self, index: &str) -> HashMap<String, usize> {
        let url = format!("http://127.0.0.1:{}/{index}/_search", self.elastic);
        let mut found = HashMap::new();
        let mut after: Option<Json> = None;
        loop {
            let mut body = json!({"size": 10000, "sort": [{"@timestamp": "asc"}, {"_id": "asc"}], "query": {"match_all": {}}, "_source": ["message"]});
            if let Some(after) = &after {
                body["search_after"] = after.clone();
            }
            let (status, text) = post(&url, "application/json", body.to_string()).unwrap();
            assert_eq!(status, 200, "{text}");
            let answer: Json = serde_json::from_str(&text).unwrap();
            let hits = answer["hits"]["hits"].as_array().unwrap();
            for hit in hits {
                *found.entry(hit["_source"]["message"].as_str().unwrap().to_owned()).or_default() += 1;
            }
            match hits.last() {
                Some(last) => after = Some(last["sort"].clone()),
                None => return found,
            }
        }
    }

    /// The ledger of the process that serves HTTP.
    pub fn ledger(&self) -> Json {
        let (status, text) = get(&format!("http://127.0.0.1:{}/api/v1/ledger", self.http)).unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// A running role. Killed when dropped.
pub struct Process {
    child: Child,
    role: String,
}

impl Process {
    /// SIGKILL, as a crash.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM.
    pub fn signal(&self) {
        let killed = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
    }

    /// SIGTERM; the exit code.
    pub fn stop(mut self) -> i32 {
        self.signal();
        until(&format!("{} ends", self.role), Duration::from_secs(60), || {
            self.child
                .try_wait()
                .unwrap()
                .map(|status| status.code().unwrap_or(-1))
                .ok_or_else(|| "still runs".to_owned())
        })
    }

    /// Peak of the resident memory so far, KiB.
    pub fn peak_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or("VmHWM: 0 kB");
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// CPU seconds used so far (user and system).
    pub fn cpu_seconds(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let after = text.rsplit_once(')').map_or("", |(_, after)| after);
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Writes numbered lines into several files, each rotated by rename after some lines.
pub struct Writer {
    folder: PathBuf,
    files: Vec<File>,
    rotate_every: usize,
    next: usize,
}

impl Writer {
    /// Makes the files.
    pub fn new(folder: &Path, files: usize, rotate_every: usize) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let files = (0..files).map(|i| Self::open(folder, i)).collect();
        Self { folder: folder.to_owned(), files, rotate_every, next: 0 }
    }

    fn open(folder: &Path, file: usize) -> File {
        OpenOptions::new().create(true).append(true).open(folder.join(format!("writer-{file}.log"))).unwrap()
    }

    /// The text of line `n`.
    pub fn line(n: usize) -> String {
        format!(
            "line={n:07} level={} msg=\"order {} took {} ms\"",
            ["info", "warn", "error"][n % 3],
            n * 7919 % 100_003,
            n % 997
        )
    }

    /// Writes the next `count` lines, one after the other over all files.
    pub fn write(&mut self, count: usize) {
        let files = self.files.len();
        let mut texts = vec![String::new(); files];
        for n in self.next..self.next + count {
            let file = n % files;
            texts[file].push_str(&Self::line(n));
            texts[file].push('\n');
            if (n / files + 1).is_multiple_of(self.rotate_every) {
                self.files[file].write_all(std::mem::take(&mut texts[file]).as_bytes()).unwrap();
                self.rotate(file, n / files / self.rotate_every);
            }
        }
        for (file, text) in self.files.iter_mut().zip(texts) {
            file.write_all(text.as_bytes()).unwrap();
        }
        self.next += count;
    }

    /// As logrotate does by default: renames and opens anew. The old name no longer matches `*.log`.
    fn rotate(&mut self, file: usize, turn: usize) {
        let old = self.folder.join(format!("writer-{file}.log"));
        std::fs::rename(&old, self.folder.join(format!("writer-{file}.log.{turn}"))).unwrap();
        self.files[file] = Self::open(&self.folder, file);
    }

    /// Lines written so far.
    pub fn written(&self) -> usize {
        self.next
    }
}

/// Each of the lines 0..count was found exactly once, and nothing else.
pub fn assert_each_once(found: &HashMap<String, usize>, count: usize, by: &str) {
    let missing: Vec<usize> = (0..count).filter(|n| !found.contains_key(&Writer::line(*n))).collect();
    let doubled: Vec<(&String, &usize)> = found.iter().filter(|(_, times)| **times != 1).take(5).collect();
    assert!(
        missing.is_empty(),
        "{by}: {} of {count} lost, the first are {:?}",
        missing.len(),
        &missing[..missing.len().min(5)]
    );
    assert!(doubled.is_empty(), "{by}: doubled: {doubled:?}");
    assert_eq!(found.len(), count, "{by}: lines that nobody wrote");
}

/// Every hop of the ledger adds up.
pub fn assert_ledger_adds_up(ledger: &Json) {
    let hops = ledger["hops"].as_array().unwrap();
    assert!(!hops.is_empty());
    for hop in hops {
        let number = |key: &str| hop[key].as_u64().unwrap();
        assert_eq!(number("read"), number("stored") + number("dropped") + number("waiting"), "{hop}");
    }
}

fn client() -> &'static reqwest::Client {
    static CLIENT: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
    CLIENT.get_or_init(|| {
        drop(rustls::crypto::ring::default_provider().install_default());
        reqwest::Client::builder().timeout(Duration::from_secs(300)).build().unwrap()
    })
}

fn block<F: Future>(future: F) -> F::Output {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap()).block_on(future)
}

/// Status and body of a GET.
pub fn get(url: &str) -> Result<(u16, String), String> {
    block(async {
        let answer = client().get(url).send().await.map_err(|e| e.to_string())?;
        Ok((answer.status().as_u16(), answer.text().await.map_err(|e| e.to_string())?))
    })
}

/// Status and body of a POST.
pub fn post(url: &str, kind: &str, body: String) -> Result<(u16, String), String> {
    block(async {
        let answer =
            client().post(url).header("content-type", kind).body(body).send().await.map_err(|e| e.to_string())?;
        Ok((answer.status().as_u16(), answer.text().await.map_err(|e| e.to_string())?))
    })
}

/// For the query part of an address.
pub fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A real server of `shared/servers`, stopped when dropped (and when this process is gone).
pub struct Server {
    program: PathBuf,
    /// Its port.
    pub port: u16,
}

impl Server {
    /// Starts `kafka` or `opensearch` with an empty folder.
    pub fn start(name: &str, data: &Path) -> Self {
        Self::start_at(name, data, free_port())
    }

    /// The same on a port; a folder that was used before is used on.
    pub fn start_at(name: &str, data: &Path, port: u16) -> Self {
        let program = shared().join("servers").join(name);
        let status = Command::new(&program)
            .args(["start", &port.to_string()])
            .arg(data)
            .env("SERVER_PARENT", std::process::id().to_string())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{} did not start", program.display());
        Self { program, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(Command::new(&self.program).args(["stop", &self.port.to_string()]).stdout(Stdio::null()).status());
    }
}
