"""A file with rules of egress, in TOML.

::

    default = "deny"                  # or "allow"; without it "deny" if a rule allows, else "allow"
    use = ["base"]                    # profiles whose rules come first, in this order
    verify-names = true               # as --verify-names; without it false
    rules = ["allow 192.0.2.0/24:22,80", "deny private"]

    [profile.base]
    rules = ["deny metadata"]

The first rule that fits decides. A profile that is not used is checked, too. A file without a rule and
without a default is refused: somebody is just writing it, or a full disk cut it off, and it would allow all.
"""

from __future__ import annotations

import re
import tomllib

from passt.config.egress_grammar import VERBS, parse_rule_line
from passt.errors import ConfigError
from passt.facts.egress import MAX_EGRESS_RULES, EgressRule, EgressRules

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any

MAX_LEN = 1 << 20                  # bytes of a file: MAX_EGRESS_RULES of 256
MAX_DEPTH = 16                     # of brackets and braces; ours has 1
MAX_KEY_DOTS = 8                   # in a row without a bracket, comma or equals sign; a key of ours has 2
# Comments and texts of TOML; one without an end has the rest, as the parser goes no further.
_NO_STRUCTURE = re.compile(r"\"{3}(?:\\.|[^\\])*?(?:\"{3,5}|\Z)|'{3}.*?(?:'{3,5}|\Z)"
                           r"|\"(?:\\.|[^\"\\\n])*\"?|'[^'\n]*'?|#[^\n]*", re.DOTALL)
_STRUCTURE = re.compile(r"[\[\]{}.=,\n]")


def parse_policy(content: bytes) -> EgressRules:
    """Read the rules in *content*. Raises ConfigError with the place of the mistake."""
    if len(content) > MAX_LEN:
        raise ConfigError(f"more than {MAX_LEN} bytes")
    try:
        text = content.decode()
        _check_structure(text)
        found = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError, and what the parser does not catch itself, as a number of too many digits.
        raise ConfigError(f"not TOML: {error}") from None
    _check_keys(text, found, ("default", "use", "rules", "verify-names", "profile"), "")
    profiles = found.get("profile", {})
    if not isinstance(profiles, dict):
        raise ConfigError("'profile' is no table; write [profile.NAME] and rules below")
    named = {name: _rules_of(text, profile, f"[profile.{name}] ") for name, profile in profiles.items()}
    rules: list[EgressRule] = []
    for name in _strings(text, found, "use", ""):
        if name not in named:
            raise ConfigError(f"{_find(text, name)}use: there is no [profile.{name}]")
        rules += named[name]
    rules += _rules_of(text, {"rules": found.get("rules", [])}, "")
    if not rules and "default" not in found:
        raise ConfigError('neither a rule nor a default; to allow all write default = "allow"')
    if len(rules) > MAX_EGRESS_RULES:
        raise ConfigError(f"{len(rules)} rules; {MAX_EGRESS_RULES} are the limit")
    return EgressRules(tuple(rules), _default_of(text, found, rules), verifies=_verifies(text, found))


def _check_structure(text: str) -> None:
    """Refuse what TOML's parser takes a stack, memory or time out of all proportion for. Raises ConfigError.

    It calls itself for each bracket, and its cost grows with the square of the parts of a key. What is in
    texts and comments does not count.
    """
    depth = dots = 0
    for mark in _STRUCTURE.findall(_NO_STRUCTURE.sub("", text)):
        if mark == ".":
            dots += 1
        else:
            dots = 0
            depth += (mark in "[{") - (mark in "]}" and depth > 0)
        if dots > MAX_KEY_DOTS:
            raise ConfigError(f"a key with more than {MAX_KEY_DOTS} dots; [profile.NAME] is the longest one")
        if depth > MAX_DEPTH:
            raise ConfigError(f"more than {MAX_DEPTH} brackets in each other; give lists of texts")


def _default_of(text: str, found: dict[str, Any], rules: list[EgressRule]) -> bool:
    """Tell whether what no rule fits is allowed."""
    if "default" not in found:
        return not any(rule.allows for rule in rules)
    default = found["default"]
    if not isinstance(default, str) or default not in VERBS:
        raise ConfigError(f'{_find_key(text, "default")}default = {default!r}: give "allow" or "deny"')
    return VERBS[default]


def _verifies(text: str, found: dict[str, Any]) -> bool:
    """Tell whether connections have to say the names by which they pass."""
    verifies = found.get("verify-names", False)
    if not isinstance(verifies, bool):
        raise ConfigError(f"{_find_key(text, 'verify-names')}verify-names = {verifies!r}: give true or false")
    return verifies


def _rules_of(text: str, table: object, where: str) -> list[EgressRule]:
    if not isinstance(table, dict):
        raise ConfigError(f"{where}is no table; write rules below it")
    _check_keys(text, table, ("rules",), where)
    rules = []
    for line in _strings(text, table, "rules", where):
        try:
            rules.append(parse_rule_line(line))
        except ConfigError as error:
            raise ConfigError(f"{_find(text, line)}{where}{error}") from None
    return rules


def _strings(text: str, table: dict[str, Any], key: str, where: str) -> list[str]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError(f'{_find_key(text, key)}{where}{key} is no list of texts; write'
                          f' {key} = ["...", "..."]')
    return value


def _check_keys(text: str, table: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{_find_key(text, key)}{where}there is no key '{key}'; give"
                              f" {', '.join(known)}")


def _find(text: str, part: str) -> str:
    """Name the first line that has *part*; TOML's parser does not tell where it found a value."""
    for number, line in enumerate(text.splitlines(), 1):
        if f'"{part}"' in line or f"'{part}'" in line:
            return f"line {number}: "
    return ""


def _find_key(text: str, key: str) -> str:
    """Name the line that begins with *key*, if there is one only."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        start = line.lstrip(" \t[\"'")
        if start.startswith(key) and start[len(key):len(key) + 1] in {"", " ", "\t", "=", ".", "]", '"', "'"}:
            found.append(number)
    return f"line {found[0]}: " if len(found) == 1 else ""
