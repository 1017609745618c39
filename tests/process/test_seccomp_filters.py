"""The programs for the kernel do what the policy says: each call and each argument, on each architecture.

The programs are run by an interpreter (support/classic_bpf.py) and compared with a second reading of the
policy, `expected`, that has nothing of libseccomp.
"""

from __future__ import annotations

import base64
import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt.process.seccomp_filters import FILTERS, NAMES, PID_MARK
from tests.support.classic_bpf import Instruction, action_name, decode, run
from tools import gen_seccomp, seccomp_policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tools.seccomp_policy import Condition, Rule

MACHINES = ("x86_64", "aarch64")
EACH = pytest.mark.parametrize(("machine", "name"), list(itertools.product(MACHINES, seccomp_policy.FILTERS)))
X32_BIT = 0x40000000
N_NUMBERS = 600  # more than there are calls
# What ran in the loop when it was traced, in every form, and what the code says besides.
TRACED = seccomp_policy.words("""
    accept4 bind brk close connect epoll_ctl epoll_pwait2 epoll_wait exit_group ftruncate futex getpid
    getrandom getsockname getsockopt listen lseek madvise munmap poll pread64 pwrite64 read recvfrom recvmmsg
    recvmsg rt_sigprocmask sched_yield sendmmsg sendmsg sendto shutdown write writev rt_sigreturn mremap
""")
TRACED_BYPASS = ("pipe2", "splice")
# One system call or more for each batch of frames.
HOT = ("epoll_pwait2", "recvmmsg", "sendmmsg", "recvmsg", "sendmsg", "read", "readv", "write", "writev")
INTRUDERS = seccomp_policy.words("""
    execve execveat open openat openat2 creat ptrace process_vm_readv process_vm_writev mount umount2 fsopen
    move_mount open_tree mount_setattr pivot_root chroot setns unshare bpf perf_event_open keyctl add_key
    request_key io_uring_setup io_uring_enter io_uring_register userfaultfd init_module finit_module
    delete_module kexec_load kexec_file_load clone clone3 fork vfork pidfd_getfd name_to_handle_at
    open_by_handle_at personality seccomp setuid setgid setresuid capset
""")
CALL_MODULE = Path(gen_seccomp.MODULE)


@functools.cache
def program(machine: str, name: str) -> list[Instruction]:
    """Give the program as it is in the tree."""
    return decode(base64.b64decode(FILTERS[machine][name]))


@functools.cache
def names(machine: str) -> list[str]:
    return NAMES[machine].split()


def decide(machine: str, name: str, call: str, *args: int) -> str:
    return action_name(run(program(machine, name), machine, names(machine).index(call), *args))


def holds(conditions: Iterable[Condition], args: tuple[int, ...]) -> bool:
    return all(args[each.arg] & each.mask == each.value for each in conditions)


def by_call(rules: Iterable[Rule]) -> dict[str, list[tuple[Condition, ...]]]:
    """Sort the alternatives of *rules* by call."""
    found: dict[str, list[tuple[Condition, ...]]] = {}
    for rule in rules:
        for call in rule.names():
            found.setdefault(call, []).extend(rule.when)
    return found


ALLOWED = {name: by_call(rules) for name, rules in seccomp_policy.FILTERS.items()}
DEADLY_ARGUMENTS = by_call(seccomp_policy.DEADLY_ARGUMENTS)


def expected(name: str, call: str, args: tuple[int, ...]) -> str:
    """Read the policy: how the call ends under the filter *name*."""
    whens = ALLOWED[name].get(call, [])
    if any(holds(when, args) for when in whens):
        return "allow"
    deadly = DEADLY_ARGUMENTS.get(call, []) if whens else []
    if call in seccomp_policy.DEADLY or any(holds(when, args) for when in deadly):
        return "kill"
    if call in seccomp_policy.ABSENT_PATHS:
        return f"errno {seccomp_policy.ABSENT_ERRNO}"
    return "trap"


@functools.cache
def interesting(call: str) -> list[tuple[int, ...]]:
    """List arguments around those that the policy names for *call*, in any filter."""
    bases: set[tuple[int, ...]] = {(0,) * 6, (1,) * 6, ((1 << 64) - 1,) * 6}
    every = [*ALLOWED.values(), DEADLY_ARGUMENTS]
    for when in itertools.chain(*(rules.get(call, []) for rules in every)):
        args = [0] * 6
        for condition in when:
            args[condition.arg] = condition.value
        bases.add(tuple(args))
    used = sorted({each.arg for rules in every for when in rules.get(call, []) for each in when})
    bits = (0, 1, 2, 3, 7, 11, 12, 19, 31, 32, 63)
    spoiled = {(*args[:at], args[at] ^ 1 << bit, *args[at + 1:])
               for args, at, bit in itertools.product(bases, used, bits)}
    return sorted(bases | spoiled)


def differences(machine: str, name: str, instructions: list[Instruction]) -> list[str]:
    """Compare a program with the policy over all calls; the first few differences."""
    found = []
    known = names(machine)
    for number in range(N_NUMBERS):
        call = known[number] if number < len(known) else "-"
        for args in interesting(call):
            wanted = expected(name, call, args)
            got = action_name(run(instructions, machine, number, *args))
            if got != wanted:
                found.append(f"{call} ({number}) {[hex(arg) for arg in args]}: {got}, not {wanted}")
                break
    return found[:10]


@EACH
def test_every_call_ends_as_the_policy_says(machine: str, name: str) -> None:
    assert differences(machine, name, program(machine, name)) == []


@pytest.mark.parametrize("machine", MACHINES)
def test_rule_left_out_of_a_program_is_noticed(machine: str) -> None:
    """The comparison itself: the program of one form is not that of another."""
    assert len(differences(machine, "passt", program(machine, "command"))) > 3


@pytest.mark.parametrize("machine", MACHINES)
def test_memory_that_is_shared_widens_its_own_form_only(machine: str) -> None:
    """Memory of a front end is mapped as any is; what is new is a file in memory, and seals."""
    for form in seccomp_policy.FORMS:
        is_sharing = form == "vhost-user"
        assert decide(machine, form, "memfd_create") == ("allow" if is_sharing else "kill")
        assert decide(machine, form, "fcntl", 5, 1033) == ("allow" if is_sharing else "trap")
    others = {call for call in names(machine) if decide(machine, "vhost-user", call)
              != decide(machine, "passt", call)}
    assert others == {"memfd_create"}


@EACH
def test_every_deadly_call_kills(machine: str, name: str) -> None:
    there = [call for call in INTRUDERS if call in names(machine)]
    assert len(there) > 35
    allowed = {call for call in there if decide(machine, name, call) != "kill"}
    assert allowed == ({"openat"} if name == "reader" else set())


@EACH
def test_memory_to_execute_kills(machine: str, name: str) -> None:
    for call, prot in itertools.product(("mmap", "mprotect"), range(8)):
        assert decide(machine, name, call, 0, 4096, prot) == ("kill" if prot & 4 else "allow")
        assert decide(machine, name, call, 0, 4096, prot | 1 << 32) == ("kill" if prot & 4 else "allow")
    assert decide(machine, name, "pkey_mprotect", 0, 4096, 1) == "kill"


@EACH
def test_foreign_abi_kills(machine: str, name: str) -> None:
    for foreign in ("i386", "arm", *({*MACHINES} - {machine})):
        for number in (1, 5, 11, 39):
            assert action_name(run(program(machine, name), foreign, number)) == "kill"


@pytest.mark.parametrize("name", seccomp_policy.FILTERS)
def test_x32_kills(name: str) -> None:
    for number in (*range(0, 600, 7), 0x3FFFFFFE):
        assert action_name(run(program("x86_64", name), "x86_64", X32_BIT | number)) == "kill"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("form", seccomp_policy.FORMS)
def test_what_was_traced_is_allowed(machine: str, form: str) -> None:
    traced = [*TRACED, *(TRACED_BYPASS if form not in {"passt", "vhost-user"} else ())]
    refused = [call for call in traced if call in names(machine) and decide(machine, form, call) != "allow"]
    assert refused == []


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("form", seccomp_policy.FORMS)
def test_calls_of_the_data_path_have_no_conditions(machine: str, form: str) -> None:
    """So the kernel remembers the answer; an older one has it after a few instructions."""
    for call in HOT:
        for args in ((), (1,) * 6, ((1 << 64) - 1,) * 6):
            verdict = run(program(machine, form), machine, names(machine).index(call), *args)
            assert (action_name(verdict), verdict.steps <= 20) == ("allow", True)


@EACH
def test_only_we_ourselves_are_signalled(machine: str, name: str) -> None:
    for call in ("kill", "tgkill"):
        mine = decide(machine, name, call, PID_MARK, 9)
        assert mine == ("trap" if call == "kill" and name not in seccomp_policy.FORMS else "allow")
        for other in (0, 1, -1, PID_MARK + 1, -PID_MARK):
            assert decide(machine, name, call, other, 9) == "trap"


@pytest.mark.parametrize("machine", MACHINES)
def test_own_number_is_an_operand_only(machine: str) -> None:
    for name in seccomp_policy.FILTERS:
        marks = [step for step in program(machine, name) if step.k == PID_MARK]
        assert marks
        assert {step.code for step in marks} == {0x15}  # BPF_JMP | BPF_JEQ | BPF_K
        raw = base64.b64decode(FILTERS[machine][name])
        assert raw.count(PID_MARK.to_bytes(4, "little")) == len(marks)


def test_programs_are_not_too_long_for_the_kernel() -> None:
    assert max(len(program(machine, name)) for machine in MACHINES for name in FILTERS[machine]) < 4096


@EACH
def test_programs_are_those_of_the_policy(machine: str, name: str) -> None:
    """Made anew: the same bytes by the same libseccomp, and else programs that do the same."""
    library = gen_seccomp.load_library()
    made = gen_seccomp.build(library, machine, name)
    if f"libseccomp {gen_seccomp.version(library)} " in CALL_MODULE.read_text(encoding="ascii"):
        assert made == base64.b64decode(FILTERS[machine][name])
    assert differences(machine, name, decode(made)) == []


@pytest.mark.parametrize("machine", MACHINES)
def test_names_are_those_of_libseccomp(machine: str) -> None:
    made = gen_seccomp.call_names(gen_seccomp.load_library(), machine)
    pairs = zip(made, names(machine), strict=True)
    assert [(new, ours) for new, ours in pairs if ours not in {new, "-"}] == []  # a newer one knows more
    assert names(machine)[names(machine).index("statmount")] == "statmount"


@pytest.mark.parametrize("machine", MACHINES)
def test_helper_binds_ports_and_does_little_else(machine: str) -> None:
    """No data, no connection, no file: what the main process may and the helper may not."""
    for call in ("recvmsg", "sendmsg", "bind", "listen", "getsockname", "getsockopt"):
        assert decide(machine, "helper", call) == "allow"
    for call in ("connect", "accept4", "sendto", "recvfrom", "read", "epoll_pwait", "ppoll", "sendmmsg"):
        assert decide(machine, "helper", call) == "trap"
    for family, kind in itertools.product((2, 10), (1, 2)):
        assert decide(machine, "helper", "socket", family, kind | 0o2000000, 0) == "allow"
    assert decide(machine, "helper", "socket", 2, 2, 1) == "trap"      # ping
    assert decide(machine, "helper", "socket", 1, 1, 0) == "trap"      # AF_UNIX


@pytest.mark.parametrize("machine", MACHINES)
def test_reader_reads_files_and_does_little_else(machine: str) -> None:
    """No socket, no data from anybody: what the main process may and the reader may not."""
    for call in ("openat", "read", "readlinkat", "inotify_add_watch", "ppoll", "sendto"):
        assert decide(machine, "reader", call) == "allow"
    for call in ("recvmsg", "recvfrom", "connect", "bind", "accept4", "epoll_pwait", "pwrite64", "unlinkat"):
        assert decide(machine, "reader", call) == "trap"
    for family, kind in itertools.product((1, 2, 10), (1, 2)):
        assert decide(machine, "reader", "socket", family, kind, 0) == "trap"


@pytest.mark.parametrize("machine", MACHINES)
def test_forwarder_of_names_talks_and_does_little_else(machine: str) -> None:
    """Datagrams and connections, but no other socket and no file."""
    for call in ("recvfrom", "sendto", "connect", "bind", "accept4", "epoll_pwait", "getrandom"):
        assert decide(machine, "names", call) == "allow"
    for call in ("listen", "read", "readv", "splice", "unlinkat", "sendmmsg", "recvmmsg"):
        assert decide(machine, "names", call) == "trap"
    for family, kind in itertools.product((2, 10), (1, 2)):
        assert decide(machine, "names", "socket", family, kind | 0o2004000, 0) == "allow"
    assert decide(machine, "names", "socket", 2, 2, 1) == "trap"       # ping
    assert decide(machine, "names", "socket", 1, 1, 0) == "trap"       # AF_UNIX
    assert decide(machine, "names", "setsockopt", 3, 1, 25) == "allow"  # SO_BINDTODEVICE
    assert decide(machine, "names", "setsockopt", 3, 1, 2) == "trap"    # SO_REUSEADDR
