"""The exceptions that have a meaning; anything else that is raised is a mistake of ours."""


class PasstError(Exception):
    """Base of all errors that end in one clear line for the user."""


class ConfigError(PasstError):
    """The command line asks for something wrong or not possible; names the option and the way out."""


class HostError(PasstError):
    """The host refuses something that we need; names the setting or cause."""


class WireError(PasstError):
    """Bytes from the guest that are not a valid message; met in `responders.dispatch` and counted."""
