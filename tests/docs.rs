//! Documentation tests: every configuration and command of README.md, CONTRIBUTING.md and docs/*.md is valid, and the example
//! of the README pages a webhook. In: the Markdown files. Out: panics that name file and block. Touches temporary folders,
//! loopback, and processes of the built binary.

#![allow(clippy::unwrap_used)] // a test that fails says where

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser as _;
use millrace::config::environment::Variables;
use support::{Site, free_port, get, until};

/// Bytes that README.md may have: one to two screens.
const README_LIMIT: usize = 9_000;

/// A fenced block.
struct Block {
    file: String,
    line: usize,
    language: String,
    text: String,
}

impl Block {
    fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// Commands, joined over line breaks; in `console` blocks those after the prompt.
    fn commands(&self) -> Vec<String> {
        let joined = self.text.replace("\\\n", " ");
        let lines = joined.lines().filter(|line| !line.trim().is_empty());
        match self.language.as_str() {
            "console" => lines.filter_map(|line| line.strip_prefix("$ ")).map(str::to_owned).collect(),
            _ => lines.map(str::to_owned).collect(),
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    all.extend([root().join("README.md"), root().join("CONTRIBUTING.md")]);
    all.sort();
    all
}

fn blocks() -> Vec<Block> {
    let mut all = Vec::new();
    for path in pages() {
        let file = path.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(language)) => {
                    let (file, language) = (file.clone(), language.to_owned());
                    open = Some(Block { file, line: number + 1, language, text: String::new() });
                }
                (Some(_), Some(_)) => all.extend(open.take()),
                (Some(block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{file}: a block is not closed");
    }
    assert!(all.len() > 20, "the pages have blocks");
    all
}

/// What a YAML block is, by its keys.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Config,
    Rules,
    Alertmanager,
    TransformTests,
}

fn kind(text: &str) -> Kind {
    let has = |key: &str| text.lines().any(|line| line.starts_with(key));
    match () {
        () if has("groups:") => Kind::Rules,
        () if has("receivers:") => Kind::Alertmanager,
        () if has("tests:") => Kind::TransformTests,
        () => Kind::Config,
    }
}

#[test]
fn the_readme_is_short() {
    let bytes = std::fs::metadata(root().join("README.md")).unwrap().len();
    assert!(bytes <= README_LIMIT as u64, "README.md has {bytes} bytes, {README_LIMIT} at most: move parts to docs/");
}

#[test]
fn every_page_is_linked_from_the_readme() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for page in pages() {
        let name = page.strip_prefix(root()).unwrap().display().to_string();
        assert!(name == "README.md" || readme.contains(&format!("({name})")), "README.md does not link {name}");
    }
}

#[test]
fn configurations_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = [0; 4];
    for block in blocks().iter().filter(|block| block.language == "yaml") {
        let kind = kind(&block.text);
        let (name, at) = (block.place(), folder.path().join("block.yaml"));
        std::fs::write(&at, &block.text).unwrap();
        match kind {
            Kind::Config => {
                if let Err(error) = millrace::config::parse(&name, &block.text, &Variables::new()) {
                    panic!("{name}: {error}");
                }
            }
            Kind::Rules => {
                if let Err(faults) = millrace_rules::file::parse(Path::new(&name), &block.text) {
                    panic!("{name}: {}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
                }
            }
            Kind::Alertmanager => {
                if let Err(faults) = millrace_notify::routing::Routing::parse(Path::new(&name), &block.text) {
                    panic!("{name}: {}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
                }
            }
            // Those of docs/transforms.md are run beside `millrace test`.
            Kind::TransformTests => assert_eq!(block.file, "docs/transforms.md", "{name}"),
        }
        seen[kind as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// Words of a command up to a pipe, a redirection, `&&` or a comment, as a shell divides them.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '&' | ';') => break,
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Commands of other programs that the pages may name; `curl` and `kcat` are run by the test below.
const OTHER_PROGRAMS: [&str; 7] = ["bash", "cargo", "curl", "kcat", "kafka-configs.sh", "kafka-acls.sh", "echo"];

#[test]
fn commands_are_valid() {
    let mut checked = 0;
    for block in blocks().iter().filter(|block| matches!(block.language.as_str(), "sh" | "console")) {
        // One command over several lines, which the reader's own shell and Python run.
        if block.text.starts_with("python3 -c '") {
            continue;
        }
        for command in block.commands() {
            let words = words(&command);
            let program = words.first().map_or("", String::as_str);
            if program != "millrace" {
                assert!(OTHER_PROGRAMS.contains(&program), "{}: `{program}` is not checked", block.place());
                continue;
            }
            if let Err(error) = millrace::cli::Command::try_parse_from(&words) {
                panic!("{}: {command}: {error}", block.place());
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn every_block_has_a_language_that_is_checked() {
    for block in blocks() {
        let place = block.place();
        assert!(matches!(block.language.as_str(), "yaml" | "sh" | "console"), "{place}: language `{}`", block.language);
    }
}

/// Answers POST requests with 200 and hands on their bodies, until the receiver is dropped.
fn webhook(listener: TcpListener) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::sync_channel(100);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap_or(0) > 0 && !line.trim().is_empty() {
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
            if send.send(String::from_utf8(body).unwrap()).is_err() {
                return;
            }
        }
    });
    receive
}

/// The files of the README as printed, but for their ports; the command lines as printed.
#[test]
fn the_example_of_the_readme_pages_a_webhook() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let http = free_port();
    let ports =
        [("9092", free_port()), ("3100", http), ("9093", free_port()), ("5001", listener.local_addr().unwrap().port())];
    let own_ports = |text: &str| {
        ports.iter().fold(text.to_owned(), |text, (printed, own)| {
            text.replace(&format!("127.0.0.1:{printed}"), &format!("127.0.0.1:{own}"))
        })
    };
    let readme: Vec<Block> = blocks().into_iter().filter(|block| block.file == "README.md").collect();
    for (name, wanted) in
        [("millrace.yaml", Kind::Config), ("rules.yaml", Kind::Rules), ("alertmanager.yml", Kind::Alertmanager)]
    {
        let found: Vec<&Block> = readme.iter().filter(|b| b.language == "yaml" && kind(&b.text) == wanted).collect();
        let [block] = found.as_slice() else { panic!("README.md has {} blocks for {name}", found.len()) };
        std::fs::write(folder.path().join(name), own_ports(&block.text)).unwrap();
    }
    let command = |start: &str| {
        let all = readme.iter().filter(|block| block.language == "sh").flat_map(Block::commands);
        all.into_iter().find(|command| command.starts_with(start)).unwrap_or_else(|| panic!("README.md: {start}"))
    };
    let millrace = |printed: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
        command.args(&words(printed)[1..]).current_dir(folder.path()).env_clear().stdin(Stdio::null());
        command
    };
    let checked = millrace(&command("millrace validate")).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let page = webhook(listener);
    let log = std::fs::File::create(folder.path().join("out.txt")).unwrap();
    let mut running = millrace(&command("millrace run")).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let output = || std::fs::read_to_string(folder.path().join("out.txt")).unwrap_or_default();
    until("ready", Duration::from_secs(60), || match get(&format!("http://127.0.0.1:{http}/ready")) {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}\n{}", output())),
    });
    let written = Command::new("sh").arg("-c").arg(command("echo ")).current_dir(folder.path()).status().unwrap();
    assert!(written.success());
    let paged = page.recv_timeout(Duration::from_secs(60));
    let paged = paged.unwrap_or_else(|_| panic!("no page within 60 s\n{}", output()));
    for part in [r#""status":"firing""#, r#""alertname":"ShopErrors""#, "shop logged 1 errors in the last minute"] {
        assert!(paged.contains(part), "{part}: {paged}");
    }
    let stopped = Command::new("kill").arg("-TERM").arg(running.id().to_string()).status().unwrap();
    assert!(stopped.success());
    let ended = until("it stops", Duration::from_secs(60), || {
        running.try_wait().unwrap().ok_or_else(|| "still running".to_owned())
    });
    assert_eq!(ended.code(), Some(0), "{}", output());
}

#[test]
#[ignore = "needs curl and kcat"]
fn commands_of_other_clients_run_as_printed() {
    let site = Site::new();
    std::fs::create_dir_all(site.logs()).unwrap();
    std::fs::write(site.logs().join("a.log"), "level=error one\n").unwrap();
    let running = site.start("run");
    site.wait_ready();
    let mut count = 0;
    for block in blocks().iter().filter(|block| block.language == "sh" && block.file == "docs/querying.md") {
        for command in block.commands() {
            if !command.starts_with("curl ") && !command.starts_with("kcat ") {
                continue;
            }
            let command = [("9092", site.kafka), ("3100", site.http), ("9200", site.elastic)]
                .iter()
                .fold(command, |text, (printed, own)| text.replace(&format!(":{printed}"), &format!(":{own}")))
                .replace("curl ", "curl --fail-with-body ");
            let ended = Command::new("sh").arg("-c").arg(&command).output().unwrap();
            let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "{}: {command}: {said}", block.place());
            count += 1;
        }
    }
    assert!(count > 8, "{count}");
    assert_eq!(running.stop(), 0);
}
