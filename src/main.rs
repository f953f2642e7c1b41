//! Entry point: allocator, crypto provider, command line, exit code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use millrace::cli::Command;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Two providers without a choice panic at the first TLS connection: this is the choice.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("crypto provider was installed before");
    }
    let command = Command::parse();
    match command.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.code()
        }
    }
}
