//! House rules that the compiler can't check: module docs, direction of dependencies, sizes, links in documents, words, one
//! place for versions.

#![allow(clippy::unwrap_used)] // a test that fails says where

use std::path::{Path, PathBuf};

#[path = "tidy/sizes.rs"]
mod sizes;
#[path = "tidy/walls.rs"]
mod walls;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

const CRATES: [&str; 14] = [
    ".",
    "log",
    "logql",
    "doors",
    "templates",
    "broker",
    "index",
    "agent",
    "aggregator",
    "rules",
    "notify",
    "exports",
    "streams",
    "fuzzing",
];

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let skip = |e: &walkdir::DirEntry| {
        let name = e.file_name().to_string_lossy();
        e.depth() > 0 && (name == "target" || name == "node_modules" || name.starts_with(".git"))
    };
    walkdir::WalkDir::new(folder)
        .into_iter()
        .filter_entry(|e| !skip(e))
        .filter_map(Result::ok)
        .map(walkdir::DirEntry::into_path)
        .filter(|p| p.extension().is_some_and(|e| e == ending))
        .collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_rust_file_opens_with_its_own_doc() {
    let all = files(root(), "rs");
    assert!(all.len() > 50, "the walk finds the tree");
    let bare: Vec<_> = all.iter().filter(|p| !read(p).starts_with("//!")).collect();
    assert!(bare.is_empty(), "files without `//!` at their top: {bare:#?}");
}

#[test]
fn dependencies_point_one_way() {
    let may = |of: &str| -> &[&str] {
        match of {
            "log" | "logql" | "fuzzing" => &[],
            "doors" | "exports" | "templates" => &["log"],
            "agent" | "broker" => &["log", "doors"],
            "index" | "streams" => &["log", "logql"],
            "rules" | "notify" => &["log", "logql", "doors", "templates"],
            "aggregator" => &["log", "logql", "doors", "index"],
            _ => &CRATES,
        }
    };
    for of in CRATES {
        let manifest = read(&root().join(of).join("Cargo.toml"));
        let section = manifest.split("[dependencies]").nth(1).unwrap_or("");
        let section = section.split("\n[").next().unwrap_or("");
        for line in section.lines() {
            if let Some(name) = line.strip_prefix("millrace-") {
                let name = name.split(['.', ' ', '=']).next().unwrap_or("");
                if name == "fuzzing" {
                    assert!(line.contains("optional = true"), "{of}: no product is built with {name}");
                    continue;
                }
                assert!(may(of).contains(&name), "{of} must not depend on {name}");
            }
        }
    }
}

/// Each fuzz target stands in its crate, has a program, and is described.
#[test]
fn fuzz_targets_are_complete() {
    let folder = root().join("tests/fuzzing");
    let names = |text: &str, pattern: &str| -> std::collections::BTreeSet<String> {
        regex::Regex::new(pattern).unwrap().captures_iter(text).map(|c| c[1].to_owned()).collect()
    };
    let mut listed = std::collections::BTreeSet::new();
    for of in CRATES {
        let list = root().join(of).join("src/fuzzing.rs");
        if list.exists() {
            listed.extend(names(&read(&list), r#"name: "([a-z_]+)""#));
            let ci = read(&root().join(".ci/run"));
            let opened = ci.lines().find(|line| line.starts_with("opened=(")).unwrap();
            assert!(
                opened.split(['(', ')', ' ']).any(|name| name == of),
                ".ci/run lints the feature `fuzzing` of {of}"
            );
        }
    }
    assert!(listed.len() > 15, "the crates list targets");
    let mut programs = std::collections::BTreeSet::new();
    for path in files(&folder.join("fuzz_targets"), "rs") {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(read(&path).contains(&format!("::fuzzing::TARGETS, \"{name}\"")), "{}", path.display());
        programs.insert(name);
    }
    assert_eq!(programs, listed, "programs in tests/fuzzing/fuzz_targets");
    let manifest = names(&read(&folder.join("Cargo.toml")), r#"(?m)^path = "fuzz_targets/([a-z_]+)\.rs""#);
    assert_eq!(manifest, listed, "tests/fuzzing/Cargo.toml");
    let described: String = read(&folder.join("README.md")).lines().filter(|line| line.starts_with("| `")).collect();
    let missing: Vec<_> = listed.iter().filter(|name| !described.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "tests/fuzzing/README.md does not describe {missing:?}");
    for kept in ["found", "kept"] {
        for entry in std::fs::read_dir(folder.join(kept)).into_iter().flatten().map(Result::unwrap) {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(listed.contains(&name), "tests/fuzzing/{kept}/{name} belongs to no target");
        }
    }
}

/// Routers are opened without the checks of millrace-doors in tests only.
#[test]
fn routers_are_open_in_tests_only() {
    let is_test = |path: &Path| {
        let inside = path.strip_prefix(root()).unwrap_or(path);
        inside.components().any(|part| part.as_os_str() == "tests") || inside.ends_with("tests.rs")
    };
    let mut seen = 0;
    for path in files(root(), "rs") {
        let text = read(&path);
        let before_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        seen += text.matches(".open_for_tests").count();
        assert!(is_test(&path) || !before_tests.contains(".open_for_tests"), "{}", path.display());
    }
    assert!(seen > 3, "tests open routers");
}

/// HTTP clients are made where the section `outgoing` is kept to, where commands say whom they trust, and for the provider of
/// logins, which has authorities of its own.
#[test]
fn http_clients_are_made_in_three_places_only() {
    let client = regex::Regex::new(r"\b(reqwest::)?Client(Builder)?::(builder|new)\(").unwrap();
    let mut found = Vec::new();
    for path in CRATES.iter().flat_map(|of| files(&root().join(of).join("src"), "rs")) {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().trim_start_matches("./").to_owned();
        let text = read(&path);
        let before_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let is_test = name.contains("/tests/") || name.ends_with("tests.rs");
        if !is_test && before_tests.contains("reqwest") && client.is_match(before_tests) {
            found.push(name);
        }
    }
    found.sort();
    assert_eq!(found, ["doors/src/access/oidc/provider.rs", "log/src/outgoing.rs", "src/cli/door.rs"]);
}

/// No crate has a ring of files, and modules stand in the order in which they build on each other.
#[test]
fn imports_within_crates_point_up() {
    let mut back = Vec::new();
    for of in CRATES {
        let found = walls::arrows_back(&root().join(of).join("src"));
        back.extend(found.into_iter().map(|arrow| format!("{of}: {arrow}")));
    }
    assert!(back.is_empty(), "{} imports point back:\n{}", back.len(), back.join("\n"));
}

#[test]
fn versions_stand_in_the_workspace_only() {
    for of in CRATES.iter().filter(|c| **c != ".") {
        let manifest = read(&root().join(of).join("Cargo.toml"));
        for line in manifest.lines().skip_while(|l| *l != "[dependencies]").take_while(|l| *l != "[lints]") {
            let name_and_rest = line.split_once('=');
            if let Some((name, rest)) = name_and_rest {
                let good = name.trim().ends_with(".workspace") || rest.contains("workspace = true");
                assert!(good, "{of}/Cargo.toml: `{line}` must say `.workspace = true`");
            }
        }
    }
}

#[test]
fn lints_hold_in_every_crate() {
    for of in CRATES {
        let manifest = read(&root().join(of).join("Cargo.toml"));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{of}/Cargo.toml takes the workspace's lints");
    }
}

#[test]
fn links_in_documents_lead_somewhere() {
    let link = regex::Regex::new(r"\]\(([^)\s#]+)(#[^)]*)?\)").unwrap();
    let mut seen = 0;
    for path in files(root(), "md") {
        let text = read(&path);
        for target in link.captures_iter(&text).map(|c| c[1].to_owned()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let to = path.parent().unwrap_or(root()).join(&target);
            assert!(to.exists(), "{}: dead link to {target}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 3, "the documents have links");
}

/// Files that ARCHITECTURE.md names in its map exist.
#[test]
fn the_file_map_is_true() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let name = regex::Regex::new(r"`([a-z_]+/[A-Za-z0-9_./-]+\.(?:rs|md|yaml|json))`").unwrap();
    let named: Vec<String> = name.captures_iter(&text).map(|c| c[1].to_owned()).collect();
    assert!(named.len() > 10, "the map names files");
    let gone: Vec<&String> = named.iter().filter(|n| !root().join(n).exists()).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names files that are not there: {gone:?}");
}

/// Metrics that dashboards ask for are registered somewhere.
#[test]
fn dashboards_ask_for_metrics_that_exist() {
    let code: String = files(root(), "rs").iter().map(|p| read(p)).collect();
    let metric =
        regex::Regex::new(r"millrace_(agent|log|aggregator|export|route|rules|notify|ingest)_([a-z_]+)").unwrap();
    let mut asked = 0;
    for path in files(&root().join("dashboards"), "json") {
        for found in metric.captures_iter(&read(&path)) {
            let bare = found[2]
                .trim_end_matches("_total")
                .trim_end_matches("_bucket")
                .trim_end_matches("_count")
                .trim_end_matches("_sum");
            // Rooms name their metrics with or without the prefix; the unit may be added by the library.
            let known = [bare, bare.trim_end_matches("_seconds")].iter().any(|name| {
                code.contains(&format!("\"{name}\"")) || code.contains(&format!("\"millrace_{}_{name}\"", &found[1]))
            });
            assert!(known, "{}: {} is registered nowhere", path.display(), &found[0]);
            asked += 1;
        }
    }
    assert!(asked > 0, "the dashboards ask for metrics");
}

/// Lines that a file may have without its tests.
const MAX_FILE_LINES: usize = 500;
/// Lines that a function may have.
const MAX_FUNCTION_LINES: usize = 100;

/// Files and functions hold one thing each; where they grow beyond these numbers, two things live in them.
#[test]
fn files_and_functions_have_a_readable_size() {
    let (mut files_over, mut functions_over) = (Vec::new(), Vec::new());
    for path in CRATES.iter().flat_map(|of| files(&root().join(of).join("src"), "rs")) {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().trim_start_matches("./").to_owned();
        if name.contains("/tests/") || name.ends_with("tests.rs") {
            continue;
        }
        let code = read(&path);
        let lines = sizes::lines(&code);
        if lines > MAX_FILE_LINES {
            files_over.push((name.clone(), lines));
        }
        let long = sizes::functions(&code).into_iter().filter(|(_, lines)| *lines > MAX_FUNCTION_LINES);
        functions_over.extend(long.map(|(function, lines)| (format!("{name} {function}"), lines)));
    }
    assert!(
        files_over.is_empty() && functions_over.is_empty(),
        "too long, cut them: {files_over:#?} {functions_over:#?}"
    );
}

#[test]
fn sizes_leave_tests_out() {
    let code = "fn a() {\n    b(|| {\n    });\n}\nfn c();\nfn d(\n    e: u8,\n);\n#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n";
    assert_eq!(sizes::lines(code), 8);
    let functions: Vec<(String, usize)> = sizes::functions(code);
    assert_eq!(functions, [("a".to_owned(), 4), ("c".to_owned(), 1), ("d".to_owned(), 3)]);
}

/// Phrases that readers of the manuals of PostgreSQL, Kafka or Loki would have to guess.
const BANNED: [&str; 13] = [
    "is no ",
    "are no ",
    "is told",
    "are told",
    "adds up",
    "add up",
    "stands still",
    "in the way",
    "goes by",
    "the door",
    "tells of",
    "told apart",
    "told otherwise",
];

/// String literals of a Rust file before its tests.
fn literals(code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let token =
        regex::Regex::new(r##"(?s)//[^\n]*|/\*.*?\*/|b?'(?:\\[^']*|[^\\'])'|r"[^"]*"|r#"(.*?)"#|"((?:\\.|[^"\\])*)""##)
            .unwrap();
    let line_break = regex::Regex::new(r"\\\n\s*").unwrap();
    token
        .captures_iter(code)
        .filter_map(|found| {
            found.get(1).or(found.get(2)).or(found.get(0).filter(|all| all.as_str().starts_with("r\"")))
        })
        .map(|text| line_break.replace_all(text.as_str(), "").into_owned())
        .collect()
}

/// The banned phrases in a text. "There is no" and "is no longer" are usual.
fn banned(text: &str) -> Vec<&'static str> {
    let usual = |at: usize, phrase: &str| {
        let (before, rest) = text.split_at(at);
        let after = rest.strip_prefix(phrase).unwrap_or_default();
        phrase.ends_with(" no ") && (before.to_lowercase().ends_with("there ") || after.starts_with("longer"))
    };
    let all = BANNED.iter().flat_map(|phrase| text.match_indices(phrase).map(move |(at, _)| (at, *phrase)));
    all.filter(|(at, phrase)| !usual(*at, phrase)).map(|(_, phrase)| phrase).collect()
}

/// Texts that users see (messages in code, documents, configuration files) use usual phrases.
#[test]
fn texts_for_users_use_usual_phrases() {
    let skip = |path: &Path| {
        let parts: Vec<_> = path.strip_prefix(root()).unwrap().iter().map(|part| part.to_string_lossy()).collect();
        let inner = parts.iter().any(|part| matches!(&**part, "tests" | "benches" | "examples" | "fuzz" | "data"));
        inner || parts.last().is_some_and(|name| name.ends_with("tests.rs") || name == "ARCHITECTURE.md")
    };
    let mut found = Vec::new();
    for path in files(root(), "rs").iter().filter(|path| !skip(path)) {
        for text in literals(&read(path)) {
            let name = path.strip_prefix(root()).unwrap().display();
            found.extend(banned(&text).into_iter().map(|phrase| format!("{name}: `{phrase}` in \"{text}\"")));
        }
    }
    for path in ["md", "yaml", "yml"].iter().flat_map(|ending| files(root(), ending)).filter(|path| !skip(path)) {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        for (number, line) in read(&path).lines().enumerate() {
            found.extend(banned(line).into_iter().map(|phrase| format!("{name}:{}: `{phrase}`", number + 1)));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}
