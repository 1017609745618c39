"""PID 1's own parts: finding and executing the command, and statuses. Its life: tests/run/test_start.py."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from passt.namespace import pid1
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def execute(argv: Sequence[str], **environment: str | None) -> tuple[int, str, str]:
    """Execute in a child; return its status, output, and errors."""
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(out_end, 1)
        os.dup2(err_end, 2)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        os._exit(pid1.execute(argv))
    os.close(out_end)
    os.close(err_end)
    with os.fdopen(out) as stdout, os.fdopen(err) as stderr:
        texts = stdout.read(), stderr.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), *texts


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "data").write_text("x")
    (tmp_path / "script").write_text('echo "$0 $1"; exit 3\n')
    (tmp_path / "script").chmod(0o755)
    (tmp_path / "dangling").write_text("#!/proc/none/interpreter\n")
    (tmp_path / "dangling").chmod(0o755)
    (tmp_path / "folder").mkdir()
    return tmp_path


def test_arguments_and_name_are_passed() -> None:
    assert execute(["sh", "-c", 'echo "$0|$1|$2"', "a b", "", "é\n"])[:2] == (0, "a b||é\n\n")


@pytest.mark.parametrize(("name", "status", "text"), [
    ("no-such-program", 127, "pasta: cannot run 'no-such-program': command not found\n"),
    ("", 127, "pasta: cannot run '': command not found\n"),
    ("/proc/none/x", 127, "pasta: cannot run '/proc/none/x': No such file or directory\n"),
    ("/etc/passwd", 126, "pasta: cannot run '/etc/passwd': Permission denied\n"),
    ("/etc", 126, "pasta: cannot run '/etc': Permission denied\n"),
    ("/etc/passwd/x", 126, "pasta: cannot run '/etc/passwd/x': Not a directory\n"),
])
def test_what_cannot_run_is_one_line_and_a_status_as_in_shells(name: str, status: int, text: str) -> None:
    assert execute([name]) == (status, "", text)


def test_file_without_permission_counts_only_if_nothing_else_is_found(directory: Path) -> None:
    assert execute(["data"], PATH=f"{directory}:/proc/none")[0] == 126
    assert execute(["true"], PATH=f"{directory}/data:{directory}:/usr/bin:/bin")[0] == 0
    assert execute(["folder"], PATH=str(directory))[0] == 126


@pytest.mark.needs_root
def test_closed_directory_in_path_does_not_count(directory: Path) -> None:
    def as_user() -> int:
        os.setresuid(54321, 54321, 54321)
        return execute(["no-such-program"], PATH=f"{directory}:/usr/bin")[0]

    directory.chmod(0o700)
    assert isolated(as_user, flags=0) == 127


def test_empty_entry_of_path_is_the_working_directory(directory: Path) -> None:
    def there() -> tuple[int, str, str]:
        os.chdir(directory)
        return execute(["script", "word"], PATH="")

    assert isolated(there, flags=0) == (3, "./script word\n", "")


def test_without_path_the_default_is_searched() -> None:
    assert execute(["true"], PATH=None)[0] == 0


def test_script_without_interpreter_line_is_for_sh(directory: Path) -> None:
    assert execute([f"{directory}/script", "word"]) == (3, f"{directory}/script word\n", "")


def test_missing_interpreter_is_told(directory: Path) -> None:
    status, _, text = execute([f"{directory}/dangling"])
    assert (status, text.count("\n")) == (127, 1)


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_no_command_is_a_login_shell(shell: str, tmp_path: Path) -> None:
    (tmp_path / ".profile").write_text("echo $0\nexit 5\n")
    assert execute([], SHELL=shell, HOME=str(tmp_path))[:2] == (5, f"-{shell}\n")


@pytest.mark.parametrize("shell", [None, ""])
def test_without_shell_it_is_sh(shell: str | None, tmp_path: Path) -> None:
    (tmp_path / ".profile").write_text("echo $0\nexit 5\n")
    assert execute([], SHELL=shell, HOME=str(tmp_path))[:2] == (5, "-/bin/sh\n")


@pytest.mark.parametrize(("status", "expected"), [
    (0, 0), (7 << 8, 7), (255 << 8, 255), (signal.SIGKILL, 137), (signal.SIGSEGV | 0x80, 139), (64, 192),
])
def test_status_is_what_shells_make_of_it(status: int, expected: int) -> None:
    assert pid1.exit_status(status) == expected
