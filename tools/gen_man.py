# ruff: noqa: INP001 - a script, in no package
"""Write what the manual pages and completions have from the program: options, and the version.

From the option table the OPTIONS of pasta.1, passt.1 and pesto.1, and the completions in share/; the version
in the first line of each page.

    python tools/gen_man.py            rewrite the files in place
    python tools/gen_man.py --check    exit with 1 if one is out of date

The section stands between two comment lines in the page; the rest of a page is written by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from passt import __version__  # noqa: E402 - found by the line above
from passt.config.help import description, options_of  # noqa: E402
from passt.config.options import GROUPS, Option  # noqa: E402
from tools import completion  # noqa: E402

PAGES = {program: ROOT / "docs" / f"{program}.1" for program in ("pasta", "passt", "pesto")}
HAND_WRITTEN = {program: ROOT / "docs" / f"{program}.1" for program in ("qrap", "passtctl")}
BEGIN = '.\\" BEGIN OPTIONS: written by tools/gen_man.py, do not edit\n'
END = '.\\" END OPTIONS\n'


def roff(text: str) -> str:
    """Escape *text* for a line of roff: backslashes, and hyphens that are to be typed as such."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def heading(option: Option) -> str:
    """Give the line with all names of an option in bold and its argument in italics."""
    names = ([f"-{option.short}"] if option.short else []) + [f"--{name}" for name in option.names]
    line = ", ".join(f"\\fB{roff(name)}\\fR" for name in names)
    if option.implied:
        return f"{line}[=\\fI{roff(option.argument)}\\fR]"
    return f"{line} \\fI{roff(option.argument)}\\fR" if option.argument else line


def options_section(program: str) -> str:
    """Make the OPTIONS section for *program*: what works by groups, then what does not yet."""
    known = options_of(program)
    lines = [".SH OPTIONS", "Where nothing else is said, the last of several uses counts."]
    for group in GROUPS:
        members = [option for option in known if option.group == group and option.available]
        if members:
            lines.append(f".SS {group}")
        for option in members:
            lines += [".TP", heading(option), roff(description(option))]
    later = [option for option in known if not option.available]
    if later:
        lines += [".SS Not available yet",
                  "This version knows these options, and refuses them with a message and exit status 1."]
    for option in later:
        lines += [".TP", heading(option), roff(description(option))]
    return "\n".join(lines) + "\n"


def updated_page(program: str) -> str:
    """Give the page of *program* with a fresh section; a page without the two marks is an error."""
    before, begin, rest = PAGES[program].read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{PAGES[program]}: the marks of the generated section are missing")
    return with_version(before) + begin + options_section(program) + end + after


def with_version(page: str) -> str:
    """Give *page* with the version of now in its first line."""
    return re.sub(r'\A(\.TH [^"]*)"passt [^"]*"', rf'\1"passt {__version__}"', page)


def main() -> int:
    """Rewrite or check the files."""
    status = 0
    wanted = {path: updated_page(program) for program, path in PAGES.items()}
    wanted |= {path: with_version(path.read_text(encoding="utf-8")) for path in HAND_WRITTEN.values()}
    wanted |= {ROOT / "share" / name: text for name, text in completion.files().items()}
    for path, page in wanted.items():
        if path.exists() and path.read_text(encoding="utf-8") == page:
            continue
        if "--check" in sys.argv[1:]:
            sys.stderr.write(f"{path} is out of date; run python tools/gen_man.py\n")
            status = 1
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
