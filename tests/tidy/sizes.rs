//! Sizes of files and functions, without tests.
//!
//! In: the text of a Rust file as `cargo fmt` leaves it. Out: its lines, and its functions with theirs. Touches nothing.

/// Lines of a file without the modules of its tests.
pub fn lines(code: &str) -> usize {
    without_tests(code).count()
}

/// Functions of a file with their lines, from the line of `fn` to the closing brace.
pub fn functions(code: &str) -> Vec<(String, usize)> {
    let start = regex::Regex::new(
        r#"^(\s*)(?:pub(?:\([a-z ]+\))? )?(?:const )?(?:async )?(?:unsafe )?(?:extern "C" )?fn (\w+)"#,
    )
    .unwrap();
    let lines: Vec<&str> = without_tests(code).collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(parts) = start.captures(line) else { continue };
        let (indent, name) = (&parts[1], &parts[2]);
        // A body on its own lines ends with a brace below `fn`; a declaration ends with a semicolon before.
        let end = format!("{indent}}}");
        let is_over = |line: &&&str| {
            **line == end
                || (line.ends_with(';') && line.strip_prefix(indent).is_some_and(|rest| !rest.starts_with(' ')))
        };
        let length = match line.ends_with(['}', ';']) {
            true => 1,
            false => 2 + lines[first + 1..].iter().take_while(|line| !is_over(line)).count(),
        };
        found.push((name.to_owned(), length));
    }
    found
}

fn without_tests(code: &str) -> impl Iterator<Item = &str> {
    let mut lines = code.lines().peekable();
    let mut inside = false;
    std::iter::from_fn(move || {
        loop {
            let line = lines.next()?;
            let opens = |next: &&str| next.starts_with("mod ") && next.ends_with('{');
            if line == "#[cfg(test)]" && lines.peek().is_some_and(opens) {
                inside = true;
            } else if inside {
                inside = line != "}";
            } else {
                return Some(line);
            }
        }
    })
}
