//! `why502-agent`; see the library.

fn main() -> std::process::ExitCode {
    why502_agent::cli::main()
}
