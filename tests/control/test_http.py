"""Targets and bodies of requests."""

from __future__ import annotations

import pytest

from passt.control.http import MAX_PARAMETERS, RefusalError, answer, parse_json, parse_target


def test_target_is_path_and_parameters() -> None:
    wanted = ("/v1/flows", {"a": "1", "b": "[::1]", "c": ""})
    assert parse_target(b"/v1/flows?a=1&b=%5B%3A%3A1%5D&c=") == wanted
    assert parse_target(b"/a%20b") == ("/a b", {})


@pytest.mark.parametrize(
    "target",
    [b"/%ff", b"/%", b"/%4", b"/%zz", b"/% 1", b"/%+1", b"/?a=%ff", b"/?a", b"/?a=1&a=2", "/\u00fc".encode(),
     b"/?" + b"&".join(b"p%d=1" % i for i in range(MAX_PARAMETERS + 1))],
)  # fmt: skip
def test_target_that_cannot_be_read_is_refused(target: bytes) -> None:
    with pytest.raises(RefusalError) as refused:
        parse_target(target)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b'{"level":1}', b'{"other":"x"}', b"{}", b"[" * 60000, b"\xff",
             b'{"level":"\\ud800"}', b'{"level":"\\udc80"}']
)
def test_body_that_is_not_the_object_is_refused(body: bytes) -> None:
    with pytest.raises(RefusalError) as refused:
        parse_json(body, {"level": (str,)}, ("level",))
    assert refused.value.status == 400


def test_body_is_read() -> None:
    assert parse_json(b'{"level":"x"}', {"level": (str,)}, ("level",)) == {"level": "x"}


def test_answer_is_one_line() -> None:
    assert list(answer({"a": "\n"}).body) == [b'{"a":"\\n"}\n']
