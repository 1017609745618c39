def transitions() -> list[tuple[str, str, str, str]]:
    """Give each legal transition: from, to, sections of RFC 9293, what happens."""
