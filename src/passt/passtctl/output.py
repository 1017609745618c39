"""What passtctl prints."""

from __future__ import annotations

import json
import os
import sys

from passt.errors import HostError
from passt.passtctl.printable import escape_controls

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


def print_lines(lines: Iterable[str], fd: int = 1) -> None:
    """Print lines, as far as a terminal may see them. Raises HostError; a reader that is gone ends us."""
    data = "".join(f"{escape_controls(line)}\n" for line in lines).encode()
    try:
        while data:
            data = data[os.write(fd, data):]
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        raise HostError(f"cannot write to standard output: {error.strerror}") from None


def print_json(value: Any) -> int:
    """Print *value* as JSON; return the exit status."""
    print_lines(json.dumps(value, indent=2).splitlines())
    return 0
