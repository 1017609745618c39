"""The switches of the tests: environment variables PASST_TEST_*, read here and nowhere else.

1 switches one on; 0, nothing and no such variable leave it off. `check` says what is wrong with others.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FLAGS = {
    "PASST_TEST_LONG": "the long forms: minutes, gigabytes, every delay",
    "PASST_TEST_QUICK": "shorter transfers than usual",
    "PASST_TEST_KVM": "guests on the machine's own processor, not an emulated one",
}
PATHS = {
    "PASST_TEST_PASTA": "another pasta (with passt and qrap beside it) for the system tests",
    "PASST_TEST_HELPERS": "directory of another passt and pasta for `make interop`",
}


class SwitchError(Exception):
    """The environment sets a switch that there is not, or to what it does not take; the text says which."""


def check(environment: Mapping[str, str]) -> None:
    """Raise `SwitchError` at the first variable PASST_TEST_* that is unknown or has no proper value."""
    for name in sorted(name for name in environment if name.startswith("PASST_TEST_")):
        value = environment[name]
        if name in FLAGS:
            if value not in {"", "0", "1"}:
                raise SwitchError(f"{name}={value}: 1 switches it on, 0 off ({FLAGS[name]})")
        elif name not in PATHS:
            known = ", ".join(sorted(FLAGS | PATHS))
            raise SwitchError(f"{name} is no switch of the tests; there are {known}")
        elif value and not os.path.exists(value):
            raise SwitchError(f"{name}={value}: there is no such file ({PATHS[name]})")


LONG = os.environ.get("PASST_TEST_LONG") == "1"
QUICK = os.environ.get("PASST_TEST_QUICK") == "1"
KVM = os.environ.get("PASST_TEST_KVM") == "1"
PASTA = os.environ.get("PASST_TEST_PASTA") or None
HELPERS = os.environ.get("PASST_TEST_HELPERS") or None
# tools/interop-tree, which makes the tree, reads it too.
INTEROP_SUITE = os.environ.get("PASST_INTEROP_SUITE") or None
