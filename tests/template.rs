//! `millrace template render` shows what templates give, and names faults with file, line and column.

#![allow(clippy::unwrap_used)] // a test that fails says where

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs it in a folder: exit code, standard output, standard error.
fn render(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    let run = command.args(["template", "render"]).args(args).current_dir(folder).env_clear();
    let output = run.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn templates_are_previewed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    file("own.tmpl", "{{ define \"mine\" }}{{ range .Alerts }}{{ .Labels.host }}<{{ end }}{{ end }}");
    file("bad.tmpl", "{{ define \"x\" }}\n  {{ toUppr .Status }}{{ end }}");
    file("alerts.json", r#"[{"labels": {"alertname": "A", "host": "db-1"}, "annotations": {}}]"#);
    for (args, want) in [
        (&[][..], "[FIRING:2] DiskFull (eu-west-1 page)\n"),
        (&["own.tmpl", "--text", "{{ template \"mine\" . }}"], "web-1<web-2<web-3<\n"),
        (&["own.tmpl", "--data", "alerts.json", "--html", "--text", "{{ template \"mine\" . }}"], "db-1&lt;\n"),
        (&["--handlebars", "--text", "{{len alerts}} {{toUpper status}}"], "3 FIRING\n"),
    ] {
        let (code, out, error) = render(folder, args);
        assert_eq!((code, out.as_str()), (0, want), "{args:?}: {error}");
    }
    for (args, code, want) in [
        (&["bad.tmpl"][..], 78, "bad.tmpl:2:6: the function `toUppr` does not exist"),
        (&["--text", "{{ template \"none\" . }}"], 78, "--text:1:4: the template `none` does not exist"),
        (&["--text", "{{ index .Alerts 9 }}"], 1, "line 1, column 4: `index`: 9 is out of range"),
        (&["none.tmpl"], 78, "none.tmpl: No such file"),
        (&["--data", "own.tmpl"], 78, "own.tmpl: invalid JSON"),
    ] {
        let (got, out, error) = render(folder, args);
        assert!(got == code && out.is_empty() && error.contains(want), "{args:?}: {got} {out} {error}");
    }
}
