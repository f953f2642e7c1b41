//! Text of a template to its nodes.

use super::fault::TemplateFault;
use super::functions;
use crate::syntax::{go_number, unquote};

/// A part of a template.
#[derive(Debug)]
pub(super) enum Node {
    /// As it is.
    Text(String),
    /// `{{ … }}`
    Action(Pipe),
    /// Conditions with their bodies; the last may have none.
    If(Vec<(Option<Pipe>, Vec<Node>)>),
    /// `{{ range … }}`
    Range { pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
    /// `{{ with … }}`
    With { pipe: Pipe, body: Vec<Node>, otherwise: Vec<Node> },
    /// `{{ break }}`
    Break,
    /// `{{ continue }}`
    Continue,
}

/// Commands whose results go to the next.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Variables it sets.
    pub names: Vec<String>,
    /// They exist already.
    pub assigns: bool,
    /// At least one.
    pub commands: Vec<Command>,
}

/// A function with its arguments, or a value.
#[derive(Debug)]
pub(super) struct Command {
    /// First the function, if it is one.
    pub operands: Vec<Operand>,
}

/// A value in a command.
#[derive(Debug)]
pub(super) struct Operand {
    /// What it is.
    pub kind: OperandKind,
    /// `.a.b` behind it.
    pub fields: Vec<String>,
    /// Byte of its line.
    pub column: usize,
    /// Its line, from 1.
    pub line: usize,
}

/// What an operand is.
#[derive(Debug)]
pub(super) enum OperandKind {
    /// `.`
    Dot,
    /// `$name`, `$` for the labels.
    Variable(String),
    /// A literal.
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Nil,
    /// Name of a function.
    Function(String),
    /// `( … )`
    Pipe(Box<Pipe>),
}

/// What parsing gives.
pub(super) struct Parsed {
    pub nodes: Vec<Node>,
    pub fields: Vec<String>,
}

type Fault = (usize, TemplateFault);

/// Actions inside one another at most.
const MAX_DEPTH: usize = 50;

struct Parser<'a> {
    text: &'a str,
    at: usize,
    fields: Vec<String>,
    variables: Vec<String>,
    depth: usize,
}

/// What ended a list of nodes.
#[derive(Debug, PartialEq)]
enum Stop {
    Eof,
    End,
    Else,
}

/// Parses a template. On failure: line and what is wrong.
pub(super) fn parse(text: &str) -> Result<Parsed, Fault> {
    let mut parser = Parser { text, at: 0, fields: Vec::new(), variables: vec!["$".to_owned()], depth: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        Stop::Eof => Ok(Parsed { nodes, fields: parser.fields }),
        Stop::End => Err(parser.wrong("unexpected {{end}}")),
        Stop::Else => Err(parser.wrong("unexpected {{else}}")),
    }
}

impl<'a> Parser<'a> {
    fn line(&self) -> usize {
        self.text.get(..self.at).unwrap_or_default().bytes().filter(|b| *b == b'\n').count() + 1
    }

    fn wrong(&self, message: impl Into<String>) -> Fault {
        (self.line(), TemplateFault::Wrong(message.into()))
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    /// Whether `}}` or ` -}}` follows; takes it with the blanks behind it.
    fn close(&mut self) -> bool {
        let before = self.at;
        self.skip_blanks();
        let behind_blank = self.text.get(..self.at).is_some_and(|t| t.ends_with(char::is_whitespace));
        // Right behind a comment no blank is needed.
        if (behind_blank || self.text.get(..self.at).is_some_and(|t| t.ends_with("*/"))) && self.take("-}}") {
            self.skip_blanks();
            return true;
        }
        if self.take("}}") {
            return true;
        }
        self.at = before;
        false
    }

    fn at_close(&mut self) -> bool {
        let before = self.at;
        let closed = self.close();
        self.at = before;
        closed
    }

    fn expect_close(&mut self) -> Result<(), Fault> {
        if self.close() {
            return Ok(());
        }
        self.skip_blanks();
        match self.peek() {
            None => Err(self.wrong("unclosed action")),
            Some(c) => Err(self.wrong(format!("unexpected {c:?} in command"))),
        }
    }

    /// A word followed by no letter.
    fn keyword(&mut self, word: &str) -> bool {
        let rest = self.rest();
        let found = rest
            .strip_prefix(word)
            .is_some_and(|behind| !behind.starts_with(|c: char| c.is_alphanumeric() || c == '_'));
        if found {
            self.at += word.len();
        }
        found
    }

    fn nodes(&mut self) -> Result<(Vec<Node>, Stop), Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let parsed = self.nodes_inside();
        self.depth -= 1;
        parsed
    }

    fn nodes_inside(&mut self) -> Result<(Vec<Node>, Stop), Fault> {
        let mut nodes = Vec::new();
        loop {
            let rest = self.rest();
            let Some(open) = rest.find("{{") else {
                if !rest.is_empty() {
                    nodes.push(Node::Text(rest.to_owned()));
                    self.at = self.text.len();
                }
                return Ok((nodes, Stop::Eof));
            };
            let (before, _) = rest.split_at(open);
            self.at += open + 2;
            let trims = self.rest().strip_prefix('-').is_some_and(|r| r.starts_with(char::is_whitespace));
            let before = if trims { before.trim_end() } else { before };
            if trims {
                self.at += 1;
            }
            if !before.is_empty() {
                nodes.push(Node::Text(before.to_owned()));
            }
            self.skip_blanks();
            if self.take("/*") {
                let Some(end) = self.rest().find("*/") else { return Err(self.wrong("unclosed comment")) };
                self.at += end + 2;
                if !self.close() {
                    return Err(self.wrong("comment ends before closing delimiter"));
                }
            } else if self.keyword("end") {
                self.expect_close()?;
                return Ok((nodes, Stop::End));
            } else if self.keyword("else") {
                return Ok((nodes, Stop::Else));
            } else if self.keyword("if") {
                nodes.push(self.conditions()?);
            } else if self.keyword("range") {
                let (pipe, body, otherwise) = self.block("range")?;
                nodes.push(Node::Range { pipe, body, otherwise });
            } else if self.keyword("with") {
                let (pipe, body, otherwise) = self.block("with")?;
                nodes.push(Node::With { pipe, body, otherwise });
            } else if self.keyword("break") {
                self.expect_close()?;
                nodes.push(Node::Break);
            } else if self.keyword("continue") {
                self.expect_close()?;
                nodes.push(Node::Continue);
            } else if ["define", "template", "block"].iter().any(|word| self.keyword(word)) {
                return Err((self.line(), TemplateFault::NotYet("`define`, `template` and `block` in a template")));
            } else {
                let pipe = self.pipe("command")?;
                self.expect_close()?;
                nodes.push(Node::Action(pipe));
            }
        }
    }

    fn conditions(&mut self) -> Result<Node, Fault> {
        let scope = self.variables.len();
        let mut branches = Vec::new();
        let pipe = self.pipe("if")?;
        self.expect_close()?;
        let mut condition = Some(pipe);
        loop {
            let (body, end) = self.nodes()?;
            let is_last = condition.is_none();
            branches.push((condition.take(), body));
            match end {
                Stop::Eof => return Err(self.wrong("unexpected EOF")),
                Stop::End => break,
                Stop::Else if is_last => return Err(self.wrong("expected end; found {{else}}")),
                Stop::Else => {
                    self.skip_blanks();
                    if self.keyword("if") {
                        condition = Some(self.pipe("if")?);
                    }
                    self.expect_close()?;
                }
            }
        }
        self.variables.truncate(scope);
        Ok(Node::If(branches))
    }

    fn block(&mut self, what: &str) -> Result<(Pipe, Vec<Node>, Vec<Node>), Fault> {
        let scope = self.variables.len();
        let pipe = self.pipe(what)?;
        self.expect_close()?;
        let (body, end) = self.nodes()?;
        let mut otherwise = Vec::new();
        match end {
            Stop::Eof => return Err(self.wrong("unexpected EOF")),
            Stop::End => {}
            Stop::Else => {
                self.expect_close()?;
                let (nodes, end) = self.nodes()?;
                if end != Stop::End {
                    return Err(self.wrong("unexpected EOF"));
                }
                otherwise = nodes;
            }
        }
        self.variables.truncate(scope);
        Ok((pipe, body, otherwise))
    }

    fn variable(&mut self) -> Option<String> {
        let rest = self.rest().strip_prefix('$')?;
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let (name, _) = rest.split_at(end);
        self.at += 1 + end;
        Some(format!("${name}"))
    }

    /// `$a, $b :=` or `$a =`, if it stands here.
    fn declaration(&mut self) -> (Vec<String>, bool) {
        let before = self.at;
        let mut names = Vec::new();
        while let Some(name) = self.variable() {
            names.push(name);
            self.skip_blanks();
            if !self.take(",") {
                break;
            }
            self.skip_blanks();
        }
        if !names.is_empty() && self.take(":=") {
            return (names, false);
        }
        if names.len() == 1 && self.rest().starts_with('=') {
            self.at += 1;
            return (names, true);
        }
        self.at = before;
        (Vec::new(), false)
    }

    fn pipe(&mut self, what: &str) -> Result<Pipe, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.skip_blanks();
        let (names, assigns) = self.declaration();
        let mut commands = Vec::new();
        loop {
            self.skip_blanks();
            let command = self.command()?;
            if !command.operands.is_empty() {
                commands.push(command);
            }
            self.skip_blanks();
            if !self.take("|") {
                break;
            }
        }
        if commands.is_empty() {
            return Err(self.wrong(format!("missing value for {what}")));
        }
        for name in &names {
            if assigns && !self.variables.contains(name) {
                return Err(self.wrong(format!("undefined variable {name:?}")));
            }
            self.variables.push(name.clone());
        }
        self.depth -= 1;
        Ok(Pipe { names, assigns, commands })
    }

    fn command(&mut self) -> Result<Command, Fault> {
        let mut operands = Vec::new();
        loop {
            self.skip_blanks();
            if self.at_close() || matches!(self.peek(), None | Some('|' | ')')) {
                return Ok(Command { operands });
            }
            operands.push(self.operand()?);
        }
    }

    fn fields(&mut self) -> Vec<String> {
        let mut fields = Vec::new();
        while let Some(rest) = self.rest().strip_prefix('.') {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let (name, _) = rest.split_at(end);
            if name.is_empty() {
                break;
            }
            fields.push(name.to_owned());
            self.at += 1 + end;
        }
        fields
    }

    fn operand(&mut self) -> Result<Operand, Fault> {
        let line = self.line();
        let before = self.text.get(..self.at).unwrap_or_default();
        let column = self.at - before.rfind('\n').map_or(0, |i| i + 1);
        let kind = match self.peek() {
            Some('.') if !self.rest().get(1..2).is_some_and(|c| c.starts_with(|c: char| c.is_ascii_digit())) => {
                let fields = self.fields();
                if fields.is_empty() {
                    self.at += 1;
                }
                self.fields.extend(fields.first().cloned());
                return Ok(Operand { kind: OperandKind::Dot, fields, column, line });
            }
            Some('$') => {
                let name = self.variable().unwrap_or_default();
                if !self.variables.contains(&name) {
                    return Err(self.wrong(format!("undefined variable {name:?}")));
                }
                OperandKind::Variable(name)
            }
            Some('(') => {
                self.at += 1;
                let pipe = self.pipe("parenthesized pipeline")?;
                self.skip_blanks();
                if !self.take(")") {
                    return Err(self.wrong("unclosed left paren"));
                }
                OperandKind::Pipe(Box::new(pipe))
            }
            Some('"') => match unquote(self.rest()) {
                Ok((value, rest)) => {
                    self.at = self.text.len() - rest.len();
                    OperandKind::Text(value)
                }
                Err(_) => return Err(self.wrong("unterminated quoted string")),
            },
            Some('`') => match self.rest().get(1..).and_then(|r| r.split_once('`')) {
                Some((value, rest)) => {
                    self.at = self.text.len() - rest.len();
                    OperandKind::Text(value.to_owned())
                }
                None => return Err(self.wrong("unterminated raw quoted string")),
            },
            Some('\'') => {
                let inside = self.rest().get(1..).and_then(|r| r.split_once('\''));
                match inside.map(|(value, rest)| (value.chars().collect::<Vec<char>>(), rest)) {
                    Some((chars, rest)) if chars.len() == 1 => {
                        self.at = self.text.len() - rest.len();
                        OperandKind::Int(chars.first().map_or(0, |c| i64::from(u32::from(*c))))
                    }
                    _ => return Err(self.wrong("unterminated character constant")),
                }
            }
            Some(c) if c.is_ascii_digit() || matches!(c, '.' | '-' | '+') => self.number()?,
            Some(c) if c.is_alphabetic() || c == '_' => {
                let rest = self.rest();
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                let (word, _) = rest.split_at(end);
                self.at += end;
                match word {
                    "true" => OperandKind::Bool(true),
                    "false" => OperandKind::Bool(false),
                    "nil" => OperandKind::Nil,
                    word => {
                        functions::check(word).map_err(|fault| (self.line(), fault))?;
                        OperandKind::Function(word.to_owned())
                    }
                }
            }
            Some(c) => return Err(self.wrong(format!("unexpected {c:?} in command"))),
            None => return Err(self.wrong("unclosed action")),
        };
        let fields = self.fields();
        Ok(Operand { kind, fields, column, line })
    }

    fn number(&mut self) -> Result<OperandKind, Fault> {
        let rest = self.rest();
        let end = rest
            .char_indices()
            .find(|(i, c)| {
                let sign =
                    matches!(c, '+' | '-') && (*i == 0 || rest.get(..*i).is_some_and(|r| r.ends_with(['e', 'E'])));
                !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || sign)
            })
            .map_or(rest.len(), |(i, _)| i);
        let (digits, _) = rest.split_at(end);
        self.at += end;
        if let Ok(number) = digits.parse::<i64>() {
            return Ok(OperandKind::Int(number));
        }
        if let Some(hex) = digits.strip_prefix("0x")
            && let Ok(number) = i64::from_str_radix(hex, 16)
        {
            return Ok(OperandKind::Int(number));
        }
        match go_number::literal(digits) {
            Some(number) => Ok(OperandKind::Float(number)),
            None => Err(self.wrong(format!("bad number syntax: {digits:?}"))),
        }
    }
}
