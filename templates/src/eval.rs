//! Evaluation of pipes, with variables, and with a count of the work.
//!
//! In: pipes and the value of `.`. Out: values, or a failure with its place. Touches the state of one rendering.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::call::{Around, Call};
use crate::fault::{RenderError, place};
use crate::fields;
use crate::functions::{self, Dialect};
use crate::program::Unit;
use crate::tree::{Command, Operand, OperandKind, Pipe};
use crate::value::Value;

/// Work that one rendering may cost: bytes that are made, and [`STEP`] for each step. It bounds time and memory.
pub(crate) const MAX_WORK: usize = 16 << 20;
/// What a step costs, whatever it does.
pub(crate) const STEP: usize = 32;
/// Blocks and templates inside one another at most when they run: each takes room on the stack.
pub(crate) const MAX_DEPTH: usize = 100;

/// A template that runs.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub unit: Arc<Unit>,
    /// Name of the template; empty: the text itself.
    pub name: Arc<str>,
    /// Its first variable.
    pub base: usize,
}

/// How a body was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Break,
    Continue,
}

/// What one rendering holds.
#[derive(Debug)]
pub(crate) struct State {
    /// Work left.
    pub work: usize,
    pub depth: usize,
    pub frames: Vec<Frame>,
    pub variables: Vec<(Arc<str>, Value)>,
    pub dots: Vec<Value>,
    pub flow: Option<Flow>,
    pub failed: Option<RenderError>,
}

/// How much of the state there was, to go back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    depth: usize,
    frames: usize,
    variables: usize,
    dots: usize,
}

impl State {
    /// Before it begins, with so much work.
    pub fn new(work: usize) -> Self {
        Self { work, depth: 0, frames: Vec::new(), variables: Vec::new(), dots: Vec::new(), flow: None, failed: None }
    }

    pub fn mark(&self) -> Mark {
        Mark { depth: self.depth, frames: self.frames.len(), variables: self.variables.len(), dots: self.dots.len() }
    }

    pub fn back(&mut self, mark: Mark) {
        self.depth = mark.depth;
        self.frames.truncate(mark.frames);
        self.variables.truncate(mark.variables);
        self.dots.truncate(mark.dots);
    }

    pub fn spend(&mut self, work: usize) -> Result<(), RenderError> {
        let left = self.work.checked_sub(work);
        self.work = left.unwrap_or(0);
        left.map(|_| ()).ok_or(RenderError::TooMuchWork)
    }

    pub fn deeper(&mut self) -> Result<(), RenderError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(RenderError::TooDeep { limit: MAX_DEPTH }) } else { Ok(()) }
    }

    pub fn dot(&self) -> Value {
        self.dots.last().cloned().unwrap_or(Value::Nil)
    }

    /// A failure at a byte of the template that runs.
    pub fn fault(&self, at: usize, message: impl Into<String>) -> RenderError {
        let frame = self.frames.last();
        let (line, column) = frame.map_or((1, 1), |frame| place(&frame.unit.source, at));
        let template = frame.map_or_else(String::new, |frame| match &*frame.name {
            "" => frame.unit.name.to_string(),
            name => name.to_owned(),
        });
        RenderError::Failed { template, line, column, message: message.into() }
    }
}

/// Evaluates with a state.
pub(crate) struct Eval<'r> {
    pub around: &'r Around,
    pub dialect: Dialect,
    pub state: &'r mut State,
}

impl Eval<'_> {
    /// The value of a pipe; sets its variables.
    pub fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, RenderError> {
        let value = self.value(pipe, dot)?;
        for name in &pipe.names {
            self.state.spend(STEP)?;
            self.set(name, value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    /// The value of a pipe without its variables.
    pub fn value(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, RenderError> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Value::Nil))
    }

    pub fn set(&mut self, name: &Arc<str>, value: Value, assigns: bool) {
        let base = self.state.frames.last().map_or(0, |frame| frame.base);
        let known = self.state.variables.iter_mut().skip(base).rev().find(|(n, _)| n == name);
        match known {
            Some((_, old)) if assigns => *old = value,
            _ => self.state.variables.push((name.clone(), value)),
        }
    }

    fn command(&mut self, command: &Command, dot: &Value, piped: Option<Value>) -> Result<Value, RenderError> {
        let Some((first, arguments)) = command.operands.split_first() else { return Ok(Value::Nil) };
        self.state.spend(STEP)?;
        if first.fields.is_empty()
            && let OperandKind::Function(name) = &first.kind
        {
            return self.function(first, name, arguments, dot, piped);
        }
        if arguments.is_empty() && piped.is_none() {
            if first.kind == OperandKind::Nil {
                return Err(self.state.fault(first.at, "`nil` has no value to show"));
            }
            return self.operand(first, dot);
        }
        let Some((method, before)) = first.fields.split_last() else {
            return Err(self.state.fault(first.at, "a value that is not a function has arguments"));
        };
        let of = self.head(first, dot)?;
        let of = self.follow(first, of, before)?;
        let values = self.arguments(arguments, dot, piped)?;
        self.field(first, &of, method, values)
    }

    fn arguments(
        &mut self,
        operands: &[Operand],
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Vec<Value>, RenderError> {
        let mut values = Vec::with_capacity(operands.len() + 1);
        for operand in operands {
            values.push(self.operand(operand, dot)?);
        }
        values.extend(piped);
        Ok(values)
    }

    fn function(
        &mut self,
        first: &Operand,
        name: &str,
        arguments: &[Operand],
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, RenderError> {
        // These stop at the first argument that decides.
        if matches!(name, "and" | "or") {
            let mut last = None;
            for argument in arguments {
                let value = self.operand(argument, dot)?;
                if value.is_true() == (name == "or") {
                    return Ok(value);
                }
                last = Some(value);
            }
            return piped.or(last).ok_or_else(|| {
                self.state.fault(first.at, format!("`{name}` takes at least 1 arguments, 0 are given"))
            });
        }
        let values = self.arguments(arguments, dot, piped)?;
        let call = Call { name, values, around: self.around };
        let made = functions::call(self.dialect, &call);
        let spent = self.around.spent.swap(0, Ordering::Relaxed);
        self.state.spend(spent)?;
        let value = made.map_err(|message| self.state.fault(first.at, message))?;
        self.pay(&value)?;
        Ok(value)
    }

    /// Pays for what was made: at most what one result may take.
    fn pay(&mut self, value: &Value) -> Result<(), RenderError> {
        let size = match value {
            Value::Text(text) | Value::Safe(_, text) => text.len(),
            Value::List(_, list) => list.len() * STEP,
            Value::Map(_, map) => map.len() * STEP,
            _ => 0,
        };
        self.state.spend(STEP + size)
    }

    fn field(&mut self, operand: &Operand, of: &Value, name: &str, values: Vec<Value>) -> Result<Value, RenderError> {
        let call = Call { name, values, around: self.around };
        let value = fields::get(of, &call).map_err(|message| self.state.fault(operand.at, message))?;
        // Copies share what they hold; a method makes lists of labels.
        let made = match &value {
            Value::List(_, list) => list.len() * STEP,
            _ => 0,
        };
        self.state.spend(STEP + made)?;
        Ok(value)
    }

    fn follow(&mut self, operand: &Operand, of: Value, names: &[Arc<str>]) -> Result<Value, RenderError> {
        let mut value = of;
        for name in names {
            value = self.field(operand, &value, name, Vec::new())?;
        }
        Ok(value)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, RenderError> {
        self.state.spend(STEP)?;
        let value = self.head(operand, dot)?;
        self.follow(operand, value, &operand.fields)
    }

    /// An operand without the fields behind it.
    fn head(&mut self, operand: &Operand, dot: &Value) -> Result<Value, RenderError> {
        Ok(match &operand.kind {
            OperandKind::Dot => dot.clone(),
            OperandKind::Variable(name) => {
                let base = self.state.frames.last().map_or(0, |frame| frame.base);
                let found = self.state.variables.iter().skip(base).rev().find(|(n, _)| n == name);
                found.map_or(Value::Nil, |(_, value)| value.clone())
            }
            OperandKind::Text(text) => Value::Text(text.clone()),
            OperandKind::Int(number) => Value::Int(*number),
            OperandKind::Float(number) => Value::Float(*number),
            OperandKind::Bool(value) => Value::Bool(*value),
            OperandKind::Nil => Value::Nil,
            OperandKind::Function(name) => self.function(operand, name, &[], dot, None)?,
            OperandKind::Pipe(pipe) => self.pipe(pipe, dot)?,
        })
    }
}
