//! The whole path on one machine: every role with its defaults on free ports and in a temporary folder, services that
//! write real log files, a rule, and a pager that prints.
//!
//! In: nothing. Out: lines for the person who watches; `PAGED` and `RESOLVED`. Touches a temporary folder and loopback.

/// The generated services.
pub mod services;
/// The webhook receiver that prints.
pub mod pager;

use std::sync::Arc;
use std::time::Duration;

use millrace_doors::serve::{HttpListener, HttpSettings};
use millrace_log::clock::SystemClock;
use parking_lot::Mutex;

use crate::config::{self, Config};
use crate::exit::{Code, Failure};
use crate::run::Process;
use crate::stages::{StageResult, Stages};
use pager::{Pager, Seen};
use services::Burst;

/// When the error rate bursts, counted from the start of the services.
const BURST_FROM: Duration = Duration::from_secs(15);
/// How long it does.
const BURST_LASTS: Duration = Duration::from_secs(12);
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// The rule that fires: the shipped one.
pub const RULE_FILE: &str = include_str!("../../rules/examples/demo.yaml");

/// A running demo.
pub struct Demo {
    // Dropped last: everything lies in it.
    stages: Stages<()>,
    process: Process,
    pager: Arc<Pager>,
    folder: tempfile::TempDir,
}

impl Demo {
    /// Starts everything; `show` gets each line for the person who watches.
    pub async fn start(show: impl Fn(&str) + Send + 'static) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("millrace-demo-").tempdir()?;
        let burst = Arc::new(Burst { from: BURST_FROM, lasts: BURST_LASTS, began: Mutex::new(None) });
        let listener = HttpListener::open_async(HttpSettings::new("demo pager", "", "127.0.0.1:0")).await?;
        let receiver = listener.address();
        let config = configure(folder.path(), &format!("http://{receiver}/"))?;
        let process = Process::start_config(config).await?;
        show(&format!("data    {}", folder.path().display()));
        for (name, address) in process.addresses().named() {
            show(&format!("{name:<7} {address}"));
        }
        show(&format!(
            "burst   errors of `{}` in {} from second {} on",
            services::BURST_SERVICE,
            services::BURST_REGION,
            BURST_FROM.as_secs()
        ));
        let pager = Pager::new(Arc::clone(&burst), show);
        let mut stages = Stages::<()>::default();
        let router = Arc::clone(&pager).router();
        stages.start((), "demo pager", STOP_LIMIT, |token| async move { Ok(listener.serve(router, token).await?) });
        let path = folder.path().to_owned();
        stages.start((), "demo services", STOP_LIMIT, |token| async move {
            let writing = tokio::task::spawn_blocking(move || {
                services::write_all(&path, rand::random(), &burst, &SystemClock, &token)
            });
            Ok(writing.await??)
        });
        Ok(Self { stages, process, pager, folder })
    }

    /// Waits until a part ends although nobody stopped it.
    pub async fn ended_early(&mut self) -> (&'static str, StageResult) {
        tokio::select! {
            ended = self.stages.ended_early() => ended,
            ended = self.process.ended_early() => ended,
        }
    }

    /// What the pager has seen so far.
    pub fn seen(&self) -> Seen {
        *self.pager.seen().borrow()
    }

    /// Stops the services first, then every role, and removes the folder.
    pub async fn stop(self) -> Result<(), Failure> {
        self.process.stop().await?;
        self.stages.stop().await;
        Ok(self.folder.close()?)
    }
}

/// The embedded defaults on free ports, with sources, rule and receiver of the demo.
fn configure(folder: &std::path::Path, receiver: &str) -> Result<Config, Failure> {
    let rules = folder.join("rules.yaml");
    std::fs::write(&rules, RULE_FILE)?;
    let alertmanager = folder.join("alertmanager.yml");
    std::fs::write(
        &alertmanager,
        format!(
            "route:\n  receiver: pager\n  group_by: [alertname, service, region]\n  group_wait: 0s\n  group_interval: 1s\n  \
             repeat_interval: 1h\nreceivers:\n  - name: pager\n    webhook_configs:\n      - url: {receiver}\n"
        ),
    )?;
    let mut sources = String::new();
    for (service, format) in services::SERVICES {
        for region in services::REGIONS {
            let path = services::log_path(folder, service, region);
            let multiline = match format {
                services::Format::Java => ", multiline: {start: '^\\d{4}-\\d\\d-\\d\\dT'}",
                _ => "",
            };
            sources.push_str(&format!(
                "    - {{type: file, include: ['{}'], labels: {{service: {service}, env: demo, region: {region}}}{multiline}}}\n",
                path.display()
            ));
        }
    }
    let text = format!(
        "data_dir: {folder}/data\n\
         broker: {{listen: '127.0.0.1:0'}}\n\
         agent:\n  kafka: {{brokers: ['127.0.0.1:0'], topic: logs}}\n  sources:\n{sources}\
         aggregator:\n  kafka: {{brokers: ['127.0.0.1:0'], topics: [logs], group: millrace}}\n  \
         http: {{listen: '127.0.0.1:0'}}\n  elasticsearch: {{listen: '127.0.0.1:0'}}\n\
         rules: {{files: ['{rules}']}}\n\
         notify: {{config_file: '{alertmanager}', listen: '127.0.0.1:0'}}\n",
        folder = folder.display(),
        rules = rules.display(),
        alertmanager = alertmanager.display(),
    );
    config::parse("demo", &text, &config::environment::Variables::new())
        .map_err(|error| Failure::new(Code::Config, error))
}
