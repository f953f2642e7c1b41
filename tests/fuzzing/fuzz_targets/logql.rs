//! Feeds `millrace_logql::fuzzing::logql`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_logql::fuzzing::logql(bytes));
