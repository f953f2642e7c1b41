//! Feeds `millrace_rules::fuzzing::rule_file`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_rules::fuzzing::rule_file(bytes));
