//! The loop over a log in memory: gaps, epochs, crashes at each step, fencing, pauses, lag, for each way of keeping positions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::registry::Registry;

use super::consumer::Consumer;
use super::delivery::{Keeping, Known, Setback};
use super::fake::{Fake, FakeReader, FakeTarget, Partition, Placed, tp};
use super::metrics::ConsumerMetrics;
use super::places::{Moved, Places};
use super::sessions::sessions;
use super::settings::ConsumerSettings;
use super::status::{ConsumerStatus, Pause};
use crate::clock::{ManualClock, SharedClock};
use crate::record::TopicPartition;
use crate::topic_id::TopicId;

const ALL: [Keeping; 3] = [Keeping::Store, Keeping::Group, Keeping::Transaction];

fn status() -> (ConsumerStatus, Registry) {
    let mut registry = Registry::default();
    let metrics = ConsumerMetrics::register(registry.sub_registry_with_prefix("room"));
    let owner = vec![("export".to_owned(), "e".to_owned())];
    (ConsumerStatus::new("export `e`", owner, &metrics, &[Pause::Log, Pause::Fenced]), registry)
}

fn shown(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

fn consumer(fake: &Fake, keeping: Keeping, status: &ConsumerStatus) -> Consumer<FakeReader, FakeTarget> {
    let settings = ConsumerSettings {
        topics: vec!["t".to_owned()],
        discover_interval: Duration::ZERO,
        identity: "group-1".to_owned(),
        kind: "export",
        fenced_hint: "give each its own name",
    };
    let clock: SharedClock = ManualClock::at_ns(7_000_000);
    let (reader, target) = (FakeReader::new(fake, keeping), FakeTarget::new(fake, keeping, status));
    Consumer::new(reader, target, settings, clock, status.clone(), fake.control.clone(), fake.token.clone())
}

fn run(fake: &Fake, keeping: Keeping, status: &ConsumerStatus) {
    fake.world.lock().idle = 0;
    consumer(fake, keeping, status).run().unwrap();
}

fn offsets(fake: &Fake, partition: i32) -> Vec<(u64, i64)> {
    let world = fake.world.lock();
    let of = world.output.iter().filter(|(_, Placed(of, _))| of.partition == partition);
    of.map(|(epoch, Placed(_, offset))| (*epoch, *offset)).collect()
}

/// Where the next life reads on.
fn kept(fake: &Fake, keeping: Keeping, partition: i32) -> Option<i64> {
    let world = fake.world.lock();
    match keeping {
        Keeping::Store => world.kept.get(&tp(partition)).map(|known| known.next),
        _ => world.committed.get(&tp(partition)).copied(),
    }
}

fn assert_balanced(status: &ConsumerStatus) {
    let counts = status.counts();
    assert_eq!(counts.read, counts.stored + counts.dropped.values().sum::<u64>() + counts.waiting, "{counts:?}");
    assert_eq!(counts.waiting, 0, "nothing is on its way after the end");
}

#[test]
fn a_place_is_moved_into_the_range_of_the_log() {
    // Known position, range; what the look says, where it goes on, and the hole before the next record, at 100.
    type Case = (i64, (i64, i64), &'static str, (u64, i64), Option<(i64, i64)>);
    let cases: [Case; 5] = [
        (5, (0, 10), "stays", (2, 5), None),
        (10, (0, 10), "stays", (2, 10), None),
        (5, (5, 5), "stays", (2, 5), None),
        (5, (8, 10), "lost", (2, 8), Some((5, 8))),
        (11, (3, 10), "short", (3, 3), None),
    ];
    for (next, range, want, (epoch, at), hole) in cases {
        let mut places = Places::default();
        let moved = places.add_known(&tp(0), Known { epoch: 2, next, topic_id: None }, None, range, 7);
        let said = match &moved {
            Moved::Stays => "stays",
            Moved::Lost(hole) => {
                assert_eq!((hole.interval.from, hole.interval.to), (next, range.0));
                "lost"
            }
            Moved::Short => "short",
            Moved::Anew => "anew",
        };
        assert_eq!((said, places.get(&tp(0)).and_then(|place| place.next)), (want, Some(at)), "{next} in {range:?}");
        let stretch = places.advance(vec![Placed(tp(0), 100)]).pop().unwrap();
        assert_eq!((stretch.interval.epoch, stretch.interval.from, stretch.interval.to), (epoch, at, 101));
        assert_eq!(stretch.hole.map(|hole| (hole.interval.from, hole.interval.to)), hole, "{next} in {range:?}");
    }
}

#[test]
fn holes_that_follow_each_other_are_handed_over_as_one() {
    let mut places = Places::default();
    places.add(tp(0), 0, Some(5), None);
    assert!(matches!(places.fit(&tp(0), (8, 20), 7), Moved::Lost(_)));
    let unreadable = places.unreadable(&tp(0), 8, 12, 7).unwrap();
    assert_eq!((unreadable.interval.from, unreadable.interval.to), (8, 12), "only what is new");
    assert_eq!(places.unreadable(&tp(0), 9, 11, 7), None, "it is behind that already");
    let records = [12, 13].map(|offset| Placed(tp(0), offset));
    let stretch = places.advance(records.to_vec()).pop().unwrap();
    let hole = stretch.hole.unwrap();
    assert_eq!((hole.interval.from, hole.interval.to, stretch.interval.from), (5, 12, 12));
    // Left from before a new assignment.
    assert!(places.advance(records.to_vec()).is_empty());
}

#[test]
fn a_crash_at_any_step_leaves_no_position_ahead_of_its_output() {
    for keeping in ALL {
        let mut crashes = 0;
        for crash_at in 1.. {
            let fake = Fake::default();
            fake.put(0, 10);
            fake.put(1, 5);
            fake.world.lock().crash_at = Some(crash_at);
            let (status, _) = status();
            run(&fake, keeping, &status);
            let has_crashed = fake.world.lock().steps >= crash_at;
            for partition in [0, 1] {
                let durable = offsets(&fake, partition).len() as i64;
                let kept = kept(&fake, keeping, partition).unwrap_or(0);
                assert!(kept <= durable, "{keeping:?}, step {crash_at}: position {kept}, output {durable}");
                if keeping != Keeping::Group {
                    assert_eq!(kept, durable, "{keeping:?}, step {crash_at}: in one step");
                }
            }
            if keeping != Keeping::Store {
                assert_balanced(&status);
            }
            let again = fake.again();
            again.world.lock().crash_at = None;
            run(&again, keeping, &status);
            for (partition, count) in [(0, 10), (1, 5)] {
                let all = offsets(&again, partition);
                let each: BTreeSet<_> = all.iter().copied().collect();
                assert_eq!(each, (0..count).map(|offset| (0, offset)).collect(), "{keeping:?}, step {crash_at}");
                if keeping != Keeping::Group {
                    assert_eq!(all.len(), each.len(), "{keeping:?}, step {crash_at}: each once");
                }
                assert_eq!(kept(&again, keeping, partition), Some(count), "{keeping:?}, step {crash_at}");
            }
            if !has_crashed {
                break;
            }
            crashes += 1;
        }
        assert!(crashes > 10, "{keeping:?}: {crashes} steps");
    }
}

#[test]
fn a_consumer_that_has_ended_leaves_no_partition_stalled() {
    for keeping in ALL {
        let (status, registry) = status();
        let fake = Fake::default();
        fake.put(0, 4);
        run(&fake, keeping, &status);
        status.stalled(&tp(0), 300);
        let gauge = "room_stalled_seconds{export=\"e\",topic=\"t\",partition=\"0\"}";
        assert!(shown(&registry).contains(&format!("{gauge} 300\n")), "{}", shown(&registry));
        run(&fake.again(), keeping, &status);
        assert!(shown(&registry).contains(&format!("{gauge} 0\n")), "{keeping:?}: {}", shown(&registry));
    }
}

#[test]
fn gaps_are_reported_equally_by_all_ways_of_keeping_positions() {
    for keeping in ALL {
        let (status, registry) = status();
        let fake = Fake::default();
        fake.put(0, 4);
        run(&fake, keeping, &status);
        // Of 20 more the first six are gone before they are read, and three can't be read.
        let again = fake.again();
        again.put(0, 20);
        {
            let mut world = again.world.lock();
            let p = world.partitions.get_mut(&tp(0)).unwrap();
            (p.low, p.unreadable, p.control) = (10, Some((15, 18)), vec![20]);
        }
        run(&again, keeping, &status);
        let read: Vec<i64> = offsets(&again, 0).into_iter().map(|(_, offset)| offset).collect();
        let want: Vec<i64> = (0..4).chain(10..15).chain(18..20).chain(21..24).collect();
        assert_eq!(read, want, "{keeping:?}");
        let holes: Vec<_> = again.world.lock().holes.iter().map(|hole| (hole.from, hole.to)).collect();
        assert_eq!(holes, [(4, 10), (15, 18)], "{keeping:?}: they travel with the records behind them");
        assert_eq!(status.holes(), (2, 9), "{keeping:?}");
        let said = "export `e` has lost 9 offsets of the log in 2 gaps since the start, the last before offset 18 of t-0: \
                    records there can't be read";
        assert_eq!(status.losses().as_deref(), Some(said), "{keeping:?}");
        assert_eq!(status.hole_list().len(), 2, "{keeping:?}");
        let text = shown(&registry);
        let want = "room_hole_offsets_total{export=\"e\",topic=\"t\",partition=\"0\"} 9\n";
        assert!(text.contains(want), "{keeping:?}: {text}");
        if keeping != Keeping::Store {
            assert_balanced(&status);
            assert_eq!(status.counts().read, read.len() as u64, "{keeping:?}");
        }
    }
}

#[test]
fn a_gap_that_a_new_session_meets_again_counts_once() {
    let (status, _) = status();
    let fake = Fake::default();
    fake.put(0, 10);
    run(&fake, Keeping::Group, &status);
    {
        let mut world = fake.world.lock();
        let p = world.partitions.get_mut(&tp(0)).unwrap();
        // Nothing is left behind the gap, so no offset is committed behind it.
        (p.low, p.high) = (15, 15);
    }
    for _ in 0..3 {
        run(&fake.again(), Keeping::Group, &status);
    }
    assert_eq!(status.holes(), (1, 5));
    // It grows.
    fake.world.lock().partitions.insert(tp(0), Partition { low: 17, high: 17, ..Default::default() });
    run(&fake.again(), Keeping::Group, &status);
    assert_eq!(status.holes(), (2, 7));
}

#[test]
fn a_topic_created_anew_is_read_from_its_start_in_a_new_epoch() {
    for keeping in ALL {
        let (status, _) = status();
        let fake = Fake::default();
        fake.put(0, 9);
        run(&fake, keeping, &status);
        fake.world.lock().partitions.insert(tp(0), Partition { high: 4, ..Default::default() });
        run(&fake.again(), keeping, &status);
        let want: Vec<(u64, i64)> = (0..9).map(|offset| (0, offset)).chain((0..4).map(|offset| (1, offset))).collect();
        assert_eq!(offsets(&fake, 0), want, "{keeping:?}");
        assert_eq!((status.holes(), kept(&fake, keeping, 0)), ((0, 0), Some(4)), "{keeping:?}: no hole");
    }
}

#[test]
fn a_topic_created_anew_and_refilled_beyond_the_position_is_read_from_its_start() {
    let of = |high, id| Partition { high, topic_id: TopicId::of(uuid::Uuid::from_u128(id)), ..Partition::default() };
    // Ids before and after, and what is read of the new topic: without an id the log looks like one that went on.
    let cases = [((1, 2), (1, 0)), ((1, 0), (0, 9)), ((0, 2), (0, 9))];
    for ((keeping, runs_on), ((before, after), (epoch, from))) in
        ALL.iter().flat_map(|keeping| [(keeping, true), (keeping, false)]).flat_map(|how| cases.map(|case| (how, case)))
    {
        let (status, _) = status();
        let fake = Fake::default();
        fake.world.lock().partitions.insert(tp(0), of(9, before));
        if runs_on {
            fake.world.lock().recreate = Some(of(12, after));
        }
        run(&fake, *keeping, &status);
        fake.world.lock().partitions.insert(tp(0), of(12, after));
        run(&fake.again(), *keeping, &status);
        // A group keeps no epochs beyond a session.
        let epoch = if *keeping == Keeping::Store || runs_on { epoch } else { 0 };
        let old = (0..9).map(|offset| (0, offset));
        let want: Vec<(u64, i64)> = old.chain((from..12).map(|offset| (epoch, offset))).collect();
        let how = format!("{keeping:?}, runs on: {runs_on}, id {before} to {after}");
        assert_eq!(offsets(&fake, 0), want, "{how}");
        assert_eq!((status.holes(), kept(&fake, *keeping, 0)), ((0, 0), Some(12)), "{how}: no hole");
    }
}

#[test]
fn partitions_that_come_while_it_runs_are_read_from_their_start() {
    for keeping in ALL {
        let (status, _) = status();
        let fake = Fake::default();
        fake.put(0, 7);
        fake.world.lock().grow = Some((1, 4));
        run(&fake, keeping, &status);
        for (partition, count) in [(0, 7), (1, 4)] {
            let all = offsets(&fake, partition);
            let each: BTreeSet<_> = all.iter().copied().collect();
            assert_eq!(each, (0..count).map(|offset| (0, offset)).collect(), "{keeping:?}");
            // What a group takes away and gives again is read from its committed offsets.
            assert!(keeping == Keeping::Group || all.len() == each.len(), "{keeping:?}: {all:?}");
            assert_eq!(kept(&fake, keeping, partition), Some(count), "{keeping:?}");
        }
    }
}

#[test]
fn a_log_out_of_reach_is_a_pause_that_ends_by_itself() {
    for keeping in ALL {
        let (status, registry) = status();
        assert!(shown(&registry).contains("room_paused{export=\"e\",reason=\"log\"} 0\n"), "shown from the start");
        assert_eq!(status.ready().unwrap_err(), "positions in the log are not known yet");
        let fake = Fake::default();
        fake.put(0, 5);
        fake.world.lock().failing_polls = 1;
        run(&fake, keeping, &status);
        assert_eq!((offsets(&fake, 0).len(), status.trouble()), (5, None), "{keeping:?}");
        status.pause(Pause::Log, "out of reach");
        status.pause(Pause::Fenced, "taken over");
        assert_eq!(status.trouble().unwrap(), "out of reach; taken over");
        assert!(shown(&registry).contains("room_paused{export=\"e\",reason=\"log\"} 1\n"));
        run(&fake.again(), keeping, &status);
        assert_eq!(status.ready(), Ok(()), "{keeping:?}");
        assert!(shown(&registry).contains("room_paused{export=\"e\",reason=\"log\"} 0\n"));
    }
}

#[test]
fn an_empty_poll_is_no_sign_that_the_log_is_there() {
    let (status, _) = status();
    let fake = Fake::default();
    fake.put(0, 5);
    fake.world.lock().goes_away = true;
    run(&fake, Keeping::Store, &status);
    assert_eq!(offsets(&fake, 0).len(), 5);
    assert!(status.trouble().is_some_and(|trouble| trouble.contains("out of reach")), "{:?}", status.trouble());
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_no_trouble_before_it_lasts() {
    let (status, _) = status();
    status.pause(Pause::Log, "was never there");
    assert_eq!(status.ready().unwrap_err(), "was never there");
    status.positioned();
    status.pause(Pause::Log, "does not answer");
    assert_eq!((status.ready(), status.notice()), (Ok(()), None), "the next attempt may succeed");
    assert_eq!(status.trouble().as_deref(), Some("does not answer"), "doctor says it at once");
    tokio::time::advance(Duration::from_secs(3)).await;
    status.pause(Pause::Log, "still does not answer");
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(status.ready().unwrap_err(), "still does not answer");
    assert_eq!(status.notice().unwrap(), "export `e` is paused: still does not answer");
    status.resume(Pause::Log);
    assert_eq!((status.ready(), status.notice()), (Ok(()), None));
    // Others last by themselves.
    status.pause(Pause::Target, "refused");
    assert_eq!(status.ready().unwrap_err(), "refused");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_fenced_says_so_waits_and_goes_on() {
    for keeping in [Keeping::Group, Keeping::Transaction] {
        let (status, _) = status();
        let fake = Fake::default();
        fake.put(0, 8);
        fake.world.lock().fenced = true;
        let (runs, begun) = (AtomicUsize::new(0), tokio::time::Instant::now());
        let waits = (Duration::from_millis(500), Duration::from_secs(30));
        let session = || {
            let run = runs.fetch_add(1, Ordering::Relaxed);
            let notice = status.notice();
            let want = "another export named `group-1` has taken over: give each its own name";
            assert_eq!(notice.is_some_and(|notice| notice.contains(want)), run == 1, "{keeping:?}");
            let ended = consumer(&fake.again(), keeping, &status).run();
            assert_eq!(matches!(ended, Err(Setback::Fenced { .. })), run == 0, "{ended:?}");
            async { ended }
        };
        sessions(&status, waits, &fake.token, session).await;
        assert!(begun.elapsed() >= Duration::from_secs(60), "the two do not take turns");
        assert_eq!((runs.load(Ordering::Relaxed), offsets(&fake, 0).len(), status.trouble()), (2, 8, None));
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_wait_longer_each_time_and_end_with_the_token() {
    let (status, _) = status();
    let fake = Fake::default();
    let begun = tokio::time::Instant::now();
    let (times, token) = (parking_lot::Mutex::new(Vec::new()), fake.token.clone());
    let session = || {
        times.lock().push(begun.elapsed().as_millis());
        if times.lock().len() == 5 {
            token.cancel();
        }
        async { Err(Setback::Delivery { pause: Pause::Target, source: "no".into() }) }
    };
    sessions(&status, (Duration::from_millis(100), Duration::from_millis(300)), &fake.token, session).await;
    assert_eq!(*times.lock(), [0, 100, 300, 600, 900]);
    assert_eq!(status.trouble().as_deref(), Some("no"));
}

#[test]
fn commits_that_fail_are_repeated_and_a_full_delivery_loses_nothing() {
    let (status, _) = status();
    let fake = Fake::default();
    fake.put(0, 10);
    {
        let mut world = fake.world.lock();
        (world.refuse_commits, world.full) = (1, 3);
    }
    run(&fake, Keeping::Group, &status);
    assert_eq!((offsets(&fake, 0).len(), kept(&fake, Keeping::Group, 0)), (10, Some(10)));
}

#[tokio::test]
async fn the_loop_answers_while_the_delivery_has_no_room_and_says_how_far_behind_it_is() {
    let (status, registry) = status();
    let fake = Fake::default();
    fake.put(0, 6);
    fake.put(1, 0);
    fake.world.lock().full = usize::MAX;
    let control = fake.control.clone();
    let (running, shared) = (consumer(&fake, Keeping::Group, &status), Arc::clone(&fake.world));
    let thread = tokio::task::spawn_blocking(move || running.run());
    let ends: BTreeMap<TopicPartition, i64> = control.ends().await.unwrap().into_iter().collect();
    assert_eq!(ends, BTreeMap::from([(tp(0), 6), (tp(1), 0)]));
    assert_eq!(control.behind().await.unwrap(), 6);
    shared.lock().full = 0;
    control.caught_up().await.unwrap();
    thread.await.unwrap().unwrap();
    assert!(control.ends().await.is_err(), "it has ended");
    assert!(shown(&registry).contains("room_lag_records{export=\"e\"} "));
}
