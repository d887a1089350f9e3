//! `qemu-ga`: the agent, and with a subcommand the hook master or the operator's tool.

fn main() -> std::process::ExitCode {
    qemu_ga::app::main().into()
}
