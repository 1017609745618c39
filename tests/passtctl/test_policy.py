"""`passtctl policy` and what it asks, of an instance whose rules a test sees."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError, HostError
from passt.facts.egress import EgressRules
from passt.forward.egress import Egress
from passt.forward.live_egress import LiveEgress
from passt.passtctl.command import parse
from passt.passtctl.main import run
from passt.passtctl.policy import MAX_LEN
from tests.control.test_api import OPENAPI, Bench
from tests.forward.test_live_egress import flow_to, rules_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Policed(Bench):
    """An instance with rules, and without a forwarder of names."""

    def __init__(self, path: Path, *lines: str) -> None:
        super().__init__(path)
        self.file = path / "policy.toml"
        self.egress = Egress(rules_of(*lines))
        self.api.live_egress = LiveEgress(
            self.egress, self.source, set_names=None, doors=list, renew=lambda: None, tell=lambda _text: None,
            path=str(self.file))

    def passtctl(self, *arguments: str) -> int:
        return run(parse(["-s", self.path, "policy", *arguments]))

    def texts(self) -> list[str]:
        return [rule.text for rule in self.egress.rules.rules]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Policed]:
    made = Policed(tmp_path, "deny private", "allow 192.0.2.0/24:443")
    with made.turning():
        yield made
    made.close()


def test_rules_and_counts_are_shown(instance: Policed, capfd: pytest.CaptureFixture[str]) -> None:
    instance.egress.refuse(6, 1, bytes((10, 0, 0, 1)), 0)
    instance.egress.refuse(6, 1, bytes((1, 1, 1, 1)), 2)
    instance.egress.refuse_names([(2, 12)], ())
    assert instance.passtctl() == 0
    assert capfd.readouterr().out.splitlines() == [
        "RULE                    FLOWS REFUSED  NAMES REFUSED",
        "deny private                        1              0",
        "allow 192.0.2.0/24:443              0              0",
        "deny all else                       1             12"]
    instance.passtctl("show", "--json")
    shown = json.loads(capfd.readouterr().out)
    assert shown["file"] == str(instance.file)
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    document = json.loads(OPENAPI.read_text(encoding="utf-8"))
    schema = document["components"]["schemas"]["Policy"] | {"components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(shown)


def test_rules_are_replaced_and_read_again(instance: Policed, capfd: pytest.CaptureFixture[str],
                                           tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('rules = ["allow 198.51.100.1", "deny host"]')
    assert instance.passtctl("set", str(other)) == 0
    assert instance.texts() == ["allow 198.51.100.1", "deny host"]
    assert not instance.egress.rules.allows_rest
    instance.file.write_text('default = "allow"\nuse = ["a"]\n[profile.a]\nrules = ["deny metadata"]\n')
    assert instance.passtctl("reload") == 0
    assert instance.egress.rules == EgressRules(rules_of("deny metadata").rules, True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("words", [("set", "FILE"), ("reload",)])
def test_kill_ends_flows_that_are_refused_now(instance: Policed, words: tuple[str, ...]) -> None:
    instance.source.records = [flow_to(0, "192.0.2.1"), flow_to(1, "198.51.100.1")]
    instance.file.write_text('rules = ["allow 192.0.2.0/24"]')
    asked = [str(instance.file) if word == "FILE" else word for word in words]
    instance.passtctl(*asked)
    assert instance.source.closed == []
    instance.passtctl(*asked, "--kill")
    assert instance.source.closed == [(1, 3)]


@pytest.mark.parametrize(("content", "message"), [
    ("rules = [\n'allow x'\n]", "nothing was changed: line 2: 'x' is not an IPv4 or IPv6 address"),
    ("rules", "nothing was changed: not TOML: "),
    ('rules = ["allow www.example"]', "nothing was changed: rules by name need a forwarder of names"),
    ("#" * (MAX_LEN + 1), "more than 131072 bytes"), (None, "No such file or directory")])
def test_mistake_changes_nothing(instance: Policed, content: str | None, message: str) -> None:
    if content is not None:
        instance.file.write_text(content)
    before = instance.egress.rules
    with pytest.raises(HostError, match=message.replace("(", r"\(")):
        instance.passtctl("reload")
    assert instance.egress.rules is before


def test_program_without_rules_has_none_to_change(instance: Policed, capfd: pytest.CaptureFixture[str]
                                                  ) -> None:
    instance.api.live_egress = None
    assert instance.passtctl() == 0
    assert capfd.readouterr().out.splitlines() == [
        "RULE            FLOWS REFUSED  NAMES REFUSED", "allow all else              0              0"]
    instance.file.write_text("rules = []")
    with pytest.raises(HostError, match="was started without rules of egress"):
        instance.passtctl("set", str(instance.file))
    with pytest.raises(HostError, match="has no file of --policy"):
        instance.passtctl("reload")


@pytest.mark.parametrize(("words", "message"), [
    ("policy add x", "'add' is no action of policy; there are show, set, reload"),
    ("policy set", "needs a file"), ("policy reload x", "'x' is too much"),
    ("policy show x", "'x' is too much"),
    ("policy --kill", "belongs to 'policy set'"), ("flows --kill", "option '--kill' belongs to 'policy'")])
def test_command_line_that_makes_no_sense_is_refused(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(words.split())
