"""The times of the host's connection tracking, and what stands in for them."""

from pathlib import Path

import pytest

from passt.host.udp_timeouts import udp_timeouts


def write(folder: Path, once: str, stream: str) -> None:
    (folder / "nf_conntrack_udp_timeout").write_text(once, encoding="ascii")
    (folder / "nf_conntrack_udp_timeout_stream").write_text(stream, encoding="ascii")


def test_times_are_read(tmp_path: Path) -> None:
    write(tmp_path, "17\n", "300\n")
    assert udp_timeouts(str(tmp_path)) == (17, 300)


def test_without_connection_tracking_there_are_defaults(tmp_path: Path) -> None:
    assert udp_timeouts(str(tmp_path / "none")) == (30, 120)


@pytest.mark.parametrize("text", ["", "many", "1.5"])
def test_nonsense_is_no_time(tmp_path: Path, text: str) -> None:
    write(tmp_path, text, "99")
    assert udp_timeouts(str(tmp_path)) == (30, 99)


@pytest.mark.parametrize(("text", "seconds"), [("0", 1), ("-5", 1), ("4294967", 86400)])
def test_times_are_bounded(tmp_path: Path, text: str, seconds: int) -> None:
    write(tmp_path, text, text)
    assert udp_timeouts(str(tmp_path)) == (seconds, seconds)
