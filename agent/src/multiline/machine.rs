//! State machine that recognizes the traces of one language, line by line.
//!
//! In: patterns with the stages they lead from and to; lines. Out: the next stage, or that a line begins another event.
//! Touches nothing.

use regex::bytes::RegexSet;

/// What is known of an open event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage(pub(super) u8);

/// An ordinary line. Stages beyond it are numbered by each language.
pub(super) const ORDINARY: u8 = 0;

/// From which stages a line like this leads to which.
pub(super) struct Transition {
    from: &'static [u8],
    pattern: &'static str,
    to: u8,
}

pub(super) const fn leads(from: &'static [u8], pattern: &'static str, to: u8) -> Transition {
    Transition { from, pattern, to }
}

/// What traces of one language look like.
#[derive(Debug)]
pub(super) struct Machine {
    /// What the first line of an event leads to: of several that match, the first.
    pub begin: Transitions,
    /// What leads on from each stage.
    pub on: Vec<Transitions>,
}

#[derive(Debug)]
pub(super) struct Transitions {
    pub patterns: RegexSet,
    pub to: Vec<u8>,
}

impl Transitions {
    fn new(steps: &[&Transition]) -> Self {
        let patterns = RegexSet::new(steps.iter().map(|step| step.pattern));
        // A test compiles every preset; without its patterns a preset would join nothing, and lose nothing.
        Self { patterns: patterns.unwrap_or_default(), to: steps.iter().map(|step| step.to).collect() }
    }

    fn of(&self, line: &[u8]) -> Option<Stage> {
        let first = self.patterns.matches(line).iter().next()?;
        self.to.get(first).copied().map(Stage)
    }
}

impl Machine {
    pub fn new(begin: &[Transition], on: &[Transition]) -> Self {
        let last = begin.iter().chain(on).map(|step| step.to).max().unwrap_or(ORDINARY);
        let transitions =
            |stage: u8| Transitions::new(&on.iter().filter(|step| step.from.contains(&stage)).collect::<Vec<_>>());
        // What stands inside of a trace only begins the rest of one that was cut.
        let inside = on.iter().filter(|step| step.from.contains(&ORDINARY));
        Self {
            begin: Transitions::new(&begin.iter().chain(inside).collect::<Vec<_>>()),
            on: (ORDINARY..=last).map(transitions).collect(),
        }
    }

    pub fn begin(&self, line: &[u8]) -> Stage {
        self.begin.of(line).unwrap_or(Stage(ORDINARY))
    }

    pub fn next(&self, stage: Stage, line: &[u8]) -> Option<Stage> {
        self.on.get(usize::from(stage.0))?.of(line)
    }
}
