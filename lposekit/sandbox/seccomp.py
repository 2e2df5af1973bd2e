"""A seccomp filter for decoders: no sockets, no programs, no processes, no other process touched, no rights of files
changed. Which files may be opened is the affair of `landlock`.

The filter is a list of what is refused, not of what is allowed: decoders, allocators and the interpreter use other
calls with each version, and a call that is refused by mistake would be a lost image. Calls newer than the ones that
were looked through do not exist in here. Refused calls fail with EPERM, so a program that can do without goes on.

Sources of the numbers: the kernel's `asm/unistd_64.h` and `asm-generic/unistd.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# name: number on x86_64, number on aarch64 (None: it has no such call)
_REFUSED: dict[str, tuple[int, int | None]] = {
    # network
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "sendmmsg": (307, 269),
    "recvmmsg": (299, 243),
    # its rings make the calls above without the filter being asked
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # programs and processes
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    # out of the group that the parent kills
    "setsid": (112, 157),
    "setpgid": (109, 154),
    # other processes of the same user
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # rights and times of files: Landlock does not look at them
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "open_by_handle_at": (304, 265),
    # the kernel itself, and what exploits of it are made of
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
}
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Name of the machine: the kernel's number for it, the place of its calls above."""
_NEWEST_CALL = 462
_X32_CALLS = 0x40000000
_CLONE, _CLONE3, _KILL, _TGKILL, _PRLIMIT, _PRCTL = (56, 220), (435, 435), (62, 129), (234, 131), (302, 261), (157, 167)
_CLONE_THREAD = 0x10000
_PR_SET_PDEATHSIG = 1

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF, 32 bits, against a constant
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _FAIL_WITH = 0x7FFF0000, 0x00050000
_SECCOMP_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}

Instruction = tuple[int, int, int, int]


def install() -> bool:
    """Put the filter on all threads of this process, for ever; False where the kernel or the machine has none.

    The process must have given up new privileges before (PR_SET_NO_NEW_PRIVS).
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    program = b"".join(struct.pack("<HBBI", *each) for each in filter_program(machine, os.getpid()))
    code = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    call = ctypes.CDLL(None, use_errno=True).syscall
    arguments = (_SECCOMP_CALL[machine], _SECCOMP_SET_MODE_FILTER, _ALL_THREADS)
    return call(*(ctypes.c_long(each) for each in arguments), header) == 0


def filter_program(machine: str, pid: int) -> list[Instruction]:
    """The filter as (code, jump if true, jump if false, constant), for a process of that number."""
    architecture, place = _ARCHITECTURES[machine]
    refuse = _FAIL_WITH | errno.EPERM
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, refuse),  # calls of another architecture have other numbers
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32_CALLS),
        (_RETURN, 0, 0, refuse),
        (_AT_LEAST, 0, 1, _NEWEST_CALL + 1),
        (_RETURN, 0, 0, _FAIL_WITH | errno.ENOSYS),
        (_EQUAL, 0, 1, _CLONE3[place]),  # its flags lie in memory, where no filter looks; libc goes on to `clone`
        (_RETURN, 0, 0, _FAIL_WITH | errno.ENOSYS),
    ]
    for numbers in _REFUSED.values():
        if (number := numbers[place]) is not None:
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refuse)]
    program += _if_call(_CLONE[place], [(_ANY_BIT, 0, 1, _CLONE_THREAD)], otherwise=refuse)
    for signal_call in (_KILL, _TGKILL):  # `abort` sends itself a signal
        program += _if_call(signal_call[place], [(_EQUAL, 0, 1, pid)], otherwise=refuse)
    program += _if_call(_PRLIMIT[place], [(_EQUAL, 1, 0, 0), (_EQUAL, 0, 1, pid)], otherwise=refuse)
    # it stays tied to the life of its parent
    program += [(_EQUAL, 0, 4, _PRCTL[place]), (_LOAD, 0, 0, _FIRST_ARGUMENT_AT)]
    program += [(_EQUAL, 0, 1, _PR_SET_PDEATHSIG), (_RETURN, 0, 0, refuse), (_RETURN, 0, 0, _ALLOW)]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _if_call(number: int, tests: list[Instruction], *, otherwise: int) -> list[Instruction]:
    """For that call: allowed if one of the tests on its first argument holds. The last test falls through to allow."""
    body = [(_LOAD, 0, 0, _FIRST_ARGUMENT_AT), *tests, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, otherwise)]
    return [(_EQUAL, 0, len(body), number), *body]
