//! The one file of the agent that may be unsafe: calls on file descriptors that no safe crate wraps.
//!
//! Each block states why it is sound. Everything else of the agent is built with `unsafe_code` denied.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `PIDFD_INFO_EXIT`
const INFO_EXIT: u64 = 1 << 3;

/// `struct pidfd_info` as of Linux 6.15 (include/uapi/linux/pidfd.h, PIDFD_INFO_SIZE_VER0).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: u32,
}

/// `PIDFD_GET_INFO`, `_IOWR(0xFF, 11, struct pidfd_info)`
const GET_INFO: Opcode = opcode::read_write::<PidfdInfo>(0xff, 11);

/// Exit code, as wait(2) gives it, of the process that a pidfd names. `None`: the kernel cannot tell (yet): it is older
/// than 6.15, or the parent has not reaped the process.
pub fn pidfd_exit_code(pidfd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let mut info = PidfdInfo { mask: INFO_EXIT, ..PidfdInfo::default() };
    #[expect(unsafe_code, reason = "rustix has no wrapper for PIDFD_GET_INFO")]
    // SAFETY: The opcode encodes the size of `PidfdInfo`, which has the kernel's layout; the kernel reads and writes at
    // most that many bytes, all of them integers, for which every bit pattern is valid. `info` outlives the call.
    let result = unsafe { ioctl(pidfd, Updater::<GET_INFO, PidfdInfo>::new(&mut info)) };
    match result {
        Ok(()) => Ok((info.mask & INFO_EXIT != 0).then_some(info.exit_code)),
        // Reaped, and nothing was kept; or the ioctl is not known.
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::NOTTY | rustix::io::Errno::INVAL) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        assert_eq!(size_of::<PidfdInfo>(), 64);
        assert_eq!(std::mem::offset_of!(PidfdInfo, exit_code), 60);
    }

    #[test]
    fn a_reaped_child_tells_its_status_where_the_kernel_can() {
        let mut child = Command::new("sh").args(["-c", "read x; exit 3"]).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert_eq!(pidfd_exit_code(pidfd.as_fd()).unwrap(), None, "it lives");
        drop(child.stdin.take());
        child.wait().unwrap();
        // 6.15 and later know; older ones say so.
        assert!(matches!(pidfd_exit_code(pidfd.as_fd()).unwrap(), Some(0x100 | 0x300) | None));
    }
}
