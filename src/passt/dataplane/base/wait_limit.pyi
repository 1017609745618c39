"""Typing of the limit of waits."""

from typing import Self

def prepare() -> None:
    """Do what a filter of system calls may forbid later. Raises OSError."""

class WaitLimit:
    """See `facts.contracts.WaitLimit`."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def has_passed(self) -> bool: ...
    def tell(self, fd: int) -> bool: ...
