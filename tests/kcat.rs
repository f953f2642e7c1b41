//! kcat and Kafka's own topics tool take the embedded broker for Kafka: produce, list, consume.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};

use support::{Site, shared, until};

fn kcat(site: &Site, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("kcat")
        .args(["-b", &format!("127.0.0.1:{}", site.kafka), "-m", "20"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kcat is installed");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "kcat {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs kcat"]
fn kcat_produces_lists_and_consumes() {
    let site = Site::new();
    let broker = site.start("broker");
    until("the broker listens", std::time::Duration::from_secs(20), || {
        std::net::TcpStream::connect(("127.0.0.1", site.kafka)).map(drop).map_err(|e| e.to_string())
    });
    let lines: String = (0..1000).map(|n| format!("key{n}:value {n}\n")).collect();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("from-kcat-{codec}");
        kcat(&site, &["-P", "-t", &topic, "-p", "0", "-K", ":", "-z", codec, "-X", "enable.idempotence=true"], &lines);
        let list = kcat(&site, &["-L", "-t", &topic], "");
        assert!(list.contains(&format!("topic \"{topic}\" with")), "{list}");
        let consumed =
            kcat(&site, &["-C", "-t", &topic, "-p", "0", "-o", "beginning", "-e", "-q", "-f", "%k:%s\n"], "");
        assert_eq!(consumed, lines, "{codec}");
    }
    // As a group: offsets are committed, a second run reads nothing again.
    let group = ["-G", "readers", "-e", "-q", "-f", "%s\n", "-X", "auto.offset.reset=earliest", "from-kcat-zstd"];
    assert_eq!(kcat(&site, &group, "").lines().count(), 1000);
    assert_eq!(kcat(&site, &group, "").lines().count(), 0);
    assert_eq!(broker.stop(), 0);
}

#[test]
#[ignore = "needs Java and Maven for Kafka's own tools"]
fn the_topics_tool_of_kafka_makes_describes_and_deletes() {
    let site = Site::new();
    let _broker = site.start("broker");
    let tool = |arguments: &[&str]| {
        let output = Command::new(shared().join("servers/kafka"))
            .args(["topics", "--bootstrap-server", &format!("127.0.0.1:{}", site.kafka)])
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    tool(&["--create", "--topic", "made", "--partitions", "3", "--config", "retention.ms=60000"]);
    assert!(tool(&["--list"]).lines().any(|l| l == "made"));
    let described = tool(&["--describe", "--topic", "made"]);
    assert!(described.contains("PartitionCount: 3") && described.contains("retention.ms=60000"), "{described}");
    tool(&["--delete", "--topic", "made"]);
    assert!(!tool(&["--list"]).lines().any(|l| l == "made"));
}
