"""The exceptions with a meaning; any other exception is a bug of ours, except OSError.

An OSError is a refused system call. Code that knows what the call was for turns it into a HostError;
`explain_refusal` words the others for the user.
"""

import errno


class PasstError(Exception):
    """Base of all errors that end in one clear line for the user."""


class ConfigError(PasstError):
    """The command line asks for something wrong or impossible; the text names the option and what helps."""


class HostError(PasstError):
    """The host refuses something that we need; the text names the setting or the cause."""


class WireError(PasstError):
    """Bytes from the guest that are no valid message; `responders.dispatch` catches and counts it."""


_REMEDIES = {
    errno.EMFILE: "raise the limit of open files (ulimit -H -n)",
    errno.ENFILE: "the whole system has no file left: raise fs.file-max with sysctl, or end other programs",
    errno.ENOMEM: "there is not enough memory, or a limit of it is reached",
    errno.ENOSPC: "make room on the file system, or raise the limit of what was asked for",
    errno.EAGAIN: "a limit of processes or of locked memory is reached (ulimit -u)",
}


def explain_refusal(error: OSError) -> str:
    """Word a failed system call for the user: the kernel's text, and what helps."""
    text = f"the system refuses what is needed: {error.strerror or error}"
    if error.filename is not None:
        text += f" ({error.filename!r})"
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{text}; {remedy}" if remedy else text
