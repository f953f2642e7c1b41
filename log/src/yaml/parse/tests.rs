//! The reader over whole files: places, aliases, bounds, and faults.

use std::path::Path;

use super::super::document::Document;
use super::*;

#[test]
fn aliases_of_other_programs_stand_for_what_they_name() {
    let text = "a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  z: 3\nd: [&e e, *e]\n";
    let root = parse_with_aliases("f.yaml", text).expect("good");
    let want = parse("f.yaml", "a: {x: 1, y: 2}\nb: {x: 1, y: 2}\nc: {x: 1, y: 2, z: 3}\nd: [e, e]\n").expect("good");
    fn bare(node: &Node) -> String {
        match &node.value {
            Value::Scalar { text, .. } => text.clone(),
            Value::List(items) => format!("{:?}", items.iter().map(bare).collect::<Vec<_>>()),
            Value::Map(entries) => {
                format!("{:?}", entries.iter().map(|e| (&e.key, bare(&e.node))).collect::<Vec<_>>())
            }
        }
    }
    assert_eq!(bare(&root), bare(&want));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        let list = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{list}]\n"));
    }
    assert!(parse_with_aliases("f.yaml", &bomb).expect_err("too large").message.contains("counting aliases"));
    assert!(parse_with_aliases("f.yaml", "a: &a [*a]\n").is_err());
}

fn place(line: usize, column: usize) -> Place {
    Place::File { file: "f.yaml".into(), line, column }
}

#[test]
fn every_value_keeps_its_place() {
    let text = "a: 1\nb:\n  - x\n  - c: \"y\"\n    d: {e: 2}\nf.g: {h: 1}\nf: {g.h: 2}\n";
    let root = parse("f.yaml", text).expect("good");
    for (path, want) in [
        ("a", place(1, 4)),
        ("b", place(2, 1)),
        ("b[0]", place(3, 5)),
        ("b[1].c", place(4, 8)),
        ("b[1].d.e", place(5, 12)),
        ("b[1].nowhere", place(4, 5)),
        ("f.g.h", place(6, 10)),
        ("f.g.i", place(6, 1)),
        ("b[7]", place(2, 1)),
        ("z", place(1, 1)),
    ] {
        assert_eq!(root.place_of(path), &want, "{path}");
    }
}

#[test]
fn characters_of_texts_have_their_place() {
    let text = "a: x y\nb: 'x y'\nc: |\n\n    if x {\n      y\n    }\nd:\n  - |-\n   z\n  - >\n   z\n   z\n";
    let root = parse("f.yaml", text).expect("good");
    for (path, line, column, want) in [
        ("a", 1, 3, place(1, 6)),
        ("b", 1, 3, place(2, 7)),
        ("c", 2, 1, place(5, 5)),
        ("c", 3, 3, place(6, 7)),
        ("d[0]", 1, 1, place(10, 4)),
        ("d[1]", 1, 2, place(12, 5)),
        ("d[1]", 1, 3, place(13, 4)),
        ("e", 1, 2, place(1, 1)),
    ] {
        assert_eq!(root.place_inside(path, line, column), want, "{path} {line}:{column}");
    }
}

#[test]
fn faults_of_yaml_name_line_and_column() {
    for (text, line, words) in [
        ("a: [1, 2\nb: 3\n", 2, "invalid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: &x 1\nb: *x\n", 2, "anchors"),
        ("? [a]\n: 1\n", 1, "a key must be"),
    ] {
        let fault = parse("f.yaml", text).expect_err(text);
        assert!(fault.message.contains(words), "{text}: {}", fault.message);
        let Place::File { line: found, .. } = fault.place else { panic!("a file") };
        assert_eq!(found, line, "{text}: {}", fault.message);
    }
}

#[test]
fn empty_files_are_empty_maps() {
    for text in ["", "# nothing\n", "---\n", "~\n"] {
        assert_eq!(parse("f.yaml", text).expect("good").value, Value::Map(Vec::new()), "{text:?}");
    }
}

#[test]
fn bytes_of_a_value_are_found_in_its_source() {
    // Each text holds one `#`-free mark `@`; the place of `@` in the value must be its place in the file.
    for text in [
        "k: abc @ def\n",
        "k: 'it''s @ def'\n",
        "k: \"a\\n\\u00e4\\\" @ def\"\n",
        "k: |\n  one\n  two\n    @ three\n",
        "k: >-\n  one\n  two\n  @ three\n",
        "k: >\n    one\n\n    two @\n",
        "k: |2\n   one\n  @\n",
        "- k: |-\n    sum(\n      größe @\n    )\n",
        "k: |\n\n\n    one\n    @ two\n",
        "k: first\n   second\n   @ third\n",
        "k: \"first\n   second\n   @ third\"\n",
    ] {
        let (_, root) = Document::parse(Path::new("f.yaml"), text, MoreDocuments::Refused);
        let root = root.expect("a tree");
        let map = match &root.value {
            Value::List(items) => &items[0],
            _ => &root,
        };
        let Value::Map(entries) = &map.value else { panic!("no map") };
        let Value::Scalar { text: value, .. } = &entries[0].node.value else { panic!("no scalar") };
        let before = text.split_once('@').expect("the mark").0;
        let want = place(before.lines().count(), before.lines().last().expect("a line").chars().count() + 1);
        assert_eq!(entries[0].node.place_within(value.find('@').expect("the mark")), want, "{text}");
    }
}

#[test]
fn own_keys_rule_over_merged_ones() {
    let (_, root) =
        Document::parse(Path::new("f.yaml"), "base: &b {x: 1, y: 2}\nall:\n  <<: *b\n  y: 3\n", MoreDocuments::Refused);
    let Some(Value::Map(entries)) = root.map(|root| root.value) else { panic!("no map") };
    let Value::Map(all) = &entries[1].node.value else { panic!("no map") };
    let keys: Vec<&str> = all.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["x", "y"]);
    assert!(parse_with_aliases("f.yaml", "a: {<<: 1}\n").expect_err("no map").message.contains("`<<`"));
}

#[test]
fn texts_that_were_replaced_keep_the_places_of_blocks() {
    let mut root = parse("f.yaml", "a: |\n  x ${V}\n  y\nb: x ${V} y\n").expect("good");
    let Value::Map(entries) = &mut root.value else { panic!("no map") };
    entries[0].node.set_text("x 1\ny\n".to_owned());
    entries[1].node.set_text("x 1 y".to_owned());
    assert_eq!(root.place_inside("a", 2, 1), place(3, 3));
    assert_eq!(root.place_inside("b", 1, 5), place(4, 4));
}
