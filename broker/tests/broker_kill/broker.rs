//! The broker as a process that can be killed: this test binary, told by its environment to serve.
//!
//! In: port and folder. Out: a process that ends with its parent. Touches a fresh folder and the loopback network.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use millrace_broker::storage::FsckOptions;
use millrace_broker::storage::fsck::{Severity, fsck};
use millrace_broker::{Broker, BrokerConfig};
use millrace_log::clock::SystemClock;
use millrace_log::fs::RealFs;
use millrace_log::value::Span;
use tokio_util::sync::CancellationToken;

const FOLDER: &str = "MILLRACE_KILL_FOLDER";
const LISTEN: &str = "MILLRACE_KILL_LISTEN";
const READY: &str = "the broker serves";

/// Serves until its standard input ends: at a clean stop, and when the test is gone.
pub fn serve() {
    let (Ok(folder), Ok(listen)) = (std::env::var(FOLDER), std::env::var(LISTEN)) else { return };
    let mut config = BrokerConfig { listen, ..BrokerConfig::default() };
    config.storage.retention_check_interval = Span(Duration::from_millis(300));
    config.storage.cleaner_interval = Span(Duration::from_millis(300));
    config.group.initial_rebalance_delay = Span(Duration::ZERO);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut registry = prometheus_client::registry::Registry::default();
        let clock = SystemClock::shared();
        let broker = Broker::open(config, Path::new(&folder), RealFs::shared(), clock, &mut registry).await.unwrap();
        broker.bind().await.unwrap();
        println!("{READY}");
        let token = CancellationToken::new();
        let stop = token.clone();
        std::thread::spawn(move || {
            let _ended = std::io::stdin().read(&mut [0]);
            stop.cancel();
        });
        broker.run(token).await.unwrap();
    });
}

/// The broker, its folder and its port.
pub struct Victim {
    folder: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Victim {
    /// A fresh folder and a port below those that the system gives away.
    pub fn new() -> Self {
        // Tests of one process start at different ports.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let begin = std::process::id().wrapping_mul(131).wrapping_add(NUMBER.fetch_add(7919, Ordering::Relaxed));
        let port = (0..22_000_u32)
            .map(|n| u16::try_from(10_000 + begin.wrapping_add(n) % 22_000).unwrap())
            .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
        Self { folder: tempfile::tempdir().unwrap(), port: port.unwrap(), child: None }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it; how long that took until it serves.
    pub fn start(&mut self) -> Duration {
        let began = Instant::now();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "broker_process", "--ignored", "--nocapture"])
            .env(FOLDER, self.folder.path().join("data"))
            .env(LISTEN, self.address())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains(READY));
        let took = began.elapsed();
        // What it prints later must find a reader.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        self.child = Some(child);
        assert!(ready, "the broker did not start");
        took
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A clean stop.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    /// The folder check finds nothing worse than what the next start deals with.
    pub fn check_folder(&self) {
        let options = FsckOptions { repair: false, topics: Vec::new() };
        let report = fsck(&self.folder.path().join("data"), &RealFs, options).unwrap();
        assert!(report.worst().is_none_or(|worst| worst <= Severity::Note), "{:#?}", report.findings);
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _gone = child.kill().and_then(|()| child.wait());
        }
    }
}
