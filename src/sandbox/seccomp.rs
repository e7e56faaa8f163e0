//! The system calls that a build may not make, as BPF for `bwrap --add-seccomp-fd`.
//! A deny list: it closes doors that builds don't need and the kernel has had bugs behind; the
//! namespaces are the wall. Never loads a filter into this process.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Refused with EPERM whatever the arguments.
const DENIED: &[libc::c_long] = &[
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kcmp,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_vmsplice,
];

#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] =
    &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib, libc::SYS_ustat];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// Socket families that builds need. Anything else, `AF_VSOCK` above all (it reaches the
/// hypervisor whatever the network namespace), is refused.
const FAMILIES: &[libc::c_int] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

const NAMESPACE_FLAGS: &[libc::c_int] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// x86's second system-call table shares the architecture number and sets this bit: without a rule it
/// would walk past the deny list.
const X32_BIT: u32 = 0x4000_0000;

/// The filters, in the byte form that `bwrap` reads.
pub(super) fn filters() -> Result<Vec<Vec<u8>>, seccompiler::Error> {
    Ok(vec![denied()?, not_implemented()])
}

fn denied() -> Result<Vec<u8>, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in DENIED.iter().chain(DENIED_HERE) {
        rules.insert(*call, Vec::new());
    }
    let foreign_family = FAMILIES
        .iter()
        .map(|family| condition(0, SeccompCmpOp::Ne, *family))
        .collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(foreign_family)?]);
    let mut namespaces = Vec::new();
    for flag in NAMESPACE_FLAGS {
        let bits = u64::from(flag.unsigned_abs());
        namespaces.push(SeccompRule::new(vec![condition(0, SeccompCmpOp::MaskedEq(bits), *flag)?])?);
    }
    rules.insert(libc::SYS_clone, namespaces);
    // TIOCSTI and TIOCLINUX type into the terminal of whoever started the server.
    let terminals = [libc::TIOCSTI, libc::TIOCLINUX]
        .into_iter()
        .map(|request| {
            SeccompRule::new(vec![SeccompCondition::new(
                1,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Eq,
                request,
            )?])
        })
        .collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_ioctl, terminals);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    Ok(program.iter().flat_map(|i| instruction(i.code, i.jt, i.jf, i.k)).collect())
}

fn condition(arg: u8, op: SeccompCmpOp, value: libc::c_int) -> Result<SeccompCondition, seccompiler::Error> {
    Ok(SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, u64::from(value.unsigned_abs()))?)
}

/// `clone3` hides its flags behind a pointer, so it must look absent: C libraries then fall back to
/// `clone`. seccompiler knows one refusal per filter, hence these few instructions by hand.
fn not_implemented() -> Vec<u8> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let clone3 = u32::try_from(libc::SYS_clone3).unwrap_or(u32::MAX);
    [
        instruction(LOAD_WORD, 0, 0, 0),
        instruction(JUMP_EQUAL, 2, 0, clone3),
        instruction(JUMP_AT_LEAST, 1, 0, X32_BIT),
        instruction(RETURN, 0, 0, ALLOW),
        instruction(RETURN, 0, 0, ERRNO | libc::ENOSYS.unsigned_abs()),
    ]
    .concat()
}

fn instruction(code: u16, jump_true: u8, jump_false: u8, value: u32) -> [u8; 8] {
    let (c, v) = (code.to_ne_bytes(), value.to_ne_bytes());
    [c[0], c[1], jump_true, jump_false, v[0], v[1], v[2], v[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_whole_instructions_within_the_kernels_bound() {
        for filter in filters().unwrap() {
            assert_eq!(filter.len() % 8, 0);
            assert!(filter.len() / 8 < 4096);
        }
    }
}
