//! Tokens of a Go template to its tree.
//!
//! In: a text, the functions that it may call, and variables that are there before it begins. Out: a [`Tree`], or the first fault with
//! its place and cure. Touches nothing.

use std::sync::Arc;

use crate::fault::Fault;
use crate::lex::{Kind, Token, lex};
use crate::literal;
use crate::tree::{Branch, Command, Define, Node, Operand, OperandKind, Pipe, Tree};

/// Actions and parentheses inside one another at most.
const MAX_DEPTH: usize = 40;
/// Bytes that one template may have.
pub(crate) const MAX_SOURCE: usize = 1 << 20;

/// Nothing; or a message and its cure.
pub(crate) type Check = Result<(), (String, String)>;

/// What a template may use.
pub(crate) struct Known<'a> {
    /// Whether a function exists; otherwise message and cure.
    pub function: &'a dyn Fn(&str) -> Check,
    /// Variables set before the text begins, with `$`.
    pub variables: &'a [&'a str],
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
    known: &'a Known<'a>,
    variables: Vec<Arc<str>>,
    defines: Vec<Define>,
    depth: usize,
    loops: usize,
}

/// What ended a list of nodes.
enum Stop<'a> {
    Eof,
    End(Token<'a>),
    Else(Token<'a>),
}

const KEYWORDS: [&str; 10] = ["if", "else", "end", "range", "with", "define", "template", "block", "break", "continue"];

/// Reads a template.
pub(crate) fn parse(source: &str, known: &Known<'_>) -> Result<Tree, Fault> {
    if source.len() > MAX_SOURCE {
        let message = format!("the template has {} bytes, {MAX_SOURCE} are allowed", source.len());
        return Err(Fault::at(source, 0, message, "cut it into several files"));
    }
    let tokens = lex(source)?;
    let mut variables: Vec<Arc<str>> = vec!["$".into()];
    variables.extend(known.variables.iter().map(|name| Arc::from(*name)));
    let mut parser = Parser { source, tokens, at: 0, known, variables, defines: Vec::new(), depth: 0, loops: 0 };
    let (nodes, stop) = parser.nodes(true)?;
    match stop {
        Stop::Eof => Ok(Tree { nodes, defines: parser.defines }),
        Stop::End(token) => {
            Err(parser.fault(token, "`end` closes nothing", "remove it, or open it with `if`, `range` or `with`"))
        }
        Stop::Else(token) => Err(parser.fault(
            token,
            "`else` belongs to nothing",
            "it must stand between `if`, `range` or `with` and `end`",
        )),
    }
}

impl<'a> Parser<'a> {
    fn fault(&self, token: Token<'_>, message: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault::at(self.source, token.at, message, hint)
    }

    fn peek(&self) -> Token<'a> {
        let end = Token { kind: Kind::End, text: "", at: self.source.len() };
        self.tokens.get(self.at).copied().unwrap_or(end)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn skip_blanks(&mut self) {
        while self.peek().kind == Kind::Blank {
            self.at += 1;
        }
    }

    fn close(&mut self, of: &str) -> Result<(), Fault> {
        self.skip_blanks();
        let token = self.next();
        if token.kind == Kind::Close {
            return Ok(());
        }
        Err(self.fault(token, format!("unexpected `{}` behind `{of}`", token.text), "close the action with `}}`"))
    }

    fn deeper(&mut self, token: Token<'_>) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth <= MAX_DEPTH {
            return Ok(());
        }
        let hint = "move inner parts to templates of their own with `define`";
        Err(self.fault(token, format!("actions are inside one another deeper than {MAX_DEPTH} levels"), hint))
    }

    fn nodes(&mut self, top: bool) -> Result<(Vec<Node>, Stop<'a>), Fault> {
        self.deeper(self.peek())?;
        let mut nodes = Vec::new();
        let stop = loop {
            let token = self.next();
            match token.kind {
                Kind::End => break Stop::Eof,
                Kind::Text => nodes.push(Node::Text(token.text.into())),
                _ => {
                    self.skip_blanks();
                    let word = self.peek();
                    let keyword = if word.kind == Kind::Word { word.text } else { "" };
                    if KEYWORDS.contains(&keyword) {
                        self.at += 1;
                    }
                    match keyword {
                        "end" => {
                            self.close("end")?;
                            break Stop::End(word);
                        }
                        "else" => break Stop::Else(word),
                        "define" => self.define(word, top)?,
                        _ => nodes.push(self.node(keyword, word)?),
                    }
                }
            }
        };
        self.depth -= 1;
        Ok((nodes, stop))
    }

    fn node(&mut self, keyword: &str, word: Token<'a>) -> Result<Node, Fault> {
        match keyword {
            "if" => Ok(Node::If(self.branch("if", word)?)),
            "range" => Ok(Node::Range(self.branch("range", word)?)),
            "with" => Ok(Node::With(self.branch("with", word)?)),
            "break" | "continue" => {
                self.close(keyword)?;
                if self.loops == 0 {
                    return Err(self.fault(word, format!("`{keyword}` outside of `range`"), "remove it"));
                }
                Ok(if keyword == "break" { Node::Break } else { Node::Continue })
            }
            "template" => {
                let name = self.name("template")?;
                self.skip_blanks();
                let pipe = if self.peek().kind == Kind::Close { None } else { Some(self.pipe("template", 0)?) };
                self.close("template")?;
                Ok(Node::Call { at: word.at, name, pipe })
            }
            "block" => {
                let name = self.name("block")?;
                let pipe = self.pipe("block", 0)?;
                self.close("block")?;
                let nodes = self.named_body(word, "block")?;
                self.defines.push(Define { name: name.clone(), at: word.at, nodes });
                Ok(Node::Call { at: word.at, name, pipe: Some(pipe) })
            }
            _ => {
                let pipe = self.pipe("", 1)?;
                self.close("the value")?;
                Ok(Node::Action(pipe))
            }
        }
    }

    /// `"name"` behind `define`, `template` or `block`.
    fn name(&mut self, of: &str) -> Result<Arc<str>, Fault> {
        self.skip_blanks();
        let token = self.next();
        let name = match token.kind {
            Kind::Quoted => literal::quoted(token.text),
            Kind::Raw => Some(literal::raw(token.text)),
            _ => None,
        };
        let example = if of == "define" { "" } else { " ." };
        name.map(Arc::from).ok_or_else(|| {
            self.fault(
                token,
                format!("`{of}` needs a name in quotes"),
                format!("write `{{{{ {of} \"name\"{example} }}}}`"),
            )
        })
    }

    fn define(&mut self, word: Token<'a>, top: bool) -> Result<(), Fault> {
        if !top {
            return Err(self.fault(word, "`define` inside of another action", "move it to the top of the text"));
        }
        let name = self.name("define")?;
        self.close("define")?;
        let nodes = self.named_body(word, "define")?;
        self.defines.push(Define { name, at: word.at, nodes });
        Ok(())
    }

    /// The body of a template by name up to its `end`: it sees no variables but `$`.
    fn named_body(&mut self, word: Token<'a>, of: &str) -> Result<Vec<Node>, Fault> {
        let variables = std::mem::replace(&mut self.variables, vec!["$".into()]);
        let loops = std::mem::take(&mut self.loops);
        let (nodes, stop) = self.nodes(false)?;
        self.variables = variables;
        self.loops = loops;
        match stop {
            Stop::End(_) => Ok(nodes),
            Stop::Eof => Err(self.unclosed(word, of)),
            Stop::Else(token) => Err(self.fault(token, "`else` belongs to nothing", format!("`{of}` has no `else`"))),
        }
    }

    fn unclosed(&self, word: Token<'_>, of: &str) -> Fault {
        self.fault(word, format!("`{of}` is never closed"), "close it with `{{ end }}`")
    }

    fn branch(&mut self, of: &'static str, word: Token<'a>) -> Result<Branch, Fault> {
        let scope = self.variables.len();
        let pipe = self.pipe(of, if of == "range" { 2 } else { 1 })?;
        self.close(of)?;
        self.loops += usize::from(of == "range");
        let (body, stop) = self.nodes(false)?;
        self.loops -= usize::from(of == "range");
        let otherwise = match stop {
            Stop::Eof => return Err(self.unclosed(word, of)),
            Stop::End(_) => Vec::new(),
            Stop::Else(_) => self.otherwise(of, word)?,
        };
        self.variables.truncate(scope);
        Ok(Branch { pipe, body, otherwise })
    }

    /// What stands between `else` and `end`; `else if` and `else with` take the `end` for both.
    fn otherwise(&mut self, of: &'static str, word: Token<'a>) -> Result<Vec<Node>, Fault> {
        self.skip_blanks();
        let next = self.peek();
        if next.kind == Kind::Word && next.text == of && matches!(of, "if" | "with") {
            self.at += 1;
            self.deeper(next)?;
            let branch = self.branch(of, word)?;
            self.depth -= 1;
            return Ok(vec![if of == "if" { Node::If(branch) } else { Node::With(branch) }]);
        }
        if next.kind == Kind::Word && of == "range" {
            return Err(self.fault(
                next,
                format!("`else {}` behind `range`", next.text),
                "write `{{ else }}` and a new action inside",
            ));
        }
        self.close("else")?;
        let (nodes, stop) = self.nodes(false)?;
        match stop {
            Stop::End(_) => Ok(nodes),
            Stop::Eof => Err(self.unclosed(word, of)),
            Stop::Else(token) => {
                Err(self.fault(token, format!("a second `else` of `{of}`"), "use `else if`, or remove it"))
            }
        }
    }

    /// `$a :=`, `$i, $a :=` or `$a =`, if it stands here.
    fn declaration(&mut self, most: usize) -> Result<(Vec<Arc<str>>, bool), Fault> {
        let before = self.at;
        let first = self.peek();
        let mut names: Vec<Arc<str>> = Vec::new();
        loop {
            let token = self.next();
            if token.kind != Kind::Variable {
                break;
            }
            names.push(token.text.into());
            self.skip_blanks();
            let sign = self.next();
            match sign.kind {
                Kind::Declare | Kind::Assign => {
                    if names.len() > most {
                        let what = if most == 0 {
                            "no variable may be set here"
                        } else {
                            "too many variables are set at once"
                        };
                        return Err(self.fault(first, what, "set them in an action of their own: `{{ $x := … }}`"));
                    }
                    return Ok((names, sign.kind == Kind::Assign));
                }
                Kind::Comma => self.skip_blanks(),
                _ => break,
            }
        }
        self.at = before;
        Ok((Vec::new(), false))
    }

    fn pipe(&mut self, of: &str, variables: usize) -> Result<Pipe, Fault> {
        self.skip_blanks();
        let start = self.peek();
        self.deeper(start)?;
        let (names, assigns) = self.declaration(variables)?;
        let mut commands: Vec<Command> = Vec::new();
        loop {
            self.skip_blanks();
            let token = self.peek();
            let command = self.command()?;
            let Some(first) = command.operands.first() else {
                let message = match (commands.is_empty(), of) {
                    (false, _) => "nothing stands behind `|`".to_owned(),
                    (true, "") if names.is_empty() => "the action is empty".to_owned(),
                    (true, "") => "a value is missing".to_owned(),
                    (true, of) => format!("`{of}` needs a value"),
                };
                return Err(self.fault(token, message, "write a value, as in `{{ .Status }}`"));
            };
            let callable = matches!(first.kind, OperandKind::Function(_)) || !first.fields.is_empty();
            let leads = callable || matches!(first.kind, OperandKind::Variable(_) | OperandKind::Pipe(_));
            if !(commands.is_empty() || leads) {
                let hint = "behind `|` stands a function, as in `.Status | toUpper`";
                return Err(self.fault(token, "a pipe leads into a value", hint));
            }
            commands.push(command);
            self.skip_blanks();
            if self.peek().kind != Kind::Pipe {
                break;
            }
            self.at += 1;
        }
        for name in &names {
            if assigns && !self.variables.contains(name) {
                let hint = format!("set it first with `{name} := …`");
                return Err(self.fault(start, format!("the variable `{name}` does not exist"), hint));
            }
            if !assigns {
                self.variables.push(name.clone());
            }
        }
        self.depth -= 1;
        Ok(Pipe { at: start.at, names, assigns, commands })
    }

    fn command(&mut self) -> Result<Command, Fault> {
        let mut operands = Vec::new();
        loop {
            self.skip_blanks();
            let token = self.peek();
            if matches!(token.kind, Kind::Close | Kind::Pipe | Kind::Right | Kind::End) {
                return Ok(Command { operands });
            }
            operands.push(self.operand()?);
            let behind = self.peek();
            if !matches!(behind.kind, Kind::Blank | Kind::Close | Kind::Pipe | Kind::Right | Kind::End) {
                let hint = "separate operands with blanks";
                return Err(self.fault(behind, format!("unexpected `{}` behind an operand", behind.text), hint));
            }
        }
    }

    fn operand(&mut self) -> Result<Operand, Fault> {
        let token = self.next();
        let kind = match token.kind {
            Kind::Field => {
                self.at -= 1;
                OperandKind::Dot
            }
            Kind::Dot => OperandKind::Dot,
            Kind::Variable => {
                if !self.variables.iter().any(|name| **name == *token.text) {
                    return Err(self.unknown_variable(token));
                }
                OperandKind::Variable(token.text.into())
            }
            Kind::Word => self.word(token)?,
            Kind::Number => literal::number(token.text).ok_or_else(|| {
                self.fault(token, format!("invalid number `{}`", token.text), "write it as 5, 2.5, 1e6 or 0x1f")
            })?,
            Kind::Char => match literal::character(token.text) {
                Some(c) => OperandKind::Int(i64::from(u32::from(c))),
                None => return Err(self.fault(token, "invalid character", "texts stand in `\"`, as in `\"text\"`")),
            },
            Kind::Quoted => match literal::quoted(token.text) {
                Some(text) => OperandKind::Text(text.into()),
                None => {
                    let hint = "write `\\\\` for a backslash, or put the text in backquotes";
                    return Err(self.fault(token, "invalid escape in the quoted text", hint));
                }
            },
            Kind::Raw => OperandKind::Text(literal::raw(token.text).into()),
            Kind::Left => {
                let pipe = self.pipe("(", 0)?;
                self.skip_blanks();
                let end = self.next();
                if end.kind != Kind::Right {
                    return Err(self.fault(token, "`(` is never closed", "close it with `)`"));
                }
                OperandKind::Pipe(Box::new(pipe))
            }
            _ => return Err(self.fault(token, format!("unexpected `{}`", token.text), "write a value or a function")),
        };
        let mut fields: Vec<Arc<str>> = Vec::new();
        while self.peek().kind == Kind::Field {
            fields.push(self.next().text.trim_start_matches('.').into());
        }
        let plain = !matches!(
            kind,
            OperandKind::Dot | OperandKind::Variable(_) | OperandKind::Pipe(_) | OperandKind::Function(_)
        );
        if (plain || token.kind == Kind::Dot) && !fields.is_empty() {
            return Err(self.fault(token, format!("`{}` has no fields", token.text), "remove what stands behind it"));
        }
        Ok(Operand { at: token.at, kind, fields })
    }

    fn word(&self, token: Token<'_>) -> Result<OperandKind, Fault> {
        Ok(match token.text {
            "true" => OperandKind::Bool(true),
            "false" => OperandKind::Bool(false),
            "nil" => OperandKind::Nil,
            word if KEYWORDS.contains(&word) => {
                let hint = format!("it opens an action: `{{{{ {word} … }}}}`");
                return Err(self.fault(token, format!("unexpected `{word}` inside of an action"), hint));
            }
            word => {
                (self.known.function)(word).map_err(|(message, hint)| self.fault(token, message, hint))?;
                OperandKind::Function(word.into())
            }
        })
    }

    fn unknown_variable(&self, token: Token<'_>) -> Fault {
        let names = self.variables.iter().filter(|name| ***name != *"$");
        let near = names.min_by_key(|name| (strsim(name, token.text), name.len()));
        let hint = match near.filter(|name| strsim(name, token.text) <= 2) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("set it first with `{} := …`", token.text),
        };
        self.fault(token, format!("the variable `{}` does not exist", token.text), hint)
    }
}

/// Letters that differ, about: enough to find a slip.
fn strsim(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.to_lowercase().chars().take(40).collect(), b.to_lowercase().chars().take(40).collect());
    let start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let end = a.iter().skip(start).rev().zip(b.iter().skip(start).rev()).take_while(|(x, y)| x == y).count();
    a.len().max(b.len()) - start - end
}
