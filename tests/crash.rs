//! The same path while agent, broker and aggregator are killed with SIGKILL at random moments: nothing lost, nothing
//! doubled in the index, the ledger adds up.
//!
//! SIGKILL proves nothing about fsync: that is tested in `log/src/storage` through the file-system seam.
//! The short form (6 kills) runs with `cargo test`, the full one (30) is ignored: `cargo test --test crash -- --ignored`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that fails says where

mod support;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use support::{Process, Site, Writer, assert_each_once, assert_ledger_adds_up, until};

const ROLES: [&str; 3] = ["broker", "aggregator", "agent"];

fn run(kills: usize, lines: usize) {
    // The seed is printed so that a failure can be looked at again; moments still differ with the machine.
    let seed: u64 = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("MILLRACE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::new();
    let mut processes: Vec<Process> = ROLES.iter().map(|role| site.start(role)).collect();
    site.wait_ready();
    let mut writer = Writer::new(&site.logs(), 8, lines / 8 / 5 + 1);
    let mut next_kill = Instant::now();
    let mut killed = 0;
    while writer.written() < lines || killed < kills {
        if writer.written() < lines {
            writer.write((lines / (kills * 10).max(1) + 1).min(lines - writer.written()));
        }
        if killed < kills && Instant::now() >= next_kill {
            let victim = random.random_range(0..ROLES.len());
            processes[victim].kill();
            processes[victim] = site.start(ROLES[victim]);
            killed += 1;
            next_kill = Instant::now() + Duration::from_millis(random.random_range(100..2500));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    site.wait_ready();
    until("all lines indexed", Duration::from_secs(300), || match site.count_by_loki(r#"{service="writer"}"#)? {
        n if n as usize >= lines => Ok(()),
        n => Err(format!("{n} of {lines} (seed {seed})\n{}", site.output("agent"))),
    });
    assert_each_once(&site.lines_by_loki(r#"{service="writer"}"#), lines, "Loki API");
    assert_ledger_adds_up(&site.ledger());
    for process in processes.into_iter().rev() {
        assert_eq!(process.stop(), 0);
    }
}

#[test]
fn six_kills_lose_and_double_nothing() {
    run(6, 30_000);
}

#[test]
#[ignore = "several minutes"]
fn thirty_kills_lose_and_double_nothing() {
    run(30, 200_000);
}
