//! Target `handlebars_template` of `millrace_templates::fuzzing`.

#![no_main]

#[global_allocator]
static COUNTING: millrace_fuzzing::memory::Counting = millrace_fuzzing::memory::Counting;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| millrace_fuzzing::run(millrace_templates::fuzzing::TARGETS, "handlebars_template", bytes));
