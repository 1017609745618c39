"""The file of --learn: opened with the caller's rights, written when the run ends.

Until then it says that nothing is allowed, so that nobody takes an unfinished one for a policy that allows
all.
"""

from __future__ import annotations

import os
import stat

from passt import log
from passt.config.egress_grammar import parse_egress_rule
from passt.errors import ConfigError
from passt.forward.learning import UNFINISHED, Learning
from passt.log.output_file import open_output

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable


class LearnedFile:
    """The file *path*, open from now on; *on_made* gets the path of one that was not there.

    Raises ConfigError.
    """

    def __init__(self, path: str, on_made: Callable[[str], None]) -> None:
        self._path = path
        try:
            self._fd, made = open_output(path, os.O_WRONLY)
            if made is not None:
                on_made(made)
            self._is_plain = stat.S_ISREG(os.fstat(self._fd).st_mode)
            if self._is_plain:
                os.set_blocking(self._fd, True)
                os.ftruncate(self._fd, 0)
                _write(self._fd, UNFINISHED)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a path"
            raise ConfigError(f"option '--learn' {path}: cannot write the file: {why}") from None

    def write(self, learning: Learning) -> None:
        """Write what was learned, and close the file; a failure is a warning."""
        data = learning.text(_is_rule).encode("ascii")
        try:
            # The text before is written over: what a full disk or a kill leaves of it denies all.
            if self._is_plain:
                os.lseek(self._fd, 0, os.SEEK_SET)
            _write(self._fd, data)
            if self._is_plain:
                os.ftruncate(self._fd, len(data))
        except OSError as error:
            log.warning(f"option '--learn' {self._path}: cannot write the file: {error.strerror}: do not use"
                        " it")
        os.close(self._fd)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data):]


def _is_rule(text: str) -> bool:
    """Tell whether *text* can be read as a rule: names that the guest asked for may be anything."""
    try:
        parse_egress_rule(text, allows=True)
    except ConfigError:
        return False
    return True
