//! What traces of Java, Python, Go, Ruby and .NET look like.
//!
//! In: the name of a preset. Out: its state machine. Touches nothing.

use std::sync::LazyLock;

use super::config::Preset;
use super::machine::{Machine, ORDINARY, leads};

pub(super) fn machine(preset: Preset) -> &'static Machine {
    match preset {
        Preset::Java => &JAVA,
        Preset::Python => &PYTHON,
        Preset::Go => &GO,
        Preset::Ruby => &RUBY,
        Preset::Dotnet => &DOTNET,
    }
}

/// <https://docs.oracle.com/en/java/javase/21/docs/api/java.base/java/lang/Throwable.html#printStackTrace()>; Kotlin, Scala
/// and Groovy print the same. The exception's line goes with the message that the logger wrote before it.
static JAVA: LazyLock<Machine> = LazyLock::new(|| {
    const NAMED: u8 = 1;
    const FRAMES: u8 = 2;
    let any = &[ORDINARY, NAMED, FRAMES];
    Machine::new(
        &[leads(
            &[],
            r"Exception in thread |(?:Exception|Error|Throwable):? *$|(?:Exception|Error|Throwable): ",
            NAMED,
        )],
        &[
            leads(any, r"^\s+at [^ ]+\(.*\)", FRAMES),
            leads(any, r"^\s+at (?:[\w$]+\.)+", FRAMES),
            leads(any, r"^\s*\.{3} \d+ (?:more|common frames omitted)", FRAMES),
            leads(any, r"^\s*(?:Caused by|Suppressed|Wrapped by): ", NAMED),
            leads(any, r"^\s*\[CIRCULAR REFERENCE", FRAMES),
            leads(
                &[ORDINARY],
                r"^(?:[A-Za-z_][\w$]*\.)+[A-Z][\w$]*(?:Exception|Error|Throwable|Failure|Death)\b",
                NAMED,
            ),
            // The text of an exception may have several lines.
            leads(&[NAMED], r"^\s*nested exception is:", NAMED),
            leads(&[NAMED], r"^\s+\S|^$", NAMED),
        ],
    )
});

/// <https://docs.python.org/3/library/traceback.html>, with groups and chains.
static PYTHON: LazyLock<Machine> = LazyLock::new(|| {
    const FRAMES: u8 = 1;
    const NAMED: u8 = 2;
    const GAP: u8 = 3;
    const CHAINED: u8 = 4;
    let head = r"^\s*(?:\+ )?(?:Exception Group )?Traceback \(most recent call last\):";
    let chain = r"^\s*\|? *(?:During handling of the above exception|The above exception was the direct cause)";
    Machine::new(
        &[leads(&[], head, FRAMES)],
        &[
            leads(&[ORDINARY, CHAINED], head, FRAMES),
            leads(&[ORDINARY], r#"^  File "[^"]*", line \d+"#, FRAMES),
            leads(&[FRAMES], r"^\s+\S", FRAMES),
            leads(&[FRAMES], r"^\S", NAMED),
            leads(&[NAMED, GAP], chain, CHAINED),
            leads(&[NAMED], r"^\s+\S", NAMED),
            leads(&[NAMED], r"^$", GAP),
            leads(&[CHAINED], r"^\s*\|?\s*$", CHAINED),
        ],
    )
});

/// What the runtime prints at a panic and for `debug.Stack`: <https://pkg.go.dev/runtime#hdr-Environment_Variables>.
static GO: LazyLock<Machine> = LazyLock::new(|| {
    const PANIC: u8 = 1;
    const FRAMES: u8 = 2;
    const GAP: u8 = 3;
    let goroutine = r"^goroutine \d+ .*\[[^\]]+\]:$";
    let call = r"^[^\s(]+(?:\(\*?[^()\s]+\)[^\s(]*)?\(.*\)$";
    Machine::new(
        &[leads(&[], r"\bpanic: |: panic serving |^fatal error: |^runtime: ", PANIC)],
        &[
            leads(&[ORDINARY, PANIC, FRAMES, GAP], goroutine, FRAMES),
            leads(&[ORDINARY, FRAMES], r"^\t\S+\.(?:go|s):\d+", FRAMES),
            leads(&[PANIC], r"^\[signal |^\s+panic: |^\s+\S|^runtime stack:|^$", PANIC),
            leads(&[PANIC, FRAMES], call, FRAMES),
            leads(&[FRAMES], r"^created by \S+|^\.{3}(?:additional frames elided|\d+ frames elided)", FRAMES),
            leads(&[FRAMES], r"^$", GAP),
            leads(&[GAP, FRAMES], r"^(?:exit status \d+|r[a-z0-9]{1,3} +0x[0-9a-f]+|[re]flags +0x)", GAP),
        ],
    )
});

/// <https://docs.ruby-lang.org/en/master/Exception.html#method-i-full_message>, in both orders, and Rails' pages of errors.
static RUBY: LazyLock<Machine> = LazyLock::new(|| {
    const FRAMES: u8 = 1;
    const RAILS: u8 = 2;
    let frame = r"^\s*\S.*:\d+:in [`'][^']*'$";
    Machine::new(
        &[
            leads(&[], r"\S:\d+:in [`'][^']*': ", FRAMES),
            leads(&[], r"^Traceback \(most recent call last\):", FRAMES),
            leads(&[], r"(?:^|\s)[A-Z]\w*(?:::[A-Z]\w*)* \(.*\):$", RAILS),
        ],
        &[
            leads(&[ORDINARY, FRAMES], r"^\s+(?:\d+: )?from \S.*:\d+", FRAMES),
            leads(&[ORDINARY, FRAMES, RAILS], frame, FRAMES),
            leads(&[FRAMES], r"^\s+\.{3} \d+ levels\.{3}|^\s*Caused by: ", FRAMES),
            leads(&[FRAMES], r"^\S+:\d+:in [`'][^']*': .*\([A-Z][\w:]*\)$", FRAMES),
            leads(&[RAILS], r"^\s*$", RAILS),
        ],
    )
});

/// <https://learn.microsoft.com/dotnet/api/system.exception.tostring>, and what the console logger indents.
static DOTNET: LazyLock<Machine> = LazyLock::new(|| {
    const NAMED: u8 = 1;
    const FRAMES: u8 = 2;
    const CONSOLE: u8 = 3;
    let any = &[ORDINARY, NAMED, FRAMES];
    Machine::new(
        &[
            leads(&[], r"^(?:trce|dbug|info|warn|fail|crit): ", CONSOLE),
            leads(&[], r"Unhandled [Ee]xception[.:]|(?:Exception|Error): ", NAMED),
        ],
        &[
            leads(&[CONSOLE], r"^\s{6}|^$", CONSOLE),
            leads(any, r"^\s+at \S", FRAMES),
            leads(any, r"^\s*(?:-+> |\(Inner Exception #\d+\) )", NAMED),
            leads(any, r"^\s*-{3} End of ", FRAMES),
            leads(&[ORDINARY], r"^(?:[A-Za-z_][\w`]*\.)+[A-Z][\w`]*Exception\b", NAMED),
            leads(&[NAMED], r"^\s+\S", NAMED),
        ],
    )
});
