"""Hooks of MkDocs: pages that lie elsewhere in the repository, and pages that the navigation does not have yet.

Nothing is copied: the model card, CONTRIBUTING.md and CHANGELOG.md are read where they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {  # page of the site → file of the repository
    "model-card.md": "pipeline/models/demo/MODEL_CARD.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
PAGES = {source: page for page, source in ELSEWHERE.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append what the navigation does not name."""
    nav = config.nav or []
    known = set(_names(nav))
    rest = [path.name for path in sorted(Path(config.docs_dir).glob("*.md")) if path.name not in known]
    if rest:
        config.nav = [*nav, {"More": rest}]
    return config


def _names(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for item in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _names(item)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links are those of the repository, so that they work there too; here they lead to pages of the site."""
    source = PurePosixPath(ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def there(match: re.Match[str]) -> str:
        target = _joined(source.parent, match[1])
        return PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else match[1])

    return LINK.sub(there, markdown)


def _joined(folder: PurePosixPath, link: str) -> str:
    """A relative link from a folder of the repository, as a path from its root."""
    parts: list[str] = []
    for part in (folder / link).parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
