"""In a build with PASST_SANITIZE=1 errors of memory and arithmetic end the process (tools/sanitize)."""

import pytest

from tests.dataplane.probes import culprit, spoiler
from tests.support.probe_calls import run_call

if not culprit.is_sanitized():
    pytest.skip("nothing looks without PASST_SANITIZE=1: run tools/sanitize", allow_module_level=True)

# What is done -> what is reported.
FOUND = {
    "write_behind_heap(40)": "AddressSanitizer: heap-buffer-overflow",
    "read_freed(40)": "AddressSanitizer: heap-use-after-free",
    "read_behind_stack(8)": "AddressSanitizer: stack-buffer-overflow",
    "read_behind_bytes(bytes(39))": "AddressSanitizer: heap-buffer-overflow",
    "read_released_flow()": "AddressSanitizer: use-after-poison",
    "overflow(0x7fffffff)": "runtime error: signed integer overflow",
    "misalign(bytes(8))": "runtime error: load of misaligned address",
    "shift(1, 32)": "runtime error: shift exponent 32 is too large",
    "copy_from_nowhere(0)": "runtime error: null pointer passed",
}


def test_each_error_is_tried() -> None:
    names = {call.partition("(")[0] for call in FOUND}
    assert {name for name in vars(culprit) if not name.startswith("_")} == {"is_sanitized", *names}


@pytest.mark.parametrize("call", FOUND)
def test_error_is_reported_and_ends_the_process(call: str) -> None:
    done = run_call("culprit", call)
    assert (done.returncode, done.stdout) == (1, "")
    assert FOUND[call] in done.stderr
    assert "culprit.pyx" in done.stderr


def test_assertions_are_checked_too() -> None:
    assert spoiler.is_debug()
