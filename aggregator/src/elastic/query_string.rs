//! The query string mini-language (`query_string`), as Grafana and Kibana send it: `level:error AND NOT "timed out"`,
//! `status:[500 TO 599]`, `took:>=10`, `user:a*`, parentheses, `+must -not`.
//!
//! In: text. Out: [`Query`]. Touches nothing. Words without a field are looked for in `message`.
//! Source: "Query string syntax" of the Elasticsearch reference. Not executed: fuzziness (`~`), proximity; refused.

use super::bounds::Bounds;
use super::document::MESSAGE;
use super::error::ApiError;
use super::query::{Query, Range, anchored, match_words, phrase_words, wildcard};

/// Reads a query string; `fields` are asked where the text names none (empty: `message`).
pub fn parse(text: &str, fields: &[String], and: bool, now_ns: i64, bounds: &Bounds) -> Result<Query, ApiError> {
    let mut reader = Reader { text, rest: text, fields, and, now_ns, bounds, depth: 0 };
    let query = reader.either()?;
    reader.blanks();
    if reader.rest.is_empty() { Ok(query) } else { Err(reader.fault("an operator or the end")) }
}

/// The forgiving form: nothing is an error. `+`, `|`, `-`, quotes and a trailing `*` have their meaning.
pub fn simple(text: &str, fields: &[String], and: bool) -> Query {
    let mut clauses = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let not = rest.starts_with('-');
        let body = rest.trim_start_matches(['-', '+', '|', '(', ')']);
        let (word, quoted, tail) = match body.strip_prefix('"').and_then(|q| q.split_once('"')) {
            Some((inside, tail)) => (inside, true, tail),
            None => {
                let (word, tail) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
                (word.trim_end_matches(')'), false, tail)
            }
        };
        let query = in_fields(fields, |field| match word.strip_suffix('*') {
            _ if quoted => phrase_words(field, word, false),
            Some(prefix) => phrase_words(field, prefix, true),
            None => match_words(field, word, and),
        });
        if not {
            // Joined like every other clause: `fox -dog` is foxes and all that has no dog.
            clauses.push(Query::Bool { must: Vec::new(), should: Vec::new(), must_not: vec![query], at_least: 0 })
        } else if !word.is_empty() {
            clauses.push(query)
        }
        rest = tail.trim_start();
    }
    let all = and || text.contains('+');
    let (must, should) = if all { (clauses, Vec::new()) } else { (Vec::new(), clauses) };
    let at_least = usize::from(!should.is_empty());
    Query::Bool { must, should, must_not: Vec::new(), at_least }
}

fn in_fields(fields: &[String], make: impl Fn(&str) -> Query) -> Query {
    match fields {
        [] => make(MESSAGE),
        [one] => make(one),
        many => Query::Bool {
            must: Vec::new(),
            should: many.iter().map(|f| make(f)).collect(),
            must_not: Vec::new(),
            at_least: 1,
        },
    }
}

struct Reader<'t, 'f> {
    text: &'t str,
    rest: &'t str,
    fields: &'f [String],
    and: bool,
    now_ns: i64,
    bounds: &'f Bounds,
    depth: usize,
}

const MAX_DEPTH: usize = 30;

impl<'t> Reader<'t, '_> {
    fn fault(&self, expected: &str) -> ApiError {
        let column = self.text.len() - self.rest.len() + 1;
        ApiError {
            status: 400,
            kind: "query_shard_exception",
            reason: format!("Failed to parse query [{}]: column {column}: expected {expected}", self.text),
        }
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.blanks();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// An operator word must stand alone.
    fn take_word(&mut self, word: &str) -> bool {
        self.blanks();
        match self.rest.strip_prefix(word) {
            Some(rest) if rest.is_empty() || rest.starts_with([' ', '\t', '(', '"']) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Clauses joined by blanks, `AND`, `OR`; `+` and `-` before a clause. `AND` binds what stands at its sides.
    fn either(&mut self) -> Result<Query, ApiError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault("fewer nested parentheses"));
        }
        let (mut must, mut should, mut must_not) = (Vec::new(), Vec::new(), Vec::new());
        let mut joined_by_and = false;
        loop {
            self.blanks();
            if self.rest.is_empty() || self.rest.starts_with(')') {
                break;
            }
            let (required, not) = if self.take("+") {
                (true, false)
            } else {
                (false, self.take("-") || self.take("!") || self.take_word("NOT"))
            };
            let clause = self.clause()?;
            let and = self.take("&&") || self.take_word("AND");
            let or = !and && (self.take("||") || self.take_word("OR"));
            if not {
                must_not.push(clause);
            } else if required || and || joined_by_and || (self.and && !or) {
                must.push(clause);
            } else {
                should.push(clause);
            }
            joined_by_and = and;
        }
        self.depth -= 1;
        if must.len() + should.len() + must_not.len() == 0 {
            return Ok(Query::None);
        }
        let at_least = usize::from(must.is_empty() && !should.is_empty());
        Ok(Query::Bool { must, should, must_not, at_least })
    }

    fn clause(&mut self) -> Result<Query, ApiError> {
        self.blanks();
        if self.take("(") {
            let inner = self.either()?;
            return if self.take(")") { Ok(inner) } else { Err(self.fault("`)`")) };
        }
        match self.field() {
            None => self.value(None),
            Some(field) if field == "_exists_" => {
                let name = self.word();
                Ok(Query::Exists(name))
            }
            Some(field) => {
                if self.take("(") {
                    let fields = [field];
                    let mut inner = Reader {
                        text: self.text,
                        rest: self.rest,
                        fields: &fields,
                        and: self.and,
                        now_ns: self.now_ns,
                        bounds: self.bounds,
                        depth: self.depth,
                    };
                    let query = inner.either()?;
                    self.rest = inner.rest;
                    return if self.take(")") { Ok(query) } else { Err(self.fault("`)`")) };
                }
                self.value(Some(&field))
            }
        }
    }

    /// `name:` before a value.
    fn field(&mut self) -> Option<String> {
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || "_.@-\\*".contains(c)))?;
        let (name, tail) = self.rest.split_at(end);
        let tail = tail.strip_prefix(':')?;
        if name.is_empty() {
            return None;
        }
        self.rest = tail;
        Some(name.replace('\\', ""))
    }

    fn value(&mut self, field: Option<&str>) -> Result<Query, ApiError> {
        let value = self.value_of(field)?;
        self.bounds.add_clauses(value.clauses())?;
        Ok(value)
    }

    fn value_of(&mut self, field: Option<&str>) -> Result<Query, ApiError> {
        let named = field.map(|f| vec![f.to_owned()]);
        let fields: Vec<String> = named.unwrap_or_else(|| self.fields.to_vec());
        let now_ns = self.now_ns;
        self.blanks();
        if let Some(rest) = self.rest.strip_prefix('"') {
            let (inside, tail) = quoted(rest).ok_or_else(|| self.fault("a closing `\"`"))?;
            self.rest = tail;
            self.no_fuzz()?;
            return Ok(in_fields(&fields, |f| phrase_words(f, &inside, false)));
        }
        if self.rest.starts_with(['[', '{']) {
            return self.range(&fields);
        }
        if let Some(rest) = self.rest.strip_prefix('/')
            && let Some((expression, tail)) = rest.split_once('/')
        {
            self.rest = tail;
            return self.pattern(&fields, expression, false);
        }
        for (sign, low, inclusive) in [(">=", true, true), ("<=", false, true), (">", true, false), ("<", false, false)]
        {
            if self.take(sign) {
                let word = self.word();
                return Ok(in_fields(&fields, |f| {
                    let bound = Some((word.as_str(), inclusive));
                    Query::Range(if low {
                        Range::between(f, bound, None, now_ns)
                    } else {
                        Range::between(f, None, bound, now_ns)
                    })
                }));
            }
        }
        let raw = self.raw_word();
        if raw.is_empty() {
            return Err(self.fault("a word"));
        }
        self.no_fuzz()?;
        if raw == "*" {
            return Ok(match field {
                None | Some("*") => Query::All,
                Some(field) => Query::Exists(field.to_owned()),
            });
        }
        if raw.contains(['*', '?']) {
            let lower = raw.to_lowercase();
            return self.pattern(&fields, &wildcard(&lower), true);
        }
        let word = unescaped(raw);
        Ok(in_fields(&fields, |f| exact_or_words(f, &word)))
    }

    /// Compiled once, whatever the number of fields.
    fn pattern(&self, fields: &[String], expression: &str, ignore_case: bool) -> Result<Query, ApiError> {
        let regex = anchored(expression, ignore_case, self.bounds)?;
        Ok(in_fields(fields, |field| Query::Pattern { field: field.to_owned(), regex: regex.clone() }))
    }

    fn range(&mut self, fields: &[String]) -> Result<Query, ApiError> {
        let low_inclusive = self.rest.starts_with('[');
        self.rest = self.rest.get(1..).unwrap_or("");
        let low = self.word();
        if !self.take_word("TO") {
            return Err(self.fault("`TO`"));
        }
        let high = self.word();
        let high_inclusive = if self.take("]") {
            true
        } else if self.take("}") {
            false
        } else {
            return Err(self.fault("`]` or `}`"));
        };
        let now_ns = self.now_ns;
        Ok(in_fields(fields, |f| {
            Query::Range(Range::between(f, Some((&low, low_inclusive)), Some((&high, high_inclusive)), now_ns))
        }))
    }

    fn no_fuzz(&mut self) -> Result<(), ApiError> {
        // A boost only moves scores.
        if let Some(rest) = self.rest.strip_prefix('^') {
            self.rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        }
        if self.rest.starts_with('~') { Err(ApiError::not_yet("fuzziness and proximity (~)")) } else { Ok(()) }
    }

    fn word(&mut self) -> String {
        self.blanks();
        if let Some((inside, tail)) = self.rest.strip_prefix('"').and_then(quoted) {
            self.rest = tail;
            return inside;
        }
        unescaped(self.raw_word())
    }

    fn raw_word(&mut self) -> &'t str {
        let mut escaped = false;
        let end = self.rest.find(|c: char| {
            let stop = !escaped && (c.is_whitespace() || "()[]{}\"^~".contains(c));
            escaped = !escaped && c == '\\';
            stop
        });
        let (word, tail) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = tail;
        word
    }
}

/// Keywords and numbers are compared as a whole, text word by word.
fn exact_or_words(field: &str, word: &str) -> Query {
    if field == MESSAGE {
        return match_words(field, word, true);
    }
    let exact = Query::terms(field, vec![word.to_owned()], false);
    Query::Bool {
        must: Vec::new(),
        should: vec![exact, match_words(field, word, true)],
        must_not: Vec::new(),
        at_least: 1,
    }
}

fn quoted(rest: &str) -> Option<(String, &str)> {
    let mut escaped = false;
    let end = rest.find(|c: char| {
        let stop = !escaped && c == '"';
        escaped = !escaped && c == '\\';
        stop
    })?;
    let (inside, tail) = rest.split_at(end);
    Some((unescaped(inside), tail.strip_prefix('"')?))
}

fn unescaped(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}
