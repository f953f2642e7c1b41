//! The page in a real browser: `tests/page/page.mjs` searches, tails and follows the link of an alert while this test keeps a
//! whole millrace with one tailed file and one rule running. Screenshots lie in `target/page`.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod support;

use std::process::Command;

use support::{Site, until};

#[test]
#[ignore = "needs chromium, node and `npm ci` in tests/page"]
fn search_live_tail_and_alerts_in_chromium() {
    let site = Site::new();
    let rules = site.folder.path().join("rules.yaml");
    std::fs::write(
        &rules,
        "groups:\n  - name: page\n    interval: 1s\n    rules:\n      - alert: NeedleFound\n        \
         expr: sum by (service) (count_over_time({service=\"writer\"} |= \"needle\" [5m])) > 0\n        for: 0s\n        \
         annotations: {summary: \"a needle in {{ $labels.service }}\"}\n",
    )
    .unwrap();
    std::fs::create_dir_all(site.logs()).unwrap();
    let file = site.logs().join("page.log");
    let hay: String = (0..300).map(|n| format!("straw {n}\n")).collect();
    std::fs::write(&file, format!("{hay}a needle in the hay\n")).unwrap();
    let _process = site.start_with("run", &[("MILLRACE__RULES__FILES", &format!("[\"{}\"]", rules.display()))]);
    site.wait_ready();
    until("the file is indexed", std::time::Duration::from_secs(30), || {
        match site.count_by_loki(r#"{service="writer"}"#)? {
            301 => Ok(()),
            n => Err(format!("{n} of 301")),
        }
    });
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let shots = root.join("target/page");
    std::fs::create_dir_all(&shots).unwrap();
    let status = Command::new("node")
        .arg(root.join("tests/page/page.mjs"))
        .env("BASE", format!("http://127.0.0.1:{}", site.http))
        .env("SHOTS", &shots)
        .env("FILE", &file)
        .status()
        .expect("node is installed");
    assert!(status.success(), "the page test failed\n{}", site.output("run"));
}
