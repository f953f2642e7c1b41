//! Which lines belong together: by patterns of the configuration, or by what traces of a language look like.
//!
//! In: lines, one after the other. Out: whether a line goes on with the event of those before it. Touches nothing; all that
//! it knows of an event is one small number, which follows from the event's own lines: cutting the same bytes from the start
//! of an event gives the same event, and a position in the file is all that a checkpoint has to hold.
//!
//! An event that got too long goes on in another: lines that only stand inside of a trace begin one, too.

use regex::bytes::Regex;

pub use self::config::{MultilineConfig, Preset};
use self::machine::Machine;
pub use self::machine::Stage;
use self::presets::machine;
use crate::error::AgentError;

/// The section of the configuration.
mod config;
/// Recognizes traces.
mod machine;
/// Traces of known languages.
mod presets;

/// Joins lines to events.
#[derive(Debug, Clone)]
pub struct Join {
    rule: Rule,
    /// Lines in one event at most.
    pub max_lines: u32,
}

#[derive(Debug, Clone)]
enum Rule {
    Patterns(Patterns),
    Trace(&'static Machine),
}

/// The patterns that people write.
///
/// | given | an event is |
/// |---|---|
/// | `start` | a line that matches, and all up to the next that does |
/// | `continue` | any line, and those behind it that match |
/// | `start` and `continue` | a line that matches `start`, and those behind it that match `continue`; others stand alone |
/// | `halt` | all lines up to one that matches |
/// | `start` and `halt` | a line that matches `start`, and all up to one that matches `halt`; others stand alone |
/// | `continue_past` | a line that matches, and the one behind it; may stand beside all others |
#[derive(Debug, Clone, Default)]
struct Patterns {
    start: Option<Regex>,
    goes_on: Option<Regex>,
    past: Option<Regex>,
    halt: Option<Regex>,
}

/// The event began with a line that matches `start`, or there is no such pattern.
const BEGUN: Stage = Stage(1);
/// It did not.
const STRAY: Stage = Stage(0);

impl Patterns {
    fn begin(&self, line: &[u8]) -> Stage {
        if self.start.as_ref().is_none_or(|start| start.is_match(line)) { BEGUN } else { STRAY }
    }

    fn joins(&self, stage: Stage, previous: &[u8], line: &[u8]) -> bool {
        let is = |pattern: &Option<Regex>, line| pattern.as_ref().is_some_and(|pattern| pattern.is_match(line));
        if is(&self.past, previous) {
            return true;
        }
        if is(&self.halt, previous) || is(&self.start, line) {
            return false;
        }
        match (&self.start, &self.goes_on, &self.halt) {
            (_, Some(goes_on), _) => stage == BEGUN && goes_on.is_match(line),
            (Some(_), None, Some(_)) => stage == BEGUN,
            (Some(_), None, None) | (None, None, Some(_)) => true,
            (None, None, None) => false,
        }
    }
}

impl Join {
    /// Reads the section of the configuration, which was checked before.
    pub fn new(config: &MultilineConfig) -> Result<Self, AgentError> {
        let pattern = |text: &Option<String>| {
            let compile = |text: &String| {
                Regex::new(text).map_err(|source| AgentError::Regex { pattern: text.clone(), source: Box::new(source) })
            };
            text.as_ref().map(compile).transpose()
        };
        let rule = match config.preset {
            Some(preset) => Rule::Trace(machine(preset)),
            None => Rule::Patterns(Patterns {
                start: pattern(&config.start)?,
                goes_on: pattern(&config.r#continue)?,
                past: pattern(&config.continue_past)?,
                halt: pattern(&config.halt)?,
            }),
        };
        Ok(Self { rule, max_lines: u32::try_from(config.max_lines).unwrap_or(u32::MAX) })
    }

    /// A line begins an event.
    pub fn begin(&self, line: &[u8]) -> Stage {
        match &self.rule {
            Rule::Patterns(patterns) => patterns.begin(line),
            Rule::Trace(machine) => machine.begin(line),
        }
    }

    /// What is known when `line` goes on with the event whose last line is `previous`; `None` if it begins another.
    pub fn next(&self, stage: Stage, previous: &[u8], line: &[u8]) -> Option<Stage> {
        match &self.rule {
            Rule::Patterns(patterns) => patterns.joins(stage, previous, line).then_some(stage),
            Rule::Trace(machine) => machine.next(stage, line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events of a text, lines of one joined by `|`.
    fn events(join: &Join, text: &str) -> Vec<String> {
        let mut events: Vec<(String, Stage, &str)> = Vec::new();
        for line in text.lines() {
            if let Some((event, stage, previous)) = events.last_mut()
                && let Some(next) = join.next(*stage, previous.as_bytes(), line.as_bytes())
            {
                *event += "|";
                *event += line;
                (*stage, *previous) = (next, line);
            } else {
                events.push((line.to_owned(), join.begin(line.as_bytes()), line));
            }
        }
        events.into_iter().map(|(event, ..)| event).collect()
    }

    fn patterns(start: &str, goes_on: &str, past: &str, halt: &str) -> Join {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (start, r#continue, continue_past, halt) = (given(start), given(goes_on), given(past), given(halt));
        Join::new(&MultilineConfig { start, r#continue, continue_past, halt, ..MultilineConfig::default() }).unwrap()
    }

    #[test]
    fn patterns_join_as_the_table_says() {
        for (join, text, want) in [
            (patterns("^A", "", "", ""), "x A b c A A d", &["x", "A|b|c", "A", "A|d"][..]),
            (patterns("", "^b", "", ""), "x b b A b", &["x|b|b", "A|b"]),
            (patterns("^A", "^b", "", ""), "x b A b b x b A A", &["x", "b", "A|b|b", "x", "b", "A", "A"]),
            (patterns("", "", "", "^z"), "a b z c z d", &["a|b|z", "c|z", "d"]),
            (patterns("^A", "", "", "^z"), "x A b z x A A b", &["x", "A|b|z", "x", "A", "A|b"]),
            (patterns("", "", r"-$", ""), "a- b- c d e- f", &["a-|b-|c", "d", "e-|f"]),
            (patterns("^A", "", r"-$", ""), "A- A b A", &["A-|A|b", "A"]),
            (patterns("", "^b", r"", "^bz"), "A b bz b b", &["A|b|bz", "b|b"]),
        ] {
            // The first line of a text has none before it that it could go on with.
            assert_eq!(events(&join, &text.replace(' ', "\n")), want, "{join:?}: {text}");
        }
    }

    fn preset(preset: Preset) -> Join {
        Join::new(&MultilineConfig { preset: Some(preset), ..MultilineConfig::default() }).unwrap()
    }

    /// Texts are made of events, an empty comment line (`##`) between them.
    fn holds(of: Preset, text: &str) {
        let join = preset(of);
        let want: Vec<String> =
            text.split("##\n").map(|event| event.trim_end_matches('\n').replace('\n', "|")).collect();
        let got: Vec<String> = events(&join, &text.replace("##\n", ""));
        let got: Vec<String> = got.iter().map(|event| event.trim_end_matches('|').to_owned()).collect();
        assert_eq!(got, want, "{of:?}");
    }

    #[test]
    fn every_pattern_of_a_preset_compiles() {
        for of in [Preset::Java, Preset::Python, Preset::Go, Preset::Ruby, Preset::Dotnet] {
            let machine = machine(of);
            for transitions in machine.on.iter().chain([&machine.begin]) {
                assert_eq!(transitions.patterns.len(), transitions.to.len(), "{of:?}");
            }
        }
    }

    #[test]
    fn java_traces_are_events() {
        holds(
            Preset::Java,
            r#"2026-11-23 10:00:00 INFO started in 3.2 s
##
2026-11-23 10:00:01 ERROR order 17 failed
java.lang.IllegalStateException: no stock
	at com.shop.Store.take(Store.java:12)
	at com.shop.Store$1.run(Store.java:99) ~[shop.jar:1.0]
	at java.base/java.lang.Thread.run(Thread.java:1583)
	Suppressed: java.io.IOException: close
		at com.shop.Store.close(Store.java:7)
Caused by: java.sql.SQLException: two lines
  of text

	at org.db.Driver.ask(Driver.java:1)
	... 23 more
##
Exception in thread "main" java.lang.RuntimeException: aborting!
    at shop.Main.main(Main.kt:3)
##
2026-11-23 10:00:02 WARN retry after java.net.ConnectException: refused
##
2026-11-23 10:00:02 INFO done at 10:00
##
2026-11-23 10:00:03 ERROR scala
java.lang.OutOfMemoryError: heap
##
java.lang.OutOfMemoryError: heap
"#,
        );
    }

    #[test]
    fn python_traces_are_events() {
        holds(
            Preset::Python,
            r#"INFO:root:up
##
ERROR:root:order failed
Traceback (most recent call last):
  File "/app/shop.py", line 3, in take
    raise KeyError(17)
    ^^^^^^^^^^^^^^^^^^
KeyError: 17

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/app/shop.py", line 9, in <module>
    take()
  [Previous line repeated 996 more times]
shop.Broken: no stock
##
INFO:root:the line before goes with it
Traceback (most recent call last):
  File "x.py", line 1, in <module>
ValueError: 2 problems
  first
  second
##
ERROR:root:several
  + Exception Group Traceback (most recent call last):
  |   File "x.py", line 2, in <module>
  | ExceptionGroup: several (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | TypeError: 1
    +------------------------------------
"#,
        );
    }

    #[test]
    fn go_traces_are_events() {
        holds(
            Preset::Go,
            "2026/11/23 10:00:00 listening on :80
##
panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x47]

goroutine 1 [running]:
main.(*Store).Take(0xc000010000, {0x1, 0x2})
\t/app/main.go:12 +0x1d
main.main()
\t/app/main.go:20 +0x25
created by net/http.(*Server).Serve in goroutine 1
\t/usr/local/go/src/net/http/server.go:3086 +0x5cb

goroutine 18 [chan receive, 2 minutes]:
main.worker(...)
\t/app/main.go:33
exit status 2
##
2026/11/23 10:00:01 http: panic serving 127.0.0.1:1: boom
goroutine 35 [running]:
net/http.(*conn).serve.func1()
\t/usr/local/go/src/net/http/server.go:1868 +0xb9
panic({0x6a4d20?, 0x77d3f0?})
\t/usr/local/go/src/runtime/panic.go:914 +0x21f
##
2026/11/23 10:00:02 served (ok) 200
##
fatal error: all goroutines are asleep - deadlock!

goroutine 1 [chan receive]:
main.main()
\t/app/main.go:4 +0x2d
",
        );
    }

    #[test]
    fn ruby_traces_are_events() {
        holds(
            Preset::Ruby,
            "I, [2026-11-23] INFO -- : up
##
/app/shop.rb:3:in `take': no stock (RuntimeError)
\tfrom /app/shop.rb:9:in `each'
\tfrom /app/shop.rb:12:in `<main>'
##
E, [2026-11-23] ERROR -- : no stock (RuntimeError)
/app/shop.rb:3:in 'Store#take'
/app/shop.rb:9:in 'Array#each'
##
I, [2026-11-23] INFO -- : next
##
ActionController::RoutingError (No route matches [GET] \"/x\"):

actionpack (7.1.0) lib/action_dispatch/middleware/debug_exceptions.rb:12:in `call'
railties (7.1.0) lib/rails/rack/logger.rb:37:in `call_app'
##
I, [2026-11-23] INFO -- : end
",
        );
    }

    #[test]
    fn dotnet_traces_are_events() {
        holds(
            Preset::Dotnet,
            "[10:00:00 INF] up
##
[10:00:01 ERR] order failed
System.InvalidOperationException: no stock
 ---> System.IO.IOException: disk
   at Shop.Disk.Read(String path) in /app/Disk.cs:line 7
   --- End of inner exception stack trace ---
   at Shop.Store.Take(Int32 n) in /app/Store.cs:line 12
--- End of stack trace from previous location ---
   at Shop.Program.Main()
##
[10:00:02 INF] next
##
Unhandled exception. System.ArgumentNullException: Value cannot be null. (Parameter 'x')
   at Shop.Program.Main()
##
fail: Shop.Store[0]
      order failed
      System.InvalidOperationException: no stock
         at Shop.Store.Take(Int32 n)
##
info: Shop.Store[0]
      up
",
        );
    }

    #[test]
    fn the_rest_of_a_cut_trace_is_one_event() {
        for (of, text) in [
            (Preset::Java, "\tat a.B.c(B.java:1)\n\tat a.B.d(B.java:2)\n"),
            (Preset::Python, "  File \"x.py\", line 1, in f\n    f()\nKeyError: 1\n"),
            (Preset::Go, "\t/app/main.go:12 +0x1d\nmain.main()\n\t/app/main.go:20\n"),
            (Preset::Ruby, "\tfrom /a.rb:1:in `b'\n\tfrom /a.rb:2:in `c'\n"),
            (Preset::Dotnet, "   at A.B()\n   at A.C()\n"),
        ] {
            holds(of, text);
        }
    }
}
