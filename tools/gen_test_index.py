# ruff: noqa: INP001 - a script, in no package
"""Write tests/INDEX.md from the first lines of the test files: which file holds which behaviour.

python tools/gen_test_index.py            rewrite it in place
python tools/gen_test_index.py --check    exit with 1 if it is out of date
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
INDEX = TESTS / "INDEX.md"
HEAD = """# Which file holds which behaviour

Written by `tools/gen_test_index.py` from the first line of each test file: do not edit.
"""


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise SystemExit(f"{path} has no docstring")
    return text.splitlines()[0]


def index(tests: Path = TESTS) -> str:
    """Text of the index: one list for each folder that has tests."""
    folders: dict[Path, list[Path]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        folders.setdefault(path.parent, []).append(path)
    parts = [HEAD]
    for folder, paths in sorted(folders.items()):
        parts.append(f"\n## {folder.relative_to(tests.parent)}\n\n")
        parts += [f"- [{path.name}]({path.relative_to(tests)}): {first_line(path)}\n" for path in paths]
    return "".join(parts)


def main() -> int:
    """Rewrite or check the index."""
    text = index()
    if "--check" in sys.argv[1:]:
        if INDEX.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{INDEX} is out of date; run python tools/gen_test_index.py\n")
            return 1
    else:
        INDEX.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
