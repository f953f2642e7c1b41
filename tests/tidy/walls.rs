//! Layers within crates, derived from the declarations of modules: a child never imports its parent, and siblings import
//! only siblings declared above them. So no files form a ring, and `lib.rs` stands in the order of the data.
//!
//! In: the source files of one crate. Out: the imports that break the rule. Touches the source tree. Code behind
//! `#[cfg(test)]` may import anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module as its path within the crate: empty for `lib.rs`.
type Module = Vec<String>;

/// Imports of a crate that point back, as `a::b -> c (why)`.
pub fn arrows_back(src: &Path) -> Vec<String> {
    let modules = modules(src);
    let mut back = Vec::new();
    for (from, path) in &modules {
        if from.is_empty() || from.iter().any(|name| name == "tests" || name.ends_with("_tests")) {
            continue;
        }
        for to in imports(from, &without_tests(&super::read(path)), &modules) {
            if let Some(why) = points_back(from, &to, &modules) {
                back.push(format!("{} -> {} ({why})", shown(from), shown(&to)));
            }
        }
    }
    back
}

fn shown(module: &Module) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("::") }
}

fn modules(src: &Path) -> BTreeMap<Module, PathBuf> {
    let module_of = |path: &Path| {
        let relative = path.strip_prefix(src).unwrap().with_extension("");
        let mut module: Module = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if module.last().is_some_and(|last| last == "mod" || last == "lib") {
            module.pop();
        }
        module
    };
    super::files(src, "rs").into_iter().map(|path| (module_of(&path), path)).collect()
}

/// The text without comments, and without what stands behind the first `#[cfg(test)]` of an own module.
fn without_tests(text: &str) -> String {
    let tests =
        regex::Regex::new(r"(?s)#\[cfg\((all\()?test[^\n]*\n(\s*#\[[^\n]*\n)*\s*(pub(\([a-z ]+\))? )?mod \w+ \{.*")
            .unwrap();
    let one_item = regex::Regex::new(r"#\[cfg\(test\)\]\s*\n[^\n]*\n").unwrap();
    let comment = regex::Regex::new(r"//[^\n]*").unwrap();
    let text = tests.replace(text, "");
    comment.replace_all(&one_item.replace_all(&text, ""), "").into_owned()
}

/// Modules that a file names in `use` or in a path.
fn imports(from: &Module, text: &str, modules: &BTreeMap<Module, PathBuf>) -> BTreeSet<Module> {
    let statement = regex::Regex::new(r"\buse\s+((?:crate|super|self)::[^;]*);").unwrap();
    let inline = regex::Regex::new(r"\b(?:crate|super)(?:::\w+)+").unwrap();
    let mut paths = Vec::new();
    for used in statement.captures_iter(text) {
        expand("", &used[1].split_whitespace().collect::<Vec<_>>().join(" "), &mut paths);
    }
    let rest = statement.replace_all(text, "");
    paths.extend(inline.find_iter(&rest).map(|found| found.as_str().to_owned()));
    let found = paths.iter().map(|path| resolve(from, path, modules));
    found.filter(|module| module != from).collect()
}

/// `a::{b, c::{d, e}}` to `a::b`, `a::c::d`, `a::c::e`.
fn expand(before: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, inside)) = tree.split_once('{') else {
        let bare = tree.split(" as ").next().unwrap_or(tree);
        paths.push(format!("{before}{bare}"));
        return;
    };
    let inside = inside.strip_suffix('}').unwrap_or(inside);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inside.char_indices().chain([(inside.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let one = inside.get(start..at).unwrap_or("").trim();
                if !one.is_empty() {
                    expand(&format!("{before}{head}"), one, paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The module that a path leads to: its longest part that is a file.
fn resolve(from: &Module, path: &str, modules: &BTreeMap<Module, PathBuf>) -> Module {
    let mut at = from.clone();
    for (i, part) in path.split("::").enumerate() {
        match part.trim() {
            "crate" if i == 0 => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
            }
            name => at.push(name.to_owned()),
        }
    }
    while !at.is_empty() && !modules.contains_key(&at) {
        at.pop();
    }
    at
}

fn points_back(from: &Module, to: &Module, modules: &BTreeMap<Module, PathBuf>) -> Option<&'static str> {
    let shared = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    if shared == to.len() {
        return Some("a child imports its parent");
    }
    // A parent may use its children.
    let (own, other) = (from.get(shared)?, to.get(shared)?);
    let declared = declarations(modules.get(from.get(..shared)?)?);
    let place = |name: &String| declared.iter().position(|d| d == name);
    (place(own)? < place(other)?).then_some("it is declared below")
}

fn declarations(path: &Path) -> Vec<String> {
    let declaration = regex::Regex::new(r"(?m)^\s*(?:pub(?:\([a-z ]+\))? )?mod (\w+)\s*[;{]").unwrap();
    declaration.captures_iter(&super::read(path)).map(|found| found[1].to_owned()).collect()
}

#[test]
fn an_arrow_back_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod a;\npub mod b;\nmod c;\n");
    write("a.rs", "use crate::{b::{self, Thing as Other}};\n");
    write("b/mod.rs", "mod inner;\nuse crate::a::X;\nfn f() { super::a::g() }\n");
    write("b/inner.rs", "use super::Y;\nfn f() { crate::c::h() }\n");
    write(
        "c.rs",
        "use crate::b::inner::Z;\n// use crate::nothing;\n#[cfg(test)]\nmod tests {\n    use crate::c::tests;\n}\n",
    );
    assert_eq!(
        arrows_back(dir.path()),
        [
            "a -> b (it is declared below)",
            "b::inner -> b (a child imports its parent)",
            "b::inner -> c (it is declared below)"
        ]
    );
}
