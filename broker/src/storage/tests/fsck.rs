//! Every fault that `fsck` can find, made on purpose: how it is told, and what is left after a repair.

use super::*;
use crate::storage::fsck::{FindingKind, FsckOptions, FsckReport, Severity, fsck};

fn check(fs: &SimFs, repair: bool) -> FsckReport {
    fsck(Path::new(DIR), fs, FsckOptions { repair, ..FsckOptions::default() }).unwrap()
}

/// A log with three segments, stopped in order.
async fn three_segments() -> (SimFs, Vec<(i64, i64)>) {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[("segment.bytes", "40000")]).await;
    for n in 0..250 {
        append(&p, batch(20, NOW_MS + n, (9, 0, 20 * n as i32))).await.unwrap();
    }
    let all = read_all(&p, 1 << 20).await;
    drop(p);
    storage.close().await.unwrap();
    (fs, all)
}

fn findings(report: &FsckReport) -> Vec<(FindingKind, Severity, bool)> {
    report.findings.iter().map(|f| (f.kind, f.severity, f.repaired)).collect()
}

#[tokio::test]
async fn a_sound_folder_has_no_findings() {
    let (fs, all) = three_segments().await;
    let before: Vec<_> = fs.files().into_iter().map(|path| (fs.content(&path), path)).collect();
    for repair in [false, true] {
        let report = check(&fs, repair);
        assert_eq!(report.findings, []);
        assert!(report.is_sound() && report.clean_stop);
        let [p] = &report.partitions[..] else { panic!("{report:?}") };
        assert_eq!((p.topic.as_str(), p.partition, p.log_start_offset, p.log_end_offset), ("t", 0, 0, 5000));
        assert_eq!((p.batches, p.records), (250, 5000));
        assert!(p.segments >= 3);
    }
    let after: Vec<_> = fs.files().into_iter().map(|path| (fs.content(&path), path)).collect();
    assert_eq!(before, after, "it changes nothing");
    assert_eq!(read_all(&partition(&open(&fs)), 1 << 20).await, all);
}

#[tokio::test]
async fn each_fault_is_told_and_repaired_without_losing_a_sound_batch() {
    let (good, all) = three_segments().await;
    let at = |name: &str| Path::new(DIR).join(name);
    let first = segment_path(0, "log");
    let content = good.content(&first).unwrap();
    let size = Header::parse(&content).unwrap().size();
    let snapshot = good.files().into_iter().rfind(|p| p.extension().is_some_and(|e| e == "producers")).unwrap();
    type Harm<'a> = Box<dyn Fn(&SimFs) + 'a>;
    let flip = |path: &Path, byte: usize| -> Harm<'_> {
        let path = path.to_owned();
        Box::new(move |fs: &SimFs| {
            let mut bytes = fs.content(&path).unwrap();
            bytes[byte] ^= 0x11;
            fs.set_content(&path, bytes);
        })
    };
    let cut = |path: PathBuf, by: usize| -> Harm<'_> {
        Box::new(move |fs: &SimFs| {
            let mut bytes = fs.content(&path).unwrap();
            bytes.truncate(bytes.len() - by);
            fs.set_content(&path, bytes);
        })
    };
    let put = |path: PathBuf, bytes: &'static [u8]| -> Harm<'_> {
        Box::new(move |fs: &SimFs| fs.set_content(&path, bytes.to_vec()))
    };
    let remove = |path: PathBuf| -> Harm<'_> { Box::new(move |fs: &SimFs| Filesystem::remove(fs, &path).unwrap()) };
    use FindingKind as K;
    use Severity as S;
    // (what is done, what is found and how bad, first offset of a batch that is lost, the text)
    let cases: Vec<(Harm<'_>, K, S, Option<i64>, &str)> = vec![
        (
            flip(&first, 2 * size + 90),
            K::Hole,
            S::Error,
            Some(40),
            "data/log/t-0/00000000000000000000.log at byte 702: 351 damaged bytes, the records [40, 60) are lost; check the disk; restore the file from a backup, or quarantine the bytes with `--repair`",
        ),
        (
            flip(&segment_path(0, "index"), 9),
            K::Index,
            S::Warning,
            None,
            "data/log/t-0/00000000000000000000.index: has entries that are not ascending; the next start, the first search or `--repair` rebuilds it",
        ),
        (
            flip(&segment_path(0, "index"), 7),
            K::Index,
            S::Warning,
            None,
            "data/log/t-0/00000000000000000000.index: has an entry that does not match the segment; the next start, the first search or `--repair` rebuilds it",
        ),
        (
            flip(&segment_path(0, "timeindex"), 7),
            K::Index,
            S::Warning,
            None,
            "data/log/t-0/00000000000000000000.timeindex: has entries that are not ascending; the next start, the first search or `--repair` rebuilds it",
        ),
        (
            cut(segment_path(0, "index"), 3),
            K::Index,
            S::Warning,
            None,
            "data/log/t-0/00000000000000000000.index: ends within an entry; the next start, the first search or `--repair` rebuilds it",
        ),
        (
            cut(segment_path(0, "index"), 16),
            K::Index,
            S::Warning,
            None,
            "data/log/t-0/00000000000000000000.index: has too few entries; the next start, the first search or `--repair` rebuilds it",
        ),
        (
            remove(segment_path(0, "timeindex")),
            K::Index,
            S::Warning,
            None,
            "data/log/t-0/00000000000000000000.timeindex: is missing; the next start, the first search or `--repair` rebuilds it",
        ),
        (
            flip(&snapshot, 30),
            K::Snapshot,
            S::Warning,
            None,
            "the state of producers as of this offset is damaged; the next start uses an older one or rebuilds it from the segments; `--repair` removes it",
        ),
        (
            put(at("t-0/log-start-offset"), b"?"),
            K::LogStart,
            S::Warning,
            None,
            "data/log/t-0/log-start-offset: does not hold the earliest offset: deleted records may reappear; delete them again after the next start; `--repair` writes the offset of the first segment",
        ),
        (
            put(segment_path(0, "holes"), b"["),
            K::HoleList,
            S::Warning,
            None,
            "data/log/t-0/00000000000000000000.holes: the list of damaged places can't be parsed (EOF while parsing a list at line 1 column 1); the next start or `--repair` rebuilds it",
        ),
        (
            put(at("t-0/x.tmp"), b""),
            K::LeftOver,
            S::Note,
            None,
            "data/log/t-0/x.tmp: is left over from an interrupted write; the next start or `--repair` removes it",
        ),
        (
            put(at("t-0/00000000000000009999.index"), b""),
            K::LeftOver,
            S::Note,
            None,
            "data/log/t-0/00000000000000009999.index: is left over from the segment of offset 9999, which is gone; the next start or `--repair` removes it",
        ),
        (
            put(at("VERSION"), b"one"),
            K::Version,
            S::Error,
            None,
            "data/log/VERSION: invalid version `one`; `--repair` writes the version of the rest of the folder",
        ),
        (
            remove(at("topics.json")),
            K::Catalog,
            S::Error,
            None,
            "data/log/topics.json: the catalog is missing; restore it from a backup; `--repair` rebuilds it from the folders, with new ids and without settings",
        ),
        (
            put(at("topics.json"), b"{"),
            K::Catalog,
            S::Error,
            None,
            "data/log/topics.json: the catalog can't be parsed (EOF while parsing an object at line 1 column 1); restore it from a backup; `--repair` rebuilds it from the folders, with new ids and without settings",
        ),
    ];
    for (harm, kind, severity, lost, text) in cases {
        let fs = good.fork();
        harm(&fs);
        let report = check(&fs, false);
        assert_eq!(findings(&report), [(kind, severity, false)], "{text}");
        let found = report.findings[0].to_string();
        assert!(found.ends_with(text), "{found}");
        assert_eq!(check(&fs, false), report, "looking changes nothing: {text}");
        assert_eq!(findings(&check(&fs, true)), [(kind, severity, true)], "{text}");
        // What is left is known damage, or nothing.
        let left = findings(&check(&fs, false));
        assert_eq!(left, lost.map(|_| (kind, Severity::Warning, false)).into_iter().collect::<Vec<_>>(), "{text}");
        let want: Vec<_> = all.iter().copied().filter(|(base, _)| Some(*base) != lost).collect();
        assert_eq!(read_all(&partition(&open(&fs)), 1 << 20).await, want, "{text}");
        let aside = fs.content(&at("t-0/damaged/00000000000000000000.702.bytes"));
        assert_eq!(aside.map(|bytes| bytes.len()), lost.map(|_| size), "{text}");
    }
}

#[tokio::test]
async fn folders_and_topics_that_do_not_match_are_told() {
    let (fs, _) = three_segments().await;
    for (path, bytes) in [("u-0/00000000000000000000.log", &b"x"[..]), ("v-1/00000000000000000000.log", b"")] {
        let path = Path::new(DIR).join(path);
        Filesystem::create_dir_all(&fs, path.parent().unwrap()).unwrap();
        fs.set_content(&path, bytes.to_vec());
    }
    Filesystem::remove_dir_all(&fs, &Path::new(DIR).join("t-0")).unwrap();
    let want = |removed| {
        [
            (FindingKind::MissingPartition, Severity::Error, false),
            (FindingKind::Orphan, Severity::Warning, false),
            (FindingKind::Orphan, Severity::Note, removed),
        ]
    };
    assert_eq!(findings(&check(&fs, false)), want(false));
    assert_eq!(findings(&check(&fs, true)), want(true));
    assert_eq!(findings(&check(&fs, true)), want(true)[..2]);
    assert!(!check(&fs, false).is_sound());
}

#[tokio::test]
async fn a_torn_tail_after_a_crash_is_only_a_note() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let p = topic(&storage, &[]).await;
    for n in 0..3 {
        append(&p, batch(2, NOW_MS + n, NOBODY)).await.unwrap();
    }
    fs.kill();
    let path = segment_path(0, "log");
    let mut content = fs.content(&path).unwrap();
    let sound = content.len();
    content.extend_from_within(..40);
    fs.set_content(&path, content);
    let report = check(&fs, false);
    assert_eq!(
        report.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [format!(
            "data/log/t-0/00000000000000000000.log at byte {sound}: 40 bytes of a torn write at the end, which was never acknowledged; the next start or `--repair` truncates them"
        )]
    );
    assert!(report.is_sound());
    check(&fs, true);
    assert_eq!(fs.content(&path).unwrap().len(), sound);
    assert_eq!(check(&fs, false).findings, []);
}

#[tokio::test]
async fn folders_in_use_newer_ones_and_others_are_refused() {
    let fs = SimFs::new();
    let run = |fs: &SimFs| fsck(Path::new(DIR), fs, FsckOptions::default()).unwrap_err().to_string();
    Filesystem::create_dir_all(&fs, Path::new(DIR)).unwrap();
    assert_eq!(run(&fs), "data/log is not the folder of a log: use the folder with the files VERSION and topics.json");
    let storage = open(&fs);
    assert!(run(&fs).starts_with("data folder data/log is in use by "));
    storage.close().await.unwrap();
    fs.set_content(&Path::new(DIR).join("VERSION"), b"7\n".to_vec());
    assert!(run(&fs).starts_with("data folder data/log has format 7, this version reads up to 1"));
}

#[tokio::test]
async fn a_compaction_that_was_cut_short_is_finished_by_a_repair() {
    let fs = SimFs::new();
    let storage = open(&fs);
    let settings = [("cleanup.policy", "compact"), ("segment.bytes", "1024"), ("min.cleanable.dirty.ratio", "0")];
    let p = topic(&storage, &settings).await;
    for n in 0..60 {
        append(&p, keyed(&[(NOW_MS + n, Some("k"), Some("value"))], NOBODY, Compression::None)).await.unwrap();
    }
    let mut seen = false;
    for changes in 0..200 {
        let fs = fs.fork();
        let storage = open(&fs);
        fs.stop_after(Some(changes));
        storage.run_cleaner_once(NOW_MS, &CancellationToken::new()).await;
        fs.kill();
        drop(storage);
        let swaps = fs.files().iter().filter(|path| path.extension().is_some_and(|e| e == "swap")).count();
        let before = check(&fs, false);
        let told = before.findings.iter().filter(|f| f.what.contains("interrupted after its commit")).count();
        assert_eq!(told, swaps, "{changes}: {:?}", before.findings);
        // What the next start does anyway is no reason to worry.
        let worse: Vec<_> = before.findings.iter().filter(|f| f.severity > Severity::Note).collect();
        assert!(worse.is_empty(), "{changes}: {worse:?}");
        seen |= swaps > 0;
        let repaired = check(&fs, true);
        assert!(repaired.is_sound(), "{changes}: {:?}", repaired.findings);
        let after = check(&fs, false);
        let left: Vec<_> = after.findings.iter().filter(|f| f.kind == FindingKind::LeftOver).collect();
        assert!(left.is_empty(), "{changes}: {left:?}");
        let last = read_all(&partition(&open(&fs)), 1 << 20).await.last().copied();
        assert_eq!(last, Some((59, 59)), "{changes}");
    }
    assert!(seen);
}
