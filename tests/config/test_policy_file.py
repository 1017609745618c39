"""Rules of egress in a file: order, profiles, the default, and what is said of mistakes."""

from __future__ import annotations

import pytest

from passt.config.policy_file import MAX_LEN, parse_policy
from passt.errors import ConfigError
from passt.facts.egress import MAX_EGRESS_RULES


def texts(content: str) -> list[str]:
    return [rule.text for rule in parse_policy(content.encode()).rules]


def test_rules_stand_in_the_order_of_the_file_behind_those_of_profiles() -> None:
    content = """
        # a comment
        use = ["second", "first"]
        rules = ["allow 192.0.2.1:80", "deny private"]   # another
        [profile.first]
        rules = ["deny host"]
        [profile.second]
        rules = ["allow icmp:192.0.2.2", 'deny  metadata ']
        [profile.unused]
        rules = ["deny multicast"]
    """
    assert texts(content) == ["allow icmp:192.0.2.2", "deny metadata", "deny host", "allow 192.0.2.1:80",
                              "deny private"]


@pytest.mark.parametrize(("content", "allows_rest"), [
    ("default = 'allow'", True),
    ("rules = ['deny host']", True),
    ("rules = ['deny host', 'allow dns']", False),
    ("default = 'deny'", False),
    ("default = 'deny'\nrules = ['deny host']", False),
    ("default = 'allow'\nrules = ['allow host']", True),
    # Only rules that are used count.
    ("rules = ['deny host']\n[profile.a]\nrules = ['allow host']", True),
    ("use = ['a']\n[profile.a]\nrules = ['allow host']", False),
])
def test_default(content: str, allows_rest: bool) -> None:
    assert parse_policy(content.encode()).allows_rest == allows_rest


@pytest.mark.parametrize(("content", "verifies"), [
    ("", False), ("verify-names = false", False), ("verify-names = true", True)])
def test_names_are_verified_where_the_file_says_so(content: str, verifies: bool) -> None:
    assert parse_policy(f"default = 'deny'\n{content}".encode()).verifies == verifies


@pytest.mark.parametrize(("content", "said"), [
    ("rules = [", "not TOML: "),
    ("rules = [1]", "line 1: rules is no list of texts"),
    ("rules = 'allow host'", "rules is no list of texts"),
    ("rule = ['allow host']",
     "line 1: there is no key 'rule'; give default, use, rules, verify-names, profile"),
    ("# rule\nuse = []\n  rule = []", "line 3: there is no key 'rule'"),
    ("use = []\n[profiles.a]\nrules = []", "line 2: there is no key 'profiles'"),
    ("[profile.a]\nx = 1\n[profile.b]\nx = 1", "[profile.a] there is no key 'x'; give rules"),
    ("rules = []\ndefault = 'reject'", "line 2: default = 'reject': give"),
    ("default = 'reject'", "default = 'reject': give \"allow\" or \"deny\""),
    ("default = true", 'give "allow" or "deny"'),
    ("default = ['deny']", 'give "allow" or "deny"'),
    ("verify-names = 'yes'\nrules = ['deny host']", "line 1: verify-names = 'yes': give true or false"),
    ("verify-names = 1\nrules = ['deny host']", "line 1: verify-names = 1: give true or false"),
    ("rules = ['deny host']\n[profile.a]\nverify-names = true", "line 3: [profile.a] there is no key"),
    ("rules = [\n'allow host',\n'permit dns']", "line 3: 'permit dns' begins with neither allow nor deny"),
    ('rules = [\n"allow"\n]', "line 2: '' names no destination"),
    ('rules = [\n"allow 192.0.2.5/24"\n]', "line 2: 192.0.2.5/24 has bits"),
    ("use = ['a']", "line 1: use: there is no [profile.a]"),
    ("default = " + "1" * 5000, "not TOML: "),
    ("profile = 3", "'profile' is no table"),
    ("profile.a = 3", "[profile.a] is no table"),
    ("[profile.a]\ndeny = []", "line 2: [profile.a] there is no key 'deny'"),
    ("[profile.a]\nrules = ['deny x']", "line 2: [profile.a] 'x' is not an"),
    (f"rules = {['deny host'] * (MAX_EGRESS_RULES + 1)}", "4096 are the limit"),
])
def test_mistake_is_told_with_its_place(content: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(content.encode())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [(b"\xff", "not UTF-8 at byte 0"),
                                               (b"#" * (MAX_LEN + 1), f"more than {MAX_LEN} bytes")])
def test_file_that_is_no_text_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(content)
    assert str(caught.value) == said


@pytest.mark.parametrize("content", ["", "# rules = ['deny host']\n", "rules = []",
                                     "use = ['a']\n[profile.a]", "[profile.a]\nrules = ['allow host']"])
def test_file_that_says_nothing_does_not_allow_all(content: str) -> None:
    """Somebody is just writing it, or the disk was full."""
    with pytest.raises(ConfigError, match=r"^neither a rule nor a default; to allow all"):
        parse_policy(content.encode())


@pytest.mark.parametrize(("content", "said"), [
    ("x = " + "[" * 100_000, "more than 16 brackets"),
    ("x = " + "{a=" * 100_000, "more than 16 brackets"),
    (".".join(["a"] * 60_000) + " = 1", "a key with more than 8 dots"),
    ("[" + ".".join(["'a'"] * 60_000) + "]", "a key with more than 8 dots"),
    ('x = ["""a"""", {' + " . ".join(["a"] * 60_000) + ' = 1}, "b"]', "a key with more than 8 dots"),
    ("x = ['''a''''', {" + ".".join(["a"] * 60_000) + " = 1}]", "a key with more than 8 dots"),
    ("default = " + "1" * 5000, "not TOML: "),
    ('"' * 3 + "\\" + '"' * 100_000, "not TOML: "),
])
def test_content_that_is_meant_to_hurt_the_parser_is_a_mistake(content: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        parse_policy(content.encode())


def test_texts_and_comments_may_have_dots_and_brackets() -> None:
    name = ".".join("abcdefghijkl")
    content = f"""# {name} [[[[[[[[[[[[[[[[[[[[
        rules = ["allow {name}", 'allow {name}.x', '''allow [2001:db8::1]:22''']
    """
    assert texts(content) == [f"allow {name}", f"allow {name}.x", "allow [2001:db8::1]:22"]
