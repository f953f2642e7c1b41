//! Runs the embedded broker alone: `cargo run -p millrace-broker --example broker -- 127.0.0.1:9092 /tmp/folder`.
//!
//! In: address and folder, and perhaps a file with the section `broker` as JSON, whose listeners then count. Out: one line when it serves; it stops at Ctrl-C. For trying clients and for conformance runs.

use std::path::PathBuf;

use millrace_broker::{Broker, BrokerConfig};
use millrace_log::clock::SystemClock;
use millrace_log::fs::RealFs;
use millrace_log::value::Span;
use tokio_util::sync::CancellationToken;

// As in the binary, so that what is measured here holds there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join("millrace-broker"), PathBuf::from);
    let mut config = match arguments.next() {
        Some(file) => serde_json::from_slice(&std::fs::read(file)?)?,
        None => BrokerConfig { listen, ..BrokerConfig::default() },
    };
    // Short, so that retention and compaction can be watched.
    config.storage.retention_check_interval = Span::secs(2);
    config.storage.cleaner_interval = Span::secs(1);
    let mut registry = prometheus_client::registry::Registry::default();
    let broker = Broker::open(config, &folder, RealFs::shared(), SystemClock::shared(), &mut registry).await?;
    let address = broker.bind().await?;
    let token = CancellationToken::new();
    let stop = token.clone();
    let serve = broker.run(token);
    tokio::pin!(serve);
    println_address(address);
    tokio::select! {
        result = &mut serve => return Ok(result?),
        signal = tokio::signal::ctrl_c() => signal?,
    }
    stop.cancel();
    Ok(serve.await?)
}

#[allow(clippy::print_stdout, reason = "an example talks to its terminal")]
fn println_address(address: std::net::SocketAddr) {
    println!("serving on {address}");
}
