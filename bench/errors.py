"""The two ways in which a measurement ends without a result."""


class BenchError(Exception):
    """The whole run cannot go on; the text is one line for the user."""


class SectionFailed(Exception):  # noqa: N818 - an outcome that is recorded, not a mistake of ours
    """One program did not finish one section; the text is the reason shown beside its row."""
