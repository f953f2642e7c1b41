//! One VRL program: compiled once, run for each event within a limit of time.
//!
//! In: the source text; an event as a VRL value. Out: diagnostics with their places; the changed value, or why there is
//! none. Touches nothing. Leaves what a changed value means to `event.rs`.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use vrl::compiler::runtime::{ExecutionControl, Runtime, Terminate};
use vrl::compiler::{
    CompileConfig, ExpressionError, Function, SecretTarget, Target, TargetValueRef, TimeZone, TypeState,
    compile_with_state,
};
use vrl::diagnostic::{Diagnostic, DiagnosticList, Formatter};
use vrl::path::{OwnedTargetPath, PathPrefix};
use vrl::value::{Secrets, Value};

use super::event::BESIDE;

/// Made once: the compiler only looks names up in it.
static FUNCTIONS: LazyLock<Vec<Box<dyn Function>>> = LazyLock::new(super::functions::all);

/// Characters of an error that go along with a record.
const MAX_ERROR: usize = 512;
/// Expressions between two looks at the clock.
const CLOCK_EVERY: u32 = 64;

/// Something the compiler has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramFault {
    /// Line in the program, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// VRL's own text: one line, then the place in the program drawn out.
    pub message: String,
}

/// What a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Changes the event.
    Change,
    /// Says yes or no, changes nothing.
    Condition,
    /// Gives a value, changes nothing.
    Value,
}

/// Why a program did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// `abort`, with its message.
    Abort(Option<String>),
    /// It failed.
    Failed(String),
}

/// Ready to run.
#[derive(Debug)]
pub(crate) struct Program {
    program: vrl::compiler::Program,
    timezone: TimeZone,
    limit: Duration,
}

/// A named time zone, or `local`.
pub(crate) fn timezone(name: &str) -> Option<TimeZone> {
    if name.is_empty() { None } else { TimeZone::parse(name) }
}

impl Program {
    /// Compiles; the second part of the answer are warnings.
    pub fn compile(
        source: &str,
        purpose: Purpose,
        timezone: TimeZone,
        limit: Duration,
    ) -> Result<(Self, Vec<ProgramFault>), Vec<ProgramFault>> {
        let mut config = CompileConfig::default();
        if purpose != Purpose::Change {
            config.set_read_only();
        }
        // A parser that meets a text it does not know must not take the process with it.
        let compiled =
            catch_unwind(AssertUnwindSafe(|| compile_with_state(source, &FUNCTIONS, &TypeState::default(), config)));
        let whole = |message: String| vec![ProgramFault { line: 1, column: 1, message }];
        let compiled = match compiled {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(list)) => return Err(faults(source, list)),
            Err(_) => {
                return Err(whole("the VRL compiler panicked, which is a bug in VRL: rewrite the program".to_owned()));
            }
        };
        let program = compiled.program;
        let result = program.final_type_info().result;
        if purpose == Purpose::Condition && !result.kind().is_boolean() {
            return Err(whole(format!(
                "must be a boolean, is {}: compare it, as in `.level == \"debug\"`",
                result.kind()
            )));
        }
        Ok((Self { program, timezone, limit }, faults(source, compiled.warnings)))
    }

    /// Runs on one event. What `root` is after a failure is not to be used.
    pub fn run(&self, runtime: &mut Runtime, root: &mut Value) -> Result<Value, Stop> {
        let mut metadata = Value::Object(Default::default());
        let mut secrets = Secrets::new();
        let mut target = EventTarget(TargetValueRef { value: root, metadata: &mut metadata, secrets: &mut secrets });
        let mut control = Deadline { expressions: 0, end: None, limit: self.limit };
        let done = catch_unwind(AssertUnwindSafe(|| {
            runtime.resolve_with_control(&mut target, &self.program, &self.timezone, &mut control)
        }));
        let Ok(done) = done else {
            *runtime = Runtime::default();
            return Err(Stop::Failed("a VRL function panicked on this line, which is a bug in VRL".to_owned()));
        };
        runtime.clear();
        done.map_err(|stop| match stop {
            Terminate::Abort(ExpressionError::Abort { message, .. }) => Stop::Abort(message),
            Terminate::Abort(error) | Terminate::Error(error) => Stop::Failed(short(&error.to_string())),
            Terminate::Interrupted => {
                Stop::Failed(format!("took longer than {} ms: see `time_limit`", self.limit.as_millis()))
            }
        })
    }
}

/// Texts for records and logs are bounded.
pub(crate) fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_ERROR) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// An event: `. = …` replaces its fields, and leaves alone what stands beside them unless the new value names it.
#[derive(Debug)]
struct EventTarget<'a>(TargetValueRef<'a>);

impl Target for EventTarget<'_> {
    fn target_insert(&mut self, path: &OwnedTargetPath, mut value: Value) -> Result<(), String> {
        if path.prefix == PathPrefix::Event
            && path.path.is_root()
            && let (Value::Object(new), Value::Object(old)) = (&mut value, &mut *self.0.value)
        {
            for name in BESIDE {
                if !new.contains_key(name)
                    && let Some((name, kept)) = old.remove_entry(name)
                {
                    new.insert(name, kept);
                }
            }
        }
        self.0.target_insert(path, value)
    }

    fn target_get(&self, path: &OwnedTargetPath) -> Result<Option<&Value>, String> {
        self.0.target_get(path)
    }

    fn target_get_mut(&mut self, path: &OwnedTargetPath) -> Result<Option<&mut Value>, String> {
        self.0.target_get_mut(path)
    }

    fn target_remove(&mut self, path: &OwnedTargetPath, compact: bool) -> Result<Option<Value>, String> {
        self.0.target_remove(path, compact)
    }
}

impl SecretTarget for EventTarget<'_> {
    fn get_secret(&self, key: &str) -> Option<&str> {
        self.0.get_secret(key)
    }

    fn insert_secret(&mut self, key: &str, value: &str) {
        self.0.insert_secret(key, value);
    }

    fn remove_secret(&mut self, key: &str) {
        self.0.remove_secret(key);
    }
}

/// Interrupts a program that runs too long; the clock starts with the first look.
struct Deadline {
    expressions: u32,
    end: Option<Instant>,
    limit: Duration,
}

impl ExecutionControl for Deadline {
    fn checkpoint(&mut self) -> ControlFlow<()> {
        self.expressions = self.expressions.wrapping_add(1);
        if self.expressions.is_multiple_of(CLOCK_EVERY) {
            let now = Instant::now();
            if now > *self.end.get_or_insert(now + self.limit) {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

fn faults(source: &str, list: DiagnosticList) -> Vec<ProgramFault> {
    list.into_iter().map(|diagnostic| fault(source, diagnostic)).collect()
}

fn fault(source: &str, diagnostic: Diagnostic) -> ProgramFault {
    let label = diagnostic.labels.iter().find(|label| label.primary).or(diagnostic.labels.first());
    let offset = label.map_or(0, |label| label.span.start().min(source.len()));
    let before = source.get(..offset).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let drawn = Formatter::new(source, DiagnosticList::from(vec![diagnostic])).to_string();
    // What it is on the first line; below it the place, without the advertisement that closes every text.
    let mut message = String::new();
    for text in drawn.lines() {
        let text = text.trim_end();
        let note = text.trim_start();
        if note.is_empty() || note.starts_with("= see ") || note.starts_with("= try your code in the VRL REPL") {
            continue;
        }
        if message.is_empty() {
            message.push_str(text);
        } else {
            message.push_str("\n    ");
            message.push_str(text);
        }
    }
    ProgramFault { line, column, message: message.trim_end().trim_end_matches('│').trim_end().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    fn compile(source: &str, purpose: Purpose) -> Result<Program, Vec<ProgramFault>> {
        Program::compile(source, purpose, TimeZone::Named("UTC".parse().unwrap()), LIMIT).map(|(program, _)| program)
    }

    fn run(source: &str, line: &str) -> Result<String, Stop> {
        let program = compile(source, Purpose::Change).map_err(|f| Stop::Failed(f[0].message.clone()))?;
        let mut root = Value::Object([("message".into(), Value::from(line))].into());
        program.run(&mut Runtime::default(), &mut root)?;
        Ok(serde_json::to_string(&root).unwrap())
    }

    #[test]
    fn what_log_users_parse_is_parsed() {
        for (program, line, want) in [
            (". = parse_json!(.message)", r#"{"a":1,"b":[true,null]}"#, r#"{"a":1,"b":[true,null]}"#),
            (
                ". = parse_logfmt!(.message)",
                r#"level=info msg="it is" n=3"#,
                r#"{"level":"info","msg":"it is","n":"3"}"#,
            ),
            (
                r#". = parse_key_value!(.message, key_value_delimiter: ":", field_delimiter: ",")"#,
                "a:1,b:2",
                r#"{"a":"1","b":"2"}"#,
            ),
            (r". = parse_regex!(.message, r'^(?P<user>\w+) (?P<n>\d+)$')", "ann 42", r#"{"n":"42","user":"ann"}"#),
            (
                r#". = parse_grok!(.message, "%{IPORHOST:client} %{WORD:verb} %{NUMBER:ms}")"#,
                "10.0.0.1 GET 17",
                r#"{"client":"10.0.0.1","ms":"17","verb":"GET"}"#,
            ),
            (
                ". = parse_syslog!(.message)",
                "<13>1 2026-03-01T12:00:00Z web1 app 77 ID1 - hello",
                r#"{"appname":"app","facility":"user","hostname":"web1","message":"hello","msgid":"ID1","procid":77,"severity":"notice","timestamp":"2026-03-01T12:00:00Z","version":1}"#,
            ),
            (
                r#". = parse_nginx_log!(.message, "combined")"#,
                r#"1.2.3.4 - bob [01/Mar/2026:12:00:00 +0000] "GET /a HTTP/1.1" 200 5 "-" "curl/8""#,
                r#"{"agent":"curl/8","client":"1.2.3.4","referer":"-","request":"GET /a HTTP/1.1","size":5,"status":200,"timestamp":"2026-03-01T12:00:00Z","user":"bob"}"#,
            ),
            (
                r#". = parse_apache_log!(.message, "common")"#,
                r#"1.2.3.4 - bob [01/Mar/2026:12:00:00 +0000] "GET /a HTTP/1.1" 200 5"#,
                r#"{"host":"1.2.3.4","message":"GET /a HTTP/1.1","method":"GET","path":"/a","protocol":"HTTP/1.1","size":5,"status":200,"timestamp":"2026-03-01T12:00:00Z","user":"bob"}"#,
            ),
            (
                r#". = {"t": parse_timestamp!(.message, "%Y-%m-%d %T")}"#,
                "2026-03-01 12:00:00",
                r#"{"t":"2026-03-01T12:00:00Z"}"#,
            ),
            (r#". = {"h": parse_url!(.message).host}"#, "https://a.example/x?y=1", r#"{"h":"a.example"}"#),
            (r#". = {"ms": parse_duration!(.message, "ms")}"#, "1.5s", r#"{"ms":1500.0}"#),
            (
                r#". = {"b": parse_user_agent!(.message).browser.family}"#,
                "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
                r#"{"b":"Firefox"}"#,
            ),
            (r#". = {"r": redact!(.message, filters: [r'\d+'])}"#, "pin 1234", r#"{"r":"pin [REDACTED]"}"#),
            (
                r#". = {"h": sha2(string!(.message), variant: "SHA-256")}"#,
                "a",
                r#"{"h":"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}"#,
            ),
            (r#". = {"in": ip_cidr_contains!("10.0.0.0/8", .message)}"#, "10.2.3.4", r#"{"in":true}"#),
        ] {
            assert_eq!(run(program, line), Ok(want.to_owned()), "{program}");
        }
    }

    #[test]
    fn functions_that_reach_outside_are_not_known() {
        for call in [
            r#"get_env_var!("HOME")"#,
            r#"http_request!("http://x")"#,
            r#"dns_lookup!("x")"#,
            r#"reverse_dns!("1.1.1.1")"#,
            "get_hostname!()",
            r#"decode_gzip!("x")"#,
            r#"log("x")"#,
            "uuid_v4()",
        ] {
            let faults = compile(&format!(".x = {call}"), Purpose::Change).expect_err(call);
            assert!(faults[0].message.contains("undefined function"), "{call}: {}", faults[0].message);
        }
    }

    #[test]
    fn endless_programs_are_interrupted() {
        let program = "n = 0\nfor_each(range!(0, 90000)) -> |_i, a| { for_each(range!(0, 90000)) -> |_j, b| { n = a + b } }\n.n = n";
        let started = Instant::now();
        let stop = run(program, "x").expect_err("takes years");
        assert!(matches!(&stop, Stop::Failed(text) if text.contains("longer than 50 ms")), "{stop:?}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn abort_and_failure_are_told_apart() {
        assert_eq!(run("abort \"health\"", "x"), Err(Stop::Abort(Some("health".to_owned()))));
        assert_eq!(run("abort", "x"), Err(Stop::Abort(None)));
        let Err(Stop::Failed(text)) = run(". = parse_json!(.message)", "no") else { panic!("must fail") };
        assert!(text.contains("unable to parse json"), "{text}");
    }

    #[test]
    fn conditions_say_yes_or_no_and_change_nothing() {
        assert!(compile(".level == \"debug\"", Purpose::Condition).is_ok());
        let faults = compile("downcase(\"X\")", Purpose::Condition).expect_err("a text");
        assert!(faults[0].message.starts_with("must be a boolean, is string"), "{}", faults[0].message);
        let faults = compile(".x = 1\ntrue", Purpose::Condition).expect_err("writes");
        assert!(faults[0].message.contains("read-only"), "{}", faults[0].message);
    }

    #[test]
    fn faults_have_their_place_and_drawing() {
        let faults = compile("x = 1\n.y = parse_json(.message)\n.z = nothing(x)\n", Purpose::Change).expect_err("two");
        let places: Vec<(usize, usize)> = faults.iter().map(|f| (f.line, f.column)).collect();
        assert_eq!(places, [(2, 6), (3, 6)], "{faults:#?}");
        assert!(faults[0].message.starts_with("error[E103]: unhandled fallible assignment\n"), "{}", faults[0].message);
        assert!(faults[0].message.contains("2 │ .y = parse_json(.message)"), "{}", faults[0].message);
        assert!(!faults[0].message.contains("REPL"), "{}", faults[0].message);
    }

    /// Deep nesting in a line must end in an error, not in an overflow of the stack.
    #[test]
    fn deeply_nested_lines_are_survived() {
        let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
        for (program, line) in [
            (". = parse_json!(.message)", deep("[", "]")),
            (". = parse_json!(.message)", deep("{\"a\":", "}")),
            (". = parse_key_value!(.message)", deep("a=\"", "\"")),
            (". = parse_logfmt!(.message)", deep("a=\"", "\"")),
            (r#". = parse_grok!(.message, "%{GREEDYDATA:a} %{GREEDYDATA:b}")"#, deep(" a", "")),
            (r#". = {"q": parse_query_string!(.message)}"#, deep("a[", "]")),
            (". = parse_tokens!(.message)", deep("[\"", "\"]")),
            (". = {\"a\": parse_csv!(.message)}", deep("\"", ",")),
            (". = {\"u\": parse_url!(.message)}", deep("http://", "/")),
            (". = parse_syslog!(.message)", deep("<", ">")),
            (". = parse_cef!(.message)", deep("CEF:0|", "|")),
        ] {
            // Whether it can be parsed is all the same.
            drop(run(program, &line));
        }
    }
}
