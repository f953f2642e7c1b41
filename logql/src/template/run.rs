//! Nodes of a template to text.

use std::cell::Cell;

use super::context::Context;
use super::functions;
use super::parse::{Command, Node, Operand, OperandKind, Pipe};
use super::value::{MAX_COUNT, Value};

/// Bytes that one line may become.
const MAX_OUTPUT: usize = 1 << 20;
/// Work that one line may cost: bytes that are made and copied, and [`STEP`] for each step. It bounds the memory of all values,
/// and the time: nested loops and texts that double would otherwise end only with the process.
const MAX_WORK: usize = 16 << 20;
/// What a step costs, whatever it does.
const STEP: usize = 16;
/// What an item of a loop costs.
const ITEM: usize = 128;

/// How a list of nodes ended.
enum Flow {
    Done,
    Break,
    Continue,
}

struct Run<'a> {
    name: &'static str,
    context: &'a Context<'a>,
    variables: Vec<(String, Value)>,
    out: String,
    work: usize,
}

/// Fills a template in.
pub(super) fn fill(name: &'static str, nodes: &[Node], context: &Context<'_>) -> Result<String, String> {
    let variables = vec![("$".to_owned(), Value::Labels)];
    let mut run = Run { name, context, variables, out: String::new(), work: 0 };
    run.nodes(nodes, &Value::Labels)?;
    Ok(run.out)
}

impl Run<'_> {
    fn spend(&mut self, work: usize) -> Result<(), String> {
        self.work = self.work.saturating_add(work);
        if self.work <= MAX_WORK {
            return Ok(());
        }
        Err(format!("template: {}: too much work for one line: use fewer loops and shorter texts", self.name))
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        for node in nodes {
            match self.node(node, dot)? {
                Flow::Done => {}
                flow => return Ok(flow),
            }
            if self.out.len() > MAX_OUTPUT {
                return Err(format!("template: {}: the result is longer than {MAX_OUTPUT} bytes", self.name));
            }
        }
        Ok(Flow::Done)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        self.spend(STEP)?;
        let scope = self.variables.len();
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.names.is_empty() {
                    let shown = match value {
                        Value::Labels => self.context.labels().show(),
                        value => value.show(),
                    };
                    self.out.push_str(&shown);
                }
                // Its variables live to the end of the list around it.
                return Ok(Flow::Done);
            }
            Node::If(branches) => {
                for (condition, body) in branches {
                    let holds = match condition {
                        Some(pipe) => self.pipe(pipe, dot)?.is_true(),
                        None => true,
                    };
                    if holds {
                        let flow = self.nodes(body, dot)?;
                        self.variables.truncate(scope);
                        return Ok(flow);
                    }
                }
            }
            Node::With { pipe, body, otherwise } => {
                let value = self.pipe(pipe, dot)?;
                let flow = if value.is_true() { self.nodes(body, &value)? } else { self.nodes(otherwise, dot)? };
                self.variables.truncate(scope);
                return Ok(flow);
            }
            Node::Range { pipe, body, otherwise } => {
                self.range(pipe, body, otherwise, dot)?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        self.variables.truncate(scope);
        Ok(Flow::Done)
    }

    fn range(&mut self, pipe: &Pipe, body: &[Node], otherwise: &[Node], dot: &Value) -> Result<(), String> {
        let of = self.commands(pipe, dot)?;
        self.spend(of.items().saturating_mul(ITEM))?;
        let items: Vec<(Value, Value)> = match of {
            Value::List(list) => {
                list.into_iter().enumerate().map(|(i, v)| (Value::Int(i64::try_from(i).unwrap_or(0)), v)).collect()
            }
            Value::Map(map) => map.into_iter().map(|(k, v)| (Value::Text(k), v)).collect(),
            Value::Labels => (self.context.all)().into_iter().map(|(n, v)| (Value::Text(n), Value::Text(v))).collect(),
            Value::Int(count) => (0..count.clamp(0, MAX_COUNT)).map(|i| (Value::Int(i), Value::Int(i))).collect(),
            Value::Nil => Vec::new(),
            other => return Err(format!("template: {}: range can't iterate over {}", self.name, other.show())),
        };
        if items.is_empty() {
            self.nodes(otherwise, dot)?;
            return Ok(());
        }
        for (key, value) in items {
            if !pipe.names.is_empty() {
                self.spend(value.size())?;
            }
            let scope = self.variables.len();
            match pipe.names.as_slice() {
                [only] => self.variables.push((only.clone(), value.clone())),
                [index, element] => {
                    self.variables.push((index.clone(), key));
                    self.variables.push((element.clone(), value.clone()));
                }
                _ => {}
            }
            let flow = self.nodes(body, &value)?;
            self.variables.truncate(scope);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        Ok(())
    }

    /// Runs a pipe and sets its variables.
    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let value = self.commands(pipe, dot)?;
        for name in &pipe.names {
            self.spend(value.size())?;
            let known = self.variables.iter_mut().rev().find(|(n, _)| n == name);
            match known {
                Some((_, old)) if pipe.assigns => *old = value.clone(),
                _ => self.variables.push((name.clone(), value.clone())),
            }
        }
        Ok(value)
    }

    fn commands(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Value::Nil))
    }

    fn command(&mut self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Value, String> {
        let [first, arguments @ ..] = command.operands.as_slice() else { return Ok(Value::Nil) };
        let OperandKind::Function(function) = &first.kind else {
            if !arguments.is_empty() || piped.is_some() {
                return Err(self.fault(first, &show(first), "can't give argument to non-function"));
            }
            return self.operand(first, dot);
        };
        // These stop at the first argument that decides.
        if matches!(function.as_str(), "and" | "or") {
            let mut value = Value::Nil;
            for argument in arguments {
                value = self.operand(argument, dot)?;
                if value.is_true() == (function == "or") {
                    return Ok(value);
                }
            }
            return Ok(piped.unwrap_or(value));
        }
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in arguments {
            values.push(self.operand(argument, dot)?);
        }
        values.extend(piped);
        let value = self.call(first, function, values)?;
        self.spend(STEP + value.size())?;
        self.inside(first, value)
    }

    fn call(&mut self, operand: &Operand, function: &str, values: Vec<Value>) -> Result<Value, String> {
        let spent = Cell::new(0);
        let made = functions::call(function, values, self.context, &spent);
        self.spend(spent.get())?;
        made.map_err(|message| self.fault(operand, function, &message))
    }

    fn fault(&self, operand: &Operand, shown: &str, message: &str) -> String {
        let Operand { line, column, .. } = operand;
        format!("template: {0}:{line}:{column}: executing \"{0}\" at <{shown}>: {message}", self.name)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        let made = match &operand.kind {
            OperandKind::Dot => self.follow(operand, dot)?,
            OperandKind::Variable(name) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                self.follow(operand, found.map_or(&Value::Nil, |(_, value)| value))?
            }
            OperandKind::Text(text) => self.inside(operand, Value::Text(text.clone()))?,
            OperandKind::Int(number) => self.inside(operand, Value::Int(*number))?,
            OperandKind::Float(number) => self.inside(operand, Value::Float(*number))?,
            OperandKind::Bool(value) => self.inside(operand, Value::Bool(*value))?,
            OperandKind::Nil => self.inside(operand, Value::Nil)?,
            OperandKind::Function(name) => {
                let made = self.call(operand, name, Vec::new())?;
                self.inside(operand, made)?
            }
            // Its commands have counted what they made.
            OperandKind::Pipe(pipe) => {
                let made = self.pipe(pipe, dot)?;
                if operand.fields.is_empty() {
                    self.spend(STEP)?;
                    return Ok(made);
                }
                self.follow(operand, &made)?
            }
        };
        self.spend(STEP + made.size())?;
        Ok(made)
    }

    /// Walks `.a.b` and copies what is there.
    fn follow(&self, operand: &Operand, of: &Value) -> Result<Value, String> {
        let mut value = of;
        let mut label;
        for field in &operand.fields {
            value = match value {
                // Labels that are not there are empty.
                Value::Labels => {
                    label = Value::Text((self.context.label)(field).unwrap_or_default());
                    &label
                }
                Value::Map(map) => map.get(field).unwrap_or(&Value::Nil),
                Value::Nil => {
                    let message = format!("nil data; no entry for key {field:?}");
                    return Err(self.fault(operand, &show(operand), &message));
                }
                other => {
                    let message = format!("can't evaluate field {field} in type {}", other.kind());
                    return Err(self.fault(operand, &show(operand), &message));
                }
            };
        }
        Ok(value.clone())
    }

    /// The same in a value that nothing else needs.
    fn inside(&self, operand: &Operand, value: Value) -> Result<Value, String> {
        if operand.fields.is_empty() { Ok(value) } else { self.follow(operand, &value) }
    }
}

fn show(operand: &Operand) -> String {
    let head = match &operand.kind {
        OperandKind::Variable(name) | OperandKind::Function(name) => name.clone(),
        OperandKind::Text(text) => crate::syntax::quantity::quote(text),
        OperandKind::Int(number) => number.to_string(),
        OperandKind::Float(number) => number.to_string(),
        OperandKind::Bool(value) => value.to_string(),
        OperandKind::Nil => "nil".to_owned(),
        OperandKind::Dot if operand.fields.is_empty() => ".".to_owned(),
        OperandKind::Dot => String::new(),
        OperandKind::Pipe(_) => "(…)".to_owned(),
    };
    operand.fields.iter().fold(head, |text, field| format!("{text}.{field}"))
}
