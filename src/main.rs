//! The program: everything is in the library.

use std::process::ExitCode;

/// An eighth of a small forwarded answer's time was spent in libc, on memory and its copies.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    libra::cli::main(std::env::args_os().collect())
}
