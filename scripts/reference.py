"""Writes docs/configuration.md and docs/commands.md from the code, so that they cannot drift from it.

usage: python -m scripts.reference [--check]

With --check nothing is written; exit status 1 and the names of the pages that are not as the code has them. A test
does the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts import reference_commands, reference_config

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES: Mapping[str, Callable[[], str]] = {
    "configuration.md": reference_config.page,
    "commands.md": reference_commands.page,
}


def differing(folder: Path) -> list[str]:
    """The pages of a folder that are not as the code has them."""
    return [
        name
        for name, page in PAGES.items()
        if not (folder / name).is_file() or (folder / name).read_text() != page()
    ]


def main() -> None:
    """Write, or check."""
    changed = differing(DOCS)
    if "--check" not in sys.argv:
        for name in changed:
            (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
    elif changed:
        names = ", ".join(f"docs/{name}" for name in changed)
        print(f"not as the code has it: {names}; run python -m scripts.reference", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
