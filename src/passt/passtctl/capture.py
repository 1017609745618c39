"""`passtctl capture`: packets of an instance into a file or a pipe, or into the instance's memory.

The instance sends packets as it has them; to write them, and to wait for a disk or a reader, is up to us.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import signal
import stat
import sys
import threading

from passt.errors import ConfigError, HostError
from passt.passtctl.output import print_json, print_lines

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any

    from passt.passtctl.command import Command
    from passt.passtctl.instances import Instance

PIECE = 1 << 20
STANDARD_OUTPUT = "-"
_BLOCK_HEAD = 8
_SUFFIXES = {"K": 1 << 10, "M": 1 << 20}
_ENDING = (signal.SIGINT, signal.SIGTERM)


def run(instance: Instance, command: Command) -> int:
    """Carry out what the words and options of *command* say. Raises PasstError."""
    words = command.words
    verb = words[0] if words and words[0] in {"list", "get", "stop"} else ""
    if verb and len(words) != (1 if verb == "list" else 2):
        raise ConfigError(f"passtctl capture {verb}{' takes nothing more' if verb == 'list' else ' ID'}")
    if command.write is not None and (verb in {"list", "stop"} or command.ring is not None):
        raise ConfigError("option '-w' belongs to a capture that is written now, or to 'capture get ID'")
    if command.write is None and verb in {"", "get"} and command.ring is None:
        raise ConfigError("say where the packets go: -w FILE, or -w - for a pipe, as to 'wireshark -k -i -'")
    if verb == "list":
        return _list(instance, command)
    if verb == "stop":
        return _tell(instance.ask(f"/v1/captures/{_id(words[1])}", "DELETE"), command)
    if verb == "get":
        return _get(instance, _id(words[1]), command)
    asked: dict[str, Any] = {"filter": " ".join(words)}
    if command.snaplen is not None:
        asked["snaplen"] = size(command.snaplen, "--snaplen")
    if command.ring is not None:
        asked["ring"] = size(command.ring, "--ring")
        started = instance.ask("/v1/captures", "POST", asked)
        if command.json:
            return print_json(started)
        print_lines([str(started["id"])])
        return 0
    return _write(instance, asked, command)


def size(text: str, option: str) -> int:
    """Read a number of bytes, like 65536, 512K or 16M. Raises ConfigError."""
    digits = text[:-1] if text[-1:] in _SUFFIXES else text
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 12):
        raise ConfigError(f"option '{option}' {text}: give a number of bytes, like 65536 or 16M")
    return int(digits) * _SUFFIXES.get(text[-1:], 1)


def _id(word: str) -> str:
    if not (word.isascii() and word.isdecimal()):
        raise ConfigError(f"'{word}' is not the id of a capture; 'passtctl capture list' shows them")
    return word


def _list(instance: Instance, command: Command) -> int:
    from passt.passtctl.table import amount, layout

    found = instance.ask("/v1/captures")["captures"]
    if command.json:
        return print_json(found)
    rows = [(each["id"], each["to"], str(each["packets"]), str(each["lost"]), str(each["overwritten"]),
             amount(each["held_bytes"]), amount(each["size_bytes"]), each["filter"] or "-") for each in found]
    heading = ("ID", "TO", "PACKETS", "LOST", "OVERWRITTEN", "HELD", "SIZE", "FILTER")
    print_lines(layout(heading, rows, frozenset((2, 3, 4, 5, 6))))
    return 0


def _get(instance: Instance, name: str, command: Command) -> int:
    """Write what a capture to memory has kept."""
    connection, response = instance.open(f"/v1/captures/{name}/packets", "GET", None)
    with contextlib.closing(connection), contextlib.closing(Output(command.write or "")) as output:
        try:
            _copy(response, output)
        except ReaderGoneError:
            return 0
        except (OSError, http.client.HTTPException) as error:
            raise instance.failure(error) from None
    return 0


def _write(instance: Instance, asked: dict[str, Any], command: Command) -> int:
    """Write packets until a signal comes, the reader goes, or the disk is full.

    The file is made when the instance has agreed, and the capture ends with the connection in any case.
    """
    connection, response = instance.open("/v1/captures", "POST", asked)
    with contextlib.closing(connection), contextlib.closing(Output(command.write or "")) as output:
        result = _write_to(output, instance, response)
    return _tell(result, command) if result else 0


def _write_to(output: Output, instance: Instance, response: http.client.HTTPResponse) -> dict[str, Any]:
    """Write to *output*; return what the capture came to, empty if it was not for us to end it."""
    name = response.getheader("location", "").rpartition("/")[2]
    asked_by: list[int] = []
    result: dict[str, Any] = {}

    def stop(number: int, _frame: object = None) -> None:
        asked_by.append(number)
        if len(asked_by) == 1:
            result.update(instance.ask(f"/v1/captures/{name}", "DELETE"))
        elif number == signal.SIGINT:
            raise KeyboardInterrupt   # who asks again does not wait for what is on its way

    before = [signal.signal(number, stop) for number in _ENDING]
    output.watch_reader()
    try:
        _copy(response, output)
    except ReaderGoneError:
        stop(signal.SIGPIPE)
    except (OSError, http.client.HTTPException) as error:
        raise instance.failure(error) from None
    finally:
        for number, handler in zip(_ENDING, before, strict=True):
            signal.signal(number, handler)
    return result


def _copy(response: http.client.HTTPResponse, output: Output) -> None:
    while data := response.read1(PIECE):
        output.write(data)


def _tell(result: dict[str, Any], command: Command) -> int:
    """Say what a capture came to; on standard error, as packets may go to standard output."""
    if command.json and command.write != STANDARD_OUTPUT:
        return print_json(result)
    text = f"{result['packets']} packets, {result['lost']} lost"
    if result["to"] == "ring":
        text += f", {result['overwritten']} overwritten"
    print_lines([text], 2)
    return 0


def end_of_blocks(path: str) -> int:
    """Return where the last whole block of a pcapng file ends. Raises OSError.

    A block begins with its type and its whole length, 4 bytes each (draft-ietf-opsawg-pcapng, 3.1).
    """
    end = 0
    with open(path, "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        while len(head := file.read(_BLOCK_HEAD)) == _BLOCK_HEAD:
            length = int.from_bytes(head[4:], sys.byteorder)
            if length < _BLOCK_HEAD or end + length > size_bytes:
                break
            end += length
            file.seek(end)
    return end


class ReaderGoneError(Exception):
    """Nobody reads the pipe any more to which we write."""


class Output:
    """The file *path*, or standard output for "-". Raises PasstError."""

    def __init__(self, path: str) -> None:
        self._path = path
        if path != STANDARD_OUTPUT:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else "not a path"
                raise HostError(f"option '-w' {path}: {why}") from None
        elif os.isatty(1):
            raise ConfigError("option '-w' -: standard output is a terminal; pipe it to 'wireshark -k -i -'")
        else:
            self._fd = 1
        kind = os.fstat(self._fd).st_mode
        self._is_file = path != STANDARD_OUTPUT and stat.S_ISREG(kind)
        self._is_pipe = stat.S_ISFIFO(kind)
        self._is_open = True

    def watch_reader(self) -> None:
        """Have SIGTERM sent to us when nobody reads our pipe any more, even if nothing is written."""

        def wait() -> None:
            poll = select.poll()
            poll.register(self._fd, 0)
            poll.poll()
            if self._is_open:
                os.kill(os.getpid(), signal.SIGTERM)

        if self._is_pipe:
            threading.Thread(target=wait, daemon=True).start()

    def write(self, data: bytes) -> None:
        """Write *data*. A full disk ends the file with the last whole packet. Raises as the class says."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest):]
        except BrokenPipeError:
            raise ReaderGoneError from None
        except OSError as error:
            if self._is_file:
                with contextlib.suppress(OSError):     # we may write the file and not read it
                    os.ftruncate(self._fd, end_of_blocks(self._path))
            raise HostError(f"cannot write '{self._path}': {error.strerror}; the capture ends here") from None

    def close(self) -> None:
        """Close the file."""
        self._is_open = False
        if self._path != STANDARD_OUTPUT:
            os.close(self._fd)
