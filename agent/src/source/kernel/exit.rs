//! How a process ended: its status as wait(2) gives it, and the fact of it.

use why502_proto::v1;

use super::process::Process;

/// How a process ended, and who saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// As wait(2) gives it. `None`: nobody could tell.
    pub(super) code: Option<u32>,
    pub(super) witness: v1::Witness,
    /// Boot time of the end.
    pub(super) at_us: u64,
}

/// The fact of an exit.
pub(super) fn exited(
    process: &Process,
    ending: Ending,
    listeners: Vec<String>,
) -> v1::ProcessExited {
    let signal = ending.code.map(|code| code & 0x7f).filter(|&signal| signal != 0);
    v1::ProcessExited {
        pid: process.pid,
        ppid: process.ppid,
        unit: process.member.unit.clone(),
        container: process.member.container.clone(),
        comm: process.comm.clone(),
        started_us: process.started_us,
        status: ending.code.filter(|_| signal.is_none()).map(|code| code >> 8 & 0xff),
        signal,
        core: ending.code.is_some_and(|code| code & 0x80 != 0),
        lifetime_ms: Some(ending.at_us.saturating_sub(process.started_us) / 1000),
        main: process.main,
        listeners,
        witness: ending.witness.into(),
    }
}
