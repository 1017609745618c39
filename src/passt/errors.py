"""The exceptions that have a meaning; anything else that is raised is a mistake of ours.

One kind of the standard library's has a meaning too: an OSError is the host's refusal of a system call. Who
knows what the call was for says so in a HostError; `explain_refusal` words what nobody foresaw.
"""

import errno


class PasstError(Exception):
    """Base of all errors that end in one clear line for the user."""


class ConfigError(PasstError):
    """The command line asks for something wrong or not possible; names the option and the way out."""


class HostError(PasstError):
    """The host refuses something that we need; names the setting or cause."""


class WireError(PasstError):
    """Bytes from the guest that are not a valid message; met in `responders.dispatch` and counted."""


_REMEDIES = {
    errno.EMFILE: "raise the limit of open files (ulimit -H -n)",
    errno.ENFILE: "the whole system has no file left: raise fs.file-max with sysctl, or end other programs",
    errno.ENOMEM: "there is not enough memory, or a limit of it is reached",
    errno.ENOSPC: "make room on the file system, or raise the limit of what was asked for",
    errno.EAGAIN: "a limit of processes or of locked memory is reached (ulimit -u)",
}


def explain_refusal(error: OSError) -> str:
    """Word a system call's failure for the user: what the kernel says of it, and what helps."""
    text = f"the system refuses what is needed: {error.strerror or error}"
    if error.filename is not None:
        text += f" ({error.filename!r})"
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{text}; {remedy}" if remedy else text
