//! The grammar as a specification: what is read, what is refused and where, and that printing reads back the same.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use millrace_logql::syntax::print::pretty;
use millrace_logql::syntax::tree::{
    Binary, BinaryOp, Cardinality, CompareOp, Conversion, Expr, Extraction, FormatValue, Grouping, LabelChoice,
    LabelFilter, LabelFormat, LabelReplace, LineFilter, LineMatch, LineOp, LogExpr, LogRange, MatchOp, Matcher,
    Matching, MetricExpr, Quantity, RangeAggregation, RangeOp, Selector, Span, Stage, StageKind, Unwrap,
    VectorAggregation, VectorOp,
};
use millrace_logql::{parse, syntax};
use proptest::prelude::*;

fn reads(text: &str, canonical: &str) {
    let expr = parse(text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    assert_eq!(expr.to_string(), canonical, "{text}");
    assert_eq!(parse(canonical).unwrap_or_else(|e| panic!("{canonical}\n{e}")), expr, "{text}");
}

fn fails(text: &str, place: (usize, usize), message: &str) {
    let error = parse(text).expect_err(text);
    assert_eq!((error.line, error.column), place, "{error}");
    assert!(error.message.contains(message), "want {message:?} in:\n{error}");
}

#[test]
fn queries_have_one_canonical_form() {
    for (text, canonical) in [
        ("{ app = \"api\" ,env!=`dev`}", r#"{app="api", env!="dev"}"#),
        (r#"{app="api"}|="a" or "b"!="c" or "d"|~`e`"#, r#"{app="api"} |= "a" or "b" != "c" != "d" |~ "e""#),
        (
            r#"{app="api"} | json a="b.c[0]", d | drop q, r="s""#,
            r#"{app="api"} | json a="b.c[0]",d="d" | drop q,r="s""#,
        ),
        (
            r#"{app="api"} | logfmt --strict --keep-empty a | unpack"#,
            r#"{app="api"} | logfmt --strict --keep-empty a="a" | unpack"#,
        ),
        (r#"{app="api"} | a=1, b>2 or c<3s"#, r#"{app="api"} | ( a==1 , ( b>2 or c<3s ) )"#),
        (r#"{app="api"} | a=1 and b>2 or c<3s"#, r#"{app="api"} | ( ( a==1 , b>2 ) or c<3s )"#),
        (r#"{app="api"} | a=1 or b>2 and c<3s"#, r#"{app="api"} | ( a==1 or ( b>2 , c<3s ) )"#),
        (
            r#"{app="api"} | a="x" b="y" or c!=ip("10.0.0.1")"#,
            r#"{app="api"} | ( a="x" , ( b="y" or c!=ip("10.0.0.1") ) )"#,
        ),
        ("rate({app=\"api\"}[1h30m] offset -5m)", "rate({app=\"api\"}[1h30m] offset -5m)"),
        ("count_over_time(({app=\"api\"} |= \"x\")[5m])", "count_over_time({app=\"api\"} |= \"x\"[5m])"),
        ("count_over_time(({app=\"api\"}[5m] |= \"x\"))", "count_over_time({app=\"api\"} |= \"x\"[5m])"),
        (
            "sum_over_time({app=\"api\"}[5m] | logfmt | unwrap duration(a) | a>1 | b=\"\")",
            "sum_over_time({app=\"api\"} | logfmt | unwrap duration(a) | a>1 | b=\"\"[5m])",
        ),
        ("SUM(rate({app=\"api\"}[5m])) BY (a, b)", "sum by (a,b)(rate({app=\"api\"}[5m]))"),
        ("topk by (a) (5, rate({app=\"api\"}[5m]))", "topk by (a)(5,rate({app=\"api\"}[5m]))"),
        ("1 + 2 * 3 ^ 2 ^ 0", "7"),
        ("10 - 4 - 3", "3"),
        ("vector(1) - vector(2) - vector(3)", "((vector(1.000000) - vector(2.000000)) - vector(3.000000))"),
        ("vector(1) ^ vector(2) ^ vector(3)", "(vector(1.000000) ^ (vector(2.000000) ^ vector(3.000000)))"),
        (
            "vector(1) or vector(2) and vector(3) > bool vector(4) + 5",
            "(vector(1.000000) or (vector(2.000000) and (vector(3.000000) > bool (vector(4.000000) + 5))))",
        ),
        (
            "vector(1) / on(a) group_left(b,c) (vector(2))",
            "(vector(1.000000) / on (a) group_left (b, c) vector(2.000000))",
        ),
        (
            "vector(1) / ignoring() group_right rate({app=\"a\"}[1m])",
            "(vector(1.000000) / ignoring () group_right rate({app=\"a\"}[1m]))",
        ),
        ("{app=\"a\"} | count=\"1\" # comment\n | sum = `2`", "{app=\"a\"} | count=\"1\" | sum=\"2\""),
        (
            "label_replace(vector(1), \"a\", \"$1\", \"b\", \"(.*)\")",
            "label_replace(vector(1.000000),\"a\",\"$1\",\"b\",\"(.*)\")",
        ),
        (
            "variants(count_over_time({app=\"a\"}[5m]), rate({app=\"a\"}[5m])) of ({app=\"a\"}[5m])",
            "variants(count_over_time({app=\"a\"}[5m]), rate({app=\"a\"}[5m])) of ({app=\"a\"}[5m])",
        ),
        ("{app=\"a\"} | xml a=\"b/c\"", "{app=\"a\"} | xml a=\"b/c\""),
    ] {
        reads(text, canonical);
    }
}

#[test]
fn faults_name_place_and_expectation() {
    for (text, place, message) in [
        (r#"{app="api" |= `timeout`"#, (1, 12), "expected `,` or `}`"),
        (r#"{app="api",}"#, (1, 12), "expected a label name"),
        (r#"{"app"="api"}"#, (1, 2), "expected `}` or a label name"),
        (r#"{app="api"} {env="prod"}"#, (1, 13), "unexpected `{`"),
        (r#"{app.x="y"}"#, (1, 5), "expected `=`, `!=`, `=~` or `!~`"),
        (r#"{app="api"} |= foo"#, (1, 16), "expected a text in quotes or `ip(\"…\")`"),
        (r#"{app="api"} | foo"#, (1, 18), "unexpected end of the query, expected a comparison"),
        ("{app=\"api\"}\n  | json | logfmt |", (2, 20), "a parser, a format or a label filter"),
        (r#"{app="api"} | json foo=bar"#, (1, 24), "expected a text in quotes"),
        (r#"{app="api"} | status > 5ZB"#, (1, 27), "unexpected end of the query"),
        (r#"{app="api"} offset 5m"#, (1, 13), "unexpected `offset`"),
        (r#"rate({app="api"}[-5m])"#, (1, 17), "not a valid duration string"),
        (r#"count_over_time({app="api"})"#, (1, 28), "expected"),
        (r#"sum_over_time({app="api"} | unwrap nofunc(x) [5m])"#, (1, 42), "unexpected `("),
        (r#"sum_over_time({app="api"} | unwrap [5m])"#, (1, 36), "expected a label name"),
        ("topk(0, vector(1))", (1, 6), "must be greater than 0"),
        ("topk(vector(1))", (1, 6), "parameter required for operation topk"),
        ("sum(2, vector(1))", (1, 5), "unsupported parameter for operation sum"),
        ("sort by (app) (vector(1))", (1, 6), "doesn't allow grouping"),
        ("sum(vector(1)", (1, 14), "expected an operator or `)`"),
        ("1 and 2", (1, 1), "unexpected literal for left leg"),
        (r#"1 + {app="api"}"#, (1, 5), "unexpected type for right leg"),
        (r#"sum({app="api"})"#, (1, 5), "needs numbers"),
        ("summ(vector(1))", (1, 1), "did you mean `sum`?"),
        ("rat({app=\"a\"}[5m])", (1, 1), "did you mean `rate`?"),
        ("   ", (1, 4), "unexpected end of the query"),
        ("0x1F + 1", (1, 1), "unable to parse literal as a float"),
        (r#"{app=~".*"}"#, (1, 1), "at least one regexp or equality matcher"),
        (r#"{app=~"("}"#, (1, 2), "error parsing regexp"),
        (r#"avg_over_time({app="api"} | logfmt [5m])"#, (1, 1), "invalid aggregation avg_over_time without unwrap"),
        (r#"count_over_time({app="api"}[5m]) by (app)"#, (1, 34), "grouping not allowed"),
        (r#"quantile_over_time({app="api"}[5m])"#, (1, 20), "parameter required"),
        ("group_left", (1, 1), "expected a query"),
    ] {
        fails(text, place, message);
    }
}

#[test]
fn faults_are_shown_with_a_caret() {
    let error = parse("sum by (app) (\n\trate({app=\"api\"} |= `a` | json x= [5m])\n)").unwrap_err();
    insta::assert_snapshot!(error, @r#"
    parse error at line 2, col 36: syntax error: unexpected a range, expected a text in quotes
       rate({app="api"} |= `a` | json x= [5m])
                                         ^
    "#);
}

#[test]
fn nesting_is_bounded() {
    for text in ["(".repeat(100_000), format!("{}1", "sum(".repeat(10_000)), "vector(1)+".repeat(10_000) + "1"] {
        assert!(parse(&text).is_err());
    }
    let filters = format!("{{a=\"b\"}} | {}x=1", "(".repeat(5000));
    assert!(parse(&filters).is_err());
}

#[test]
fn long_queries_are_split() {
    let text = r#"sum by (app, host) (rate({app="api", env="prod"} |= "a very long text to look for" | json | status >= 500 | __error__="" [5m])) / on (app) group_left (host) sum by (app) (rate({app="api"}[5m]))"#;
    insta::assert_snapshot!(pretty(&parse(text).unwrap()), @r#"
      sum by (app, host)(
        rate(
          {app="api", env="prod"} |= "a very long text to look for" | json | status>=500 | __error__="" [5m]
        )
      )
    / on (app) group_left (host)
      sum by (app)(rate({app="api"}[5m]))
    "#);
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z_][a-z0-9_]{0,6}x", Just("count".to_owned()), Just("équipe".to_owned())]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,8}", any::<String>()]
}

fn span() -> Span {
    Span::default()
}

fn match_op() -> impl Strategy<Value = MatchOp> {
    prop_oneof![Just(MatchOp::Equal), Just(MatchOp::NotEqual), Just(MatchOp::Regex), Just(MatchOp::NotRegex)]
}

fn matcher() -> impl Strategy<Value = Matcher> {
    (label(), match_op(), value()).prop_map(|(name, op, value)| Matcher { name, op, value, span: span() })
}

fn quantity() -> impl Strategy<Value = Quantity> {
    prop_oneof![
        any::<i32>().prop_map(|n| Quantity::Number(f64::from(n) / 8.0)),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Quantity::Number),
        any::<i64>().prop_filter("can be negated", |n| *n != i64::MIN).prop_map(Quantity::Duration),
        (0u64..1 << 50).prop_map(Quantity::Bytes),
        (0u64..1000).prop_map(|n| Quantity::Bytes(n * 1000)),
    ]
}

fn label_filter() -> impl Strategy<Value = LabelFilter> {
    let compare = prop_oneof![
        Just(CompareOp::Equal),
        Just(CompareOp::NotEqual),
        Just(CompareOp::Greater),
        Just(CompareOp::GreaterOrEqual),
        Just(CompareOp::Less),
        Just(CompareOp::LessOrEqual)
    ];
    let leaf = prop_oneof![
        matcher().prop_map(LabelFilter::Matcher),
        (label(), compare, quantity()).prop_map(|(name, op, value)| LabelFilter::Compare {
            name,
            op,
            value,
            span: span()
        }),
        (label(), any::<bool>(), value()).prop_map(|(name, negated, value)| LabelFilter::Ip {
            name,
            negated,
            value,
            span: span()
        }),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| LabelFilter::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| LabelFilter::Or(Box::new(a), Box::new(b))),
        ]
    })
}

fn line_filter() -> impl Strategy<Value = LineFilter> {
    let needle = (value(), any::<bool>()).prop_map(|(value, ip)| LineMatch { value, ip, span: span() }).boxed();
    let positive = prop_oneof![Just(LineOp::Contains), Just(LineOp::Regex), Just(LineOp::Pattern)];
    let negative = prop_oneof![Just(LineOp::NotContains), Just(LineOp::NotRegex), Just(LineOp::NotPattern)];
    prop_oneof![
        (positive, prop::collection::vec(needle.clone(), 1..4)).prop_map(|(op, needles)| LineFilter { op, needles }),
        (negative, needle).prop_map(|(op, needle)| LineFilter { op, needles: vec![needle] }),
    ]
}

fn stage() -> impl Strategy<Value = Stage> {
    let extraction = || {
        prop::collection::vec((label(), value()).prop_map(|(name, path)| Extraction { name, path, span: span() }), 0..3)
    };
    let format = (label(), prop_oneof![label().prop_map(FormatValue::Rename), value().prop_map(FormatValue::Template)])
        .prop_map(|(name, value)| LabelFormat { name, value, span: span() });
    let choice = || {
        prop::collection::vec(
            prop_oneof![label().prop_map(|n| LabelChoice::Name(n, span())), matcher().prop_map(LabelChoice::Match)],
            1..3,
        )
    };
    prop_oneof![
        line_filter().prop_map(StageKind::LineFilter),
        extraction().prop_map(StageKind::Json),
        extraction().prop_map(StageKind::Xml),
        (any::<bool>(), any::<bool>(), extraction())
            .prop_map(|(strict, keep_empty, extractions)| { StageKind::Logfmt { strict, keep_empty, extractions } }),
        value().prop_map(StageKind::Regexp),
        value().prop_map(StageKind::Pattern),
        Just(StageKind::Unpack),
        Just(StageKind::Decolorize),
        value().prop_map(StageKind::LineFormat),
        prop::collection::vec(format, 1..3).prop_map(StageKind::LabelFormat),
        choice().prop_map(StageKind::Drop),
        choice().prop_map(StageKind::Keep),
        label_filter().prop_map(StageKind::LabelFilter),
    ]
    .prop_map(|kind| Stage { kind, span: span() })
}

/// `| keep a` before `!= "b"` has no text: it reads as `| keep a != "b"`. No text gives such a tree either.
fn can_be_written(stages: &[Stage]) -> bool {
    stages.windows(2).all(|pair| {
        let ends_in_name = match &pair[0].kind {
            StageKind::Drop(choices) | StageKind::Keep(choices) => {
                matches!(choices.last(), Some(LabelChoice::Name(..)))
            }
            _ => false,
        };
        let excludes = matches!(
            &pair[1].kind,
            StageKind::LineFilter(LineFilter { op: LineOp::NotContains | LineOp::NotRegex, .. })
        );
        !(ends_in_name && excludes)
    })
}

fn log() -> impl Strategy<Value = LogExpr> {
    let stages = prop::collection::vec(stage(), 0..4).prop_filter("can be written", |s| can_be_written(s));
    (prop::collection::vec(matcher(), 0..3), stages).prop_map(|(matchers, stages)| LogExpr {
        selector: Selector { matchers, span: span() },
        stages,
        span: span(),
    })
}

fn duration_ns() -> impl Strategy<Value = i64> {
    prop_oneof![1i64..100, 1i64..1_000_000_000].prop_map(|ms| ms * 1_000_000)
}

fn grouping() -> impl Strategy<Value = Option<Grouping>> {
    prop::option::of((any::<bool>(), prop::collection::vec(label(), 0..3)).prop_map(|(without, labels)| Grouping {
        without,
        labels,
        span: span(),
    }))
}

fn range() -> impl Strategy<Value = LogRange> {
    let conversion = prop_oneof![
        Just(Conversion::Number),
        Just(Conversion::Bytes),
        Just(Conversion::Duration),
        Just(Conversion::DurationSeconds)
    ];
    let unwrap = (label(), conversion, prop::collection::vec(label_filter(), 0..2))
        .prop_map(|(label, conversion, filters)| Unwrap { label, conversion, filters, span: span() });
    let offset = prop_oneof![Just(0), duration_ns(), duration_ns().prop_map(|ns| -ns)];
    (log(), prop::option::of(unwrap), duration_ns(), offset).prop_map(|(log, unwrap, interval_ns, offset_ns)| {
        LogRange { log, unwrap, interval_ns, offset_ns, span: span() }
    })
}

fn matching() -> impl Strategy<Value = Option<Matching>> {
    let names = || prop::collection::vec(label(), 0..3);
    let kind = prop_oneof![
        Just((Cardinality::OneToOne, false)),
        any::<bool>().prop_map(|b| (Cardinality::ManyToOne, b)),
        any::<bool>().prop_map(|b| (Cardinality::OneToMany, b)),
    ];
    prop::option::of((any::<bool>(), names(), kind, names()).prop_map(|(on, labels, (cardinality, with), include)| {
        Matching { on, labels, cardinality, include: if with { include } else { Vec::new() } }
    }))
}

fn metric() -> impl Strategy<Value = MetricExpr> {
    let op = prop::sample::select(RangeOp::ALL.to_vec());
    let leaf = prop_oneof![
        (op, 0u32..1000, range(), grouping()).prop_map(|(op, parameter, range, grouping)| {
            let parameter = (op == RangeOp::Quantile).then(|| f64::from(parameter) / 100.0);
            MetricExpr::Range(RangeAggregation { op, parameter, range, grouping, span: span() })
        }),
        (0u32..100_000).prop_map(|n| MetricExpr::Constant(f64::from(n) / 4.0, span())),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let vector = prop::sample::select(VectorOp::ALL.to_vec());
        let binary = prop::sample::select(BinaryOp::ALL.to_vec());
        prop_oneof![
            (vector, 1i64..100, inner.clone(), grouping()).prop_map(|(op, count, expr, grouping)| {
                let grouping = if matches!(op, VectorOp::Sort | VectorOp::SortDesc | VectorOp::ApproxTopk) {
                    None
                } else {
                    grouping
                };
                let count = op.takes_count().then_some(count);
                MetricExpr::Vector(VectorAggregation { op, count, expr: Box::new(expr), grouping, span: span() })
            }),
            (binary, inner.clone(), inner.clone(), any::<bool>(), matching()).prop_map(
                |(op, left, right, returns_bool, matching)| MetricExpr::Binary(Binary {
                    op,
                    left: Box::new(left),
                    right: Box::new(right),
                    returns_bool,
                    matching,
                    span: span()
                })
            ),
            (inner.clone(), any::<i32>()).prop_map(|(left, n)| MetricExpr::Binary(Binary {
                op: BinaryOp::Mul,
                left: Box::new(left),
                right: Box::new(MetricExpr::Literal(f64::from(n) / 16.0, span())),
                returns_bool: false,
                matching: None,
                span: span()
            })),
            (inner, value(), value()).prop_map(|(expr, a, b)| MetricExpr::LabelReplace(LabelReplace {
                expr: Box::new(expr),
                destination: a.clone(),
                replacement: b.clone(),
                source: b,
                regex: a,
                span: span()
            })),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn printing_reads_back_the_same(expr in prop_oneof![log().prop_map(Expr::Log), metric().prop_map(Expr::Metric)]) {
        let text = expr.to_string();
        let read = syntax::parse(&text).map_err(|e| TestCaseError::fail(format!("{text}\n{e}")))?;
        prop_assert_eq!(&read, &expr, "{}", text);
        let text = pretty(&expr);
        let read = syntax::parse(&text).map_err(|e| TestCaseError::fail(format!("{text}\n{e}")))?;
        prop_assert_eq!(&read, &expr, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        if let Err(error) = parse(&text) {
            prop_assert!(error.line >= 1 && error.column >= 1 && !error.to_string().is_empty());
        }
    }

    #[test]
    fn any_words_are_read_or_refused(words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..24)) {
        let text = words.join(" ");
        if let Err(error) = parse(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

const WORDS: [&str; 48] = [
    "{",
    "}",
    "(",
    ")",
    "[5m]",
    "|",
    "|=",
    "|~",
    "!=",
    "!~",
    "|>",
    "!>",
    "=",
    "=~",
    "==",
    ">",
    "<=",
    ",",
    "+",
    "-",
    "*",
    "/",
    "^",
    "\"a\"",
    "`(`",
    "app",
    "by",
    "without",
    "sum",
    "rate",
    "count_over_time",
    "topk",
    "5",
    "5m",
    "5KB",
    "json",
    "logfmt",
    "unwrap",
    "duration",
    "offset",
    "on",
    "group_left",
    "bool",
    "and",
    "or",
    "{app=\"a\"}",
    "ip",
    "--strict",
];
