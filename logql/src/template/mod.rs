//! Templates of `line_format` and `label_format`: Go's text/template with Loki's functions.
//!
//! In: a template's text; for each line its labels, text and time. Out: text, or why it failed as Loki says it.
//! Touches nothing: what would need a clock (`now`) is refused when the template is compiled.

mod fault;
mod date;
mod value;
mod format;
mod context;
mod arguments;
mod functions_go;
mod functions_text;
mod functions_number;
mod functions_encoding;
mod functions;
mod parse;
mod run;

pub(crate) use context::Context;
pub(crate) use fault::TemplateFault;

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    name: &'static str,
    nodes: Vec<parse::Node>,
    /// Names of labels that it reads; empty when it reads them in ways that can't be known.
    fields: Vec<String>,
}

impl Template {
    /// Compiles a template; `name` stands in its errors.
    pub fn new(name: &'static str, text: &str) -> Result<Self, TemplateFault> {
        let parsed = parse::parse(text).map_err(|(line, fault)| match fault {
            TemplateFault::Wrong(message) => TemplateFault::Wrong(format!("template: {name}:{line}: {message}")),
            other => other,
        })?;
        Ok(Self { name, nodes: parsed.nodes, fields: parsed.fields })
    }

    /// Names of labels that it reads.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Fills it in. On failure: the details of the fault.
    pub fn fill(&self, context: &Context<'_>) -> Result<String, String> {
        run::fill(self.name, &self.nodes, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> Result<String, String> {
        let label = |name: &str| match name {
            "method" => Some("GET".to_owned()),
            "path" => Some("/api/v1".to_owned()),
            "status" => Some("500".to_owned()),
            "took" => Some("1.5s".to_owned()),
            "empty" => Some(String::new()),
            "json" => Some(r#"{"a":{"b":[1,"x"]},"n":null}"#.to_owned()),
            _ => None,
        };
        let all = || vec![("method".to_owned(), "GET".to_owned()), ("path".to_owned(), "/api/v1".to_owned())];
        let context = Context { label: &label, all: &all, line: "the line", time_ns: 1_772_366_400_123_000_000 };
        let template = Template::new("line", text).map_err(|fault| format!("{fault:?}"))?;
        template.fill(&context)
    }

    #[test]
    fn templates_are_filled_in() {
        for (text, want) in [
            ("plain", "plain"),
            ("{{.method}}-{{ .nope }}|", "GET-|"),
            ("{{ if eq .status \"500\" }}bad{{ else if .method }}m{{ else }}ok{{ end }}", "bad"),
            ("{{ if not .empty }}e{{ end }}{{ with .path }}{{ . }}{{ end }}", "e/api/v1"),
            ("{{- .method -}}   x", "GETx"),
            ("{{/* note */}}y", "y"),
            ("{{ $x := .status }}{{ $x }}", "500"),
            ("{{ .path | replace \"/\" \"_\" | trunc 4 | upper }}", "_API"),
            ("{{ add .status 1 }} {{ div 7 2 }} {{ addf 1 0.5 }}", "501 3 1.5"),
            ("{{ printf \"%-5s|%05d|%.2f|%q|%%\" .method 42 1.234 .path }}", "GET  |00042|1.23|\"/api/v1\"|%"),
            ("{{ range $i, $e := (fromJson .json).a.b }}{{ $i }}={{ $e }};{{ end }}", "0=1;1=x;"),
            ("{{ __line__ | len }} {{ __timestamp__ | unixEpoch }}", "8 1772366400"),
            ("{{ __timestamp__ | date \"2006-01-02T15:04:05.000Z07:00\" }}", "2026-03-01T12:00:00.123Z"),
            ("{{ .took | duration }} {{ \"1KB\" | bytes }}", "1.5 1000"),
            ("{{ regexReplaceAll \"/(\\\\w+)/\" .path \"<$1>\" }}", "<api>v1"),
            ("{{ regexReplaceAll \"b(c)\" \"abcd\" \"$$1${1}x$1\" }}", "a$1cxcd"),
            ("{{ regexReplaceAllLiteral \"b(c)\" \"abcd\" \"$1\" }}", "a$1d"),
            ("{{ len (regexReplaceAll \"(a+)\" (repeat 400000 \"a\") \"$1$2$3\") }}", "400000"),
            ("{{ len (replace \"aa\" \"aaa\" (repeat 600000 \"a\")) }}", "900000"),
            ("{{ trimAll \"zyx\" \"xayz\" }}", "a"),
            ("{{ default \"d\" .empty }} {{ .nope | default \"-\" }}", "d -"),
            ("{{ alignLeft 5 .method }}|{{ alignRight 2 .method }}", "GET  |ET"),
            ("{{ (fromJson .json).x }}", "<no value>"),
            ("{{ and .method .path }} {{ or .empty .method }}", "/api/v1 GET"),
            ("{{ range . }}{{ . }},{{ end }}", "GET,/api/v1,"),
            ("{{ range .empty }}x{{ else }}none{{ end }}", "none"),
        ] {
            let want = if text.contains("range .empty") { None } else { Some(want) };
            assert_eq!(fill(text).ok().as_deref(), want, "{text}");
        }
    }

    #[test]
    fn wrong_templates_are_refused() {
        for (text, want) in [
            ("{{.a", "unclosed action"),
            ("{{range}}", "missing value for range"),
            ("{{ if .a }}", "unexpected EOF"),
            ("{{ end }}", "unexpected {{end}}"),
            ("{{ nope .a }}", "function \\\"nope\\\" not defined"),
            ("{{ $x }}", "undefined variable \\\"$x\\\""),
            ("{{ \"a }}", "unterminated quoted string"),
            ("{{ now }}", "NotYet"),
        ] {
            let fault = fill(text).unwrap_err();
            assert!(fault.contains(want), "{text}: {fault}");
        }
    }

    /// Each of these took all memory, or hours, for one line.
    #[test]
    fn one_line_costs_no_more_than_so_much() {
        let long = "(repeat 1000000 \"a\")";
        let doubled = format!("{{{{ $x := \"a\" }}}}{}{{{{ $x }}}}", "{{ $x = printf \"%s%s\" $x $x }}".repeat(60));
        let encoded = format!("{{{{ {long}{} }}}}", " | b64enc".repeat(200));
        let held: String = (0..100).map(|n| format!("{{{{ $x{n} := {long} }}}}")).collect();
        for (text, want) in [
            ("{{ range 100000 }}{{ range 100000 }}{{ end }}{{ end }}".to_owned(), "too much work"),
            (format!("{{{{ replace \"a\" {long} {long} }}}}"), "longer than 1048576 bytes"),
            (format!("{{{{ Replace {long} \"\" {long} -1 }}}}"), "longer than 1048576 bytes"),
            (format!("{{{{ regexReplaceAll \"a+\" {long} (repeat 100000 \"$0\") }}}}"), "longer than 1048576 bytes"),
            (format!("{{{{ regexReplaceAllLiteral \"\" {long} {long} }}}}"), "longer than 1048576 bytes"),
            ("{{ indent 1000 (repeat 1000000 \"\\n\") }}".to_owned(), "longer than 1048576 bytes"),
            ("{{ fromJson (repeat 1000000 \"[\") }}".to_owned(), "1000000 elements, 50000 are allowed"),
            (doubled, "longer than 1048576 bytes"),
            (encoded, "longer than 1048576 bytes"),
            (held, "too much work"),
            ("{{ range $i := 1000 }}{{ count (printf \"%d.{100}\" $i) \"x\" }}{{ end }}".to_owned(), "too much work"),
        ] {
            let fault = fill(&text).unwrap_err();
            assert!(fault.contains(want), "{}: {fault}", text.chars().take(80).collect::<String>());
        }
        // Each character is looked for among a million.
        assert_eq!(fill(&format!("{{{{ Trim {long} {long} }}}}")).as_deref(), Ok(""));
        assert_eq!(fill("{{ range $i := 10000 }}{{ $i }}{{ end }}").map(|line| line.len()), Ok(38_890));
    }

    #[test]
    fn faults_at_run_time_say_where() {
        for (text, want) in [
            (
                "{{ .status | regexReplaceAll \"x\" }}",
                "template: line:1:13: executing \"line\" at <regexReplaceAll>: wrong number of args for regexReplaceAll: want 3 got 2",
            ),
            (
                "{{ .path | unixToTime }}",
                "template: line:1:11: executing \"line\" at <unixToTime>: error calling unixToTime: unable to parse time '/api/v1': strconv.ParseInt: parsing \"/api/v1\": invalid syntax",
            ),
        ] {
            assert_eq!(fill(text).unwrap_err(), want);
        }
    }
}
