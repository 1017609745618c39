"""A build with PASST_DEBUG=1 aborts where an invariant does not hold, and says where (tools/debug-build)."""

import re
import signal

import pytest

from tests.dataplane.probes import spoiler
from tests.support.probe_calls import TREE, run_call

if not spoiler.is_debug():
    pytest.skip("asserts nothing without PASST_DEBUG=1: run tools/debug-build", allow_module_level=True)

# What `spoiler` does -> the file that finds it, and the expression that is false then.
FOUND = {
    "transition": ("tcp/states", "is_legal(flow->body.tcp.state, state)"),
    "first_transition": ("tcp/states", "is_legal(flow->body.tcp.state, state)"),
    "slot_in_use": ("flow/table", "flow->kind == FLOW_FREE"),
    "released_twice": ("flow/table", "flow->kind > FLOW_DEAD"),
    "armed_at_release": ("flow/table", "flow->armed"),
    "work_list": ("flow/table", "has_work"),
    "lost_work": ("flow/table", "n_working == 0"),
    "chain": ("flow/table", "< self->top"),
    "class_count": ("flow/table", "n == expected"),
    "class_order": ("flow/table", "n == expected"),
    "generation": ("flow/table", "0x800000"),
    "given_twice": ("base/memory_budget", "n <= (self->size - self->left)"),
    "kept_memory": ("turn", "core->pool->left == core->pool->size"),
    "kept_pipe": ("turn", "core->bypass->pipes->n_idle"),
    "timer_order": ("loop/timers", ".deadline <= "),
    "timer_id": ("loop/timers", "id < self->n_ids"),
    "tap_queue": ("link/", "self->pending_start <= self->pending_end"),
    "stream_queue": ("link/stream", "link->out_end <= OUT_SIZE"),
    "stream_account": ("link/stream", "n_queued == 0"),
    "pipe": ("sockets/pipe_pool", "self->ends"),
    "store_order": ("tcp/unsent_store", "seq_lt("),
    "store_bytes": ("tcp/unsent_store", "n == "),
    "board_order": ("tcp/scoreboard", "seq_lt(hole_start(conn, i)"),
    "board_edge": ("tcp/scoreboard", "seq_le("),
    "send_order": ("tcp/states", "seq_le(conn->snd_una, conn->snd_nxt)"),
    "receive_order": ("tcp/states", "seq_le(conn->rcv_nxt, conn->rcv_adv)"),
    "fin_without_flag": ("tcp/states", "CONN_GUEST_FIN"),
}


def test_each_way_to_spoil_is_tried() -> None:
    assert {name for name in vars(spoiler) if not name.startswith("_")} == {"is_debug", *FOUND}


@pytest.mark.parametrize("name", FOUND)
def test_spoiled_invariant_aborts_and_says_where(name: str) -> None:
    done = run_call("spoiler", f"{name}()")
    assert (done.returncode, done.stdout) == (-signal.SIGABRT, "")
    file, expression = FOUND[name]
    said = re.fullmatch(r"(passt/dataplane/\S+):(\d+): assertion failed: (.+)\n", done.stderr)
    assert said, done.stderr
    assert said[1].startswith(f"passt/dataplane/{file}")
    assert expression in said[3]
    line = (TREE / "src" / said[1]).read_text(encoding="utf-8").splitlines()[int(said[2]) - 1]
    assert line.lstrip().startswith("PASST_ASSERT(")
