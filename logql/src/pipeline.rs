//! The compiled stages of a query, run line by line: by the engine over batches, by live tail and rules one at a time.
//!
//! In: a line with the labels of its stream. Out: the line and labels that the stages made of it, or nothing.
//! Touches nothing. Line filters at the front run before any label is looked at.

use std::borrow::Cow;

use crate::answer::LabelPairs;
use crate::budget::Watch;
use crate::error::QueryError;
use crate::stage::labels::{Category, Labels};
use crate::stage::{self, Hints, LineState, Run};
use crate::storage::{LineNeedle, StreamLabels};
use crate::syntax::tree::LogExpr;

/// Compiled stages of a log expression. Make it once, share it.
#[derive(Debug)]
pub struct Pipeline {
    /// All stages; the first `filters` of them are line filters.
    stages: Vec<Box<dyn Run>>,
    filters: usize,
    hints: Hints,
}

/// What a pipeline made of a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Processed {
    /// The line; bytes that are no UTF-8 are U+FFFD.
    pub line: String,
    /// All labels, sorted by name.
    pub labels: LabelPairs,
    /// Those of the stream.
    pub stream_labels: LabelPairs,
    /// Those of structured metadata.
    pub metadata: LabelPairs,
    /// Those that parsers and formats made.
    pub parsed: LabelPairs,
}

impl Pipeline {
    /// Compiles the stages of an expression.
    pub fn new(expr: &LogExpr) -> Result<Self, QueryError> {
        let mut stages = Vec::with_capacity(expr.stages.len());
        for stage in &expr.stages {
            stages.push(stage::compile(stage).map_err(|fault| fault.at(stage.span))?);
        }
        let filters = stages.iter().take_while(|s| s.line_filter().is_some()).count();
        Ok(Self { stages, filters, hints: Hints::default() })
    }

    /// Labels that conditions and formats ask for.
    pub(crate) fn required(&self, names: &mut Vec<String>) {
        for stage in &self.stages {
            stage.required(names);
        }
    }

    pub(crate) fn set_hints(&mut self, hints: Hints) {
        self.hints = hints;
    }

    /// Texts that every line which passes contains, for [`crate::storage::Scan::needles`].
    pub fn needles(&self) -> Vec<LineNeedle> {
        let unchanged = self.stages.iter().take_while(|s| !s.changes_line());
        unchanged.filter_map(|s| s.line_filter()?.needle()).filter(|n| !n.text.is_empty()).collect()
    }

    /// Whether a line passes the filters at the front, which need nothing but its bytes.
    pub fn passes(&self, line: &[u8]) -> bool {
        self.stages.iter().take(self.filters).filter_map(|s| s.line_filter()).all(|f| f.stays(line))
    }

    /// Whether there is no stage.
    pub(crate) fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Whether line and labels come out as they went in.
    pub(crate) fn only_filters(&self) -> bool {
        self.filters == self.stages.len()
    }

    /// Runs the stages behind the filters at the front. When the watch says that the time is over they stop early: the
    /// caller asks it before using the answer.
    pub(crate) fn run<'a>(
        &'a self,
        stream: &'a [(String, String)],
        metadata: Option<&'a StreamLabels>,
        time_ns: i64,
        line: &'a [u8],
        watch: Option<&'a Watch>,
    ) -> Option<LineState<'a>> {
        let labels = Labels::new(stream, metadata);
        let hints = &self.hints;
        let mut state = LineState { time_ns, line: Cow::Borrowed(line), labels, hints, is_preserved: false, watch };
        let mut stages = self.stages.iter().skip(self.filters);
        stages.all(|stage| !state.is_over(state.line.len()) && stage.process(&mut state)).then_some(state)
    }

    /// Runs all stages over one line. `None`: a filter dropped it.
    pub fn process(
        &self,
        labels: &StreamLabels,
        metadata: Option<&StreamLabels>,
        time_ns: i64,
        line: &[u8],
    ) -> Option<Processed> {
        if !self.passes(line) {
            return None;
        }
        let state = self.run(labels, metadata, time_ns, line, None)?;
        Some(Processed {
            line: String::from_utf8_lossy(&state.line).into_owned(),
            labels: state.labels.pairs(|_| true),
            stream_labels: state.labels.pairs(|c| c == Category::Stream),
            metadata: state.labels.pairs(|c| c == Category::Metadata),
            parsed: state.labels.pairs(|c| c == Category::Parsed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::tree::Expr;

    fn run(query: &str, line: &str) -> Option<(String, String)> {
        let Expr::Log(log) = crate::parse(query).unwrap() else { panic!("{query}") };
        let labels: StreamLabels =
            vec![("app".to_owned(), "api".to_owned()), ("level".to_owned(), "info".to_owned())].into();
        let metadata: StreamLabels = vec![("trace".to_owned(), "7".to_owned())].into();
        let done = Pipeline::new(&log).unwrap().process(&labels, Some(&metadata), 0, line.as_bytes())?;
        let pairs: Vec<String> = done.labels.iter().map(|(n, v)| format!("{n}={v}")).collect();
        Some((done.line, pairs.join(" ")))
    }

    #[test]
    fn stages_change_line_and_labels() {
        for (stages, line, want) in [
            ("", "x", Some("app=api level=info trace=7")),
            ("|= `a` != `b`", "ab", None),
            ("|= `a` or `b`", "b", Some("app=api level=info trace=7")),
            ("!= `a` or `b`", "b", None),
            (
                "| json",
                r#"{"a":{"b":1},"level":"x","n":null}"#,
                Some("a_b=1 app=api level=info level_extracted=x trace=7"),
            ),
            ("| json x=`a.b[1]`", r#"{"a":{"b":[1,2]}}"#, Some("app=api level=info trace=7 x=2")),
            (
                "| json",
                "oops",
                Some(
                    "__error__=JSONParserErr __error_details__=Value looks like object, but can't find closing '}' symbol app=api level=info trace=7",
                ),
            ),
            ("| json | __error__=``", "oops", None),
            ("| logfmt", "a=1 b= c=\"x y\" =z", Some("a=1 app=api c=x y level=info trace=7")),
            ("| logfmt --keep-empty", "b=", Some("app=api b= level=info trace=7")),
            ("| logfmt | a > 5", "a=7", Some("a=7 app=api level=info trace=7")),
            ("| logfmt | a > 5", "b=7", None),
            ("| logfmt | a > 5s", "a=7m", Some("a=7m app=api level=info trace=7")),
            ("| logfmt | a >= 1KB", "a=999B", None),
            (
                "| logfmt | a > 5",
                "a=x",
                Some(
                    "__error__=LabelFilterErr __error_details__=strconv.ParseFloat: parsing \"x\": invalid syntax a=x app=api level=info trace=7",
                ),
            ),
            ("| regexp `(?P<m>G.T) (?P<p>/\\w+)`", "GET /x", Some("app=api level=info m=GET p=/x trace=7")),
            ("| pattern `<m> <_>:<n>`", "a b:c", Some("app=api level=info m=a n=c trace=7")),
            ("| trace=`7` | drop trace, app=`api`", "x", Some("level=info")),
            ("| keep app", "x", Some("app=api")),
            ("| label_format b=app, c=`d`", "x", Some("b=api c=d level=info trace=7")),
            ("| logfmt | a=ip(`10.0.0.0/8`)", "a=10.1.2.3", Some("a=10.1.2.3 app=api level=info trace=7")),
        ] {
            let got = run(&format!("{{app=\"api\"}} {stages}"), line);
            assert_eq!(got.as_ref().map(|(_, labels)| labels.as_str()), want, "{stages}: {line}");
        }
    }

    #[test]
    fn lines_are_replaced() {
        for (stages, line, want) in [
            ("| unpack", r#"{"_entry":"the line","pod":"p"}"#, "the line"),
            ("| decolorize", "\u{1b}[31mred\u{1b}[0m plain", "red plain"),
        ] {
            assert_eq!(run(&format!("{{app=\"api\"}} {stages}"), line).unwrap().0, want);
        }
    }

    /// Every stage over any bytes: nothing panics, and a line never gets a label twice.
    #[test]
    fn any_line_passes_or_not() {
        use proptest::prelude::*;
        let pipelines: Vec<Pipeline> = [
            "| json",
            "| json a=`b[0].c`, d=`e`",
            "| logfmt --strict",
            "| logfmt --keep-empty",
            "| logfmt a=`b`, c",
            "| unpack | json",
            "| regexp `(?P<a>\\w+)=(?P<b>.*)` | b > 5 or a < 5s",
            "| pattern `<a> <_>=<b>` | a >= 1KB | b = ip(`10.0.0.0/8`)",
            "| decolorize |> `<_>a<_>` | keep app",
            "|= ip(`::1`) or ip(`10.0.0.1-10.0.0.9`)",
            "| json | line_format `{{ .a | trunc 3 }}{{ range $k, $v := fromJson __line__ }}{{ $k }}{{ end }}` | logfmt",
            "| logfmt | label_format x=a, y=`{{ substr 1 2 .b }}` | drop a, x=~`.*b.*`",
        ]
        .iter()
        .map(|stages| {
            let Expr::Log(log) = crate::parse(&format!("{{app=`api`}} {stages}")).unwrap() else { panic!("{stages}") };
            Pipeline::new(&log).unwrap()
        })
        .collect();
        let labels: StreamLabels = vec![("app".to_owned(), "api".to_owned()), ("a".to_owned(), "1".to_owned())].into();
        let line = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            r#"[{}\[\]":, =ab_\\0-9.é<>\n\t-]{0,40}"#.prop_map(String::into_bytes),
            r#"\{("[ab\\é]{0,3}":("x"|1|null|true|\{"c":2\}|\[1,2\]),?){0,4}\}?"#.prop_map(String::into_bytes),
        ];
        proptest!(|(line in line)| {
            for pipeline in &pipelines {
                if let Some(done) = pipeline.process(&labels, None, 0, &line) {
                    let names: Vec<&String> = done.labels.iter().map(|(n, _)| n).collect();
                    prop_assert!(names.windows(2).all(|w| w[0] < w[1]), "{:?} {:?}", pipeline, done);
                }
            }
        });
    }

    #[test]
    fn needles_stop_where_the_line_changes() {
        let Expr::Log(log) = crate::parse(
            r#"{app="api"} |= "a" |~ "b" |~ "(?i)c" |~ "(?i)é" != "d" |~ "e+" | json | x="y" |= "f" | decolorize |= "g""#,
        )
        .unwrap() else {
            panic!()
        };
        let texts: Vec<(String, bool)> = Pipeline::new(&log)
            .unwrap()
            .needles()
            .into_iter()
            .map(|n| (String::from_utf8(n.text).unwrap(), n.ignore_case))
            .collect();
        let want = [("a", false), ("b", false), ("c", true), ("f", false)];
        assert_eq!(texts, want.map(|(t, i)| (t.to_owned(), i)));
    }
}
