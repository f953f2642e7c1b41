//! The broker killed with SIGKILL at random moments under mixed load: what it acknowledged is there, in order, once.
//!
//! Idempotent producers, transactional producers that commit, abort and vanish, groups of both protocols, a compacted topic
//! and one with retention go on through every kill. After each restart and at the end the book of what was acknowledged is
//! held against what can be read. The broker is this test binary, started again as a process of its own.
//!
//! SIGKILL proves nothing about fsync: that is tested in `broker/src/storage` through the file-system seam. The short form runs
//! with `cargo test`, 200 kills with `cargo test -p millrace-broker --test broker_kill -- --ignored two_hundred`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that fails says where

/// What was acknowledged.
mod book;
/// The process that is killed.
mod broker;
/// Clients that write and commit.
mod load;
/// Static members of a cooperative group.
mod static_members;
/// Holds what can be read against the book.
mod verify;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use book::Book;
use broker::Victim;
use verify::Auditor;

/// Time from the start of the process to its readiness.
const MOST_START: Duration = Duration::from_secs(5);

fn run(kills: usize) {
    let seed: u64 = std::env::var("MILLRACE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("MILLRACE_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut victim = Victim::new();
    victim.start();
    let address = victim.address();
    load::make_topics(&address);
    let book = Book::shared();
    let load = load::start(&address, &book, seed);
    let mut auditor = Auditor::new(&address);
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    for kill in 1..=kills {
        std::thread::sleep(Duration::from_millis(random.random_range(50..1500)));
        victim.kill();
        if kill % 10 == 0 {
            victim.check_folder();
        }
        let took = victim.start();
        slowest = slowest.max(took);
        assert!(took < MOST_START, "start {kill} took {took:?} (seed {seed})");
        auditor.audit(&book, &format!("after kill {kill} (seed {seed})"));
    }
    let elapsed = began.elapsed();
    load.stop();
    auditor.audit_all(&book, &format!("at the end (seed {seed})"));
    victim.kill();
    victim.check_folder();
    victim.start();
    auditor.audit_all(&book, &format!("after the last kill (seed {seed})"));
    victim.stop();
    victim.check_folder();
    println!("{kills} kills in {elapsed:?}, slowest start {slowest:?}: {}", book.lock().summary());
}

#[test]
fn six_kills_lose_and_double_nothing() {
    run(6);
}

#[test]
#[ignore = "about eight minutes"]
fn two_hundred_kills_lose_and_double_nothing() {
    run(std::env::var("MILLRACE_KILLS").ok().and_then(|s| s.parse().ok()).unwrap_or(200));
}

#[test]
fn commits_of_static_cooperative_members_are_what_is_fetched() {
    static_members::run(4);
}

/// Not a test: the process that [`Victim`] starts.
#[test]
#[ignore = "started by the tests above"]
fn broker_process() {
    broker::serve();
}
