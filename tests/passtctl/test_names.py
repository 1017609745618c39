"""Which instance a name means: whole names, beginnings, numbers; and refusals that list who may be meant."""

from __future__ import annotations

from typing import Any

import pytest

from passt.errors import ConfigError
from passt.passtctl.names import MAX_SHOWN, find, list_all, names_of, served, short_name


def info(pid: int, command: list[str] | None = None, namespace: object = None, socket: str | None = None
         ) -> dict[str, Any]:
    return {"pid": pid, "command": command, "namespace": namespace, "socket": socket}


SERVER = info(11, ["/srv/bin/server", "--port", "80"])
NAMESPACE = info(12, namespace="/run/netns/web")
ATTACHED = info(13, namespace=4711)
MACHINE = info(14, socket="/run/vm/passt_1.socket")
OTHER_MACHINE = info(15, socket="/run/vm/passt_10.socket")
HANDED = info(16)
ALL = [SERVER, NAMESPACE, ATTACHED, MACHINE, OTHER_MACHINE, HANDED]


@pytest.mark.parametrize(("one", "serves", "names", "shortest"), [
    (SERVER, "/srv/bin/server --port 80",
     ["/srv/bin/server --port 80", "/srv/bin/server", "server --port 80", "server"], "server"),
    (NAMESPACE, "/run/netns/web", ["/run/netns/web", "web"], "web"),
    (ATTACHED, "4711", ["4711"], "4711"),
    (MACHINE, "/run/vm/passt_1.socket", ["/run/vm/passt_1.socket", "passt_1.socket", "passt_1"], "passt_1"),
    (HANDED, "-", [], "16"),
    (info(17, ["top", "-b"]), "top -b", ["top -b", "top"], "top -b"),
    (info(18, ["top"]), "top", ["top"], "18"),
])
def test_names(one: dict[str, Any], serves: str, names: list[str], shortest: str) -> None:
    assert served(one) == serves
    assert names_of(one) == [str(one["pid"]), *names]
    assert short_name(one) == shortest


@pytest.mark.parametrize(("name", "meant"), [
    ("server", SERVER), ("ser", SERVER), ("/srv/bin/server --p", SERVER), ("11", SERVER), ("web", NAMESPACE),
    ("server --port 80", SERVER), ("server --", SERVER),
    ("/run/netns/w", NAMESPACE), ("4711", ATTACHED), ("passt_1", MACHINE), ("passt_10", OTHER_MACHINE),
    ("/run/vm/passt_10", OTHER_MACHINE), ("16", HANDED),
])
def test_name_means_one(name: str, meant: dict[str, Any]) -> None:
    assert ALL[find(name, ALL)] is meant


@pytest.mark.parametrize("name", ["erver", "1", "47", "web2", "-", "WEB", "None"])
def test_name_that_nobody_has_is_told_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find(name, ALL)
    text = str(raised.value)
    assert text.startswith(f"'{name}' is neither a command of passtctl nor the name of an instance: there")
    assert "12 (/run/netns/web), 13 (4711)" in text
    with pytest.raises(ConfigError, match="there is none with --control auto"):
        find(name, [])


@pytest.mark.parametrize(("name", "meant"), [
    ("passt_", [MACHINE, OTHER_MACHINE]), ("/", [SERVER, NAMESPACE, MACHINE, OTHER_MACHINE]),
    ("se", [SERVER, info(19, ["sed"])]), ("web", [NAMESPACE, info(20, ["web"])]),
    ("12", [NAMESPACE, info(21, namespace=12)]),
])
def test_name_of_several_is_refused_and_lists_them_and_no_others(
    name: str, meant: list[dict[str, Any]]
) -> None:
    found = [*ALL, *(one for one in meant if one not in ALL)]
    with pytest.raises(ConfigError) as raised:
        find(name, found)
    assert str(raised.value) == f"'{name}' may be any of {list_all(meant)}: give more of the name, or -p PID"
    assert "\n" not in str(raised.value)


def test_many_are_counted_and_not_all_listed() -> None:
    crowd = [info(100 + i, ["worker"]) for i in range(MAX_SHOWN + 3)]
    with pytest.raises(ConfigError, match=r"107 \(worker\) and 3 more: give more"):
        find("work", crowd)


def test_what_a_command_is_called_does_nothing_to_the_terminal() -> None:
    with pytest.raises(ConfigError) as raised:
        find("\x1b[2J", [info(1, ["\x1b]0;x\x07"])])
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("wrong", [{"pid": 7, "command": 5, "namespace": [], "socket": {}}, {"pid": None}])
def test_nonsense_of_an_instance_has_no_name_but_what_it_says(wrong: dict[str, Any]) -> None:
    assert served(wrong) == "-"
    with pytest.raises(ConfigError):
        find("x", [wrong])
