"""The site is built without warnings and without the network; pages that are made from the code are as the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from dicom_node.config import Config
from scripts import reference, reference_config

ROOT = Path(__file__).resolve().parents[2]
FETCHED = re.compile(r"""<(?:link|script|img|iframe|source)\b[^>]*?(?:href|src)=["']?(https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        config = load_config("mkdocs.yml", strict=True, site_dir=str(folder))
        config.plugins.run_event("startup", command="build", dirty=False)
        build(config)
    return folder


def test_every_page_is_there_and_fetches_nothing(site: Path) -> None:
    pages = {path.stem for path in site.glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= pages
    assert {"model-card", "contributing", "changelog"} <= pages
    for path in site.rglob("*.html"):
        assert FETCHED.search(path.read_text(encoding="utf-8")) is None, path
    assert all("fonts.g" not in path.read_text(errors="replace") for path in site.rglob("*.css"))


def test_what_is_read_from_elsewhere_is_whole_and_links_lead_to_pages(site: Path) -> None:
    card = (site / "model-card.html").read_text(encoding="utf-8")
    assert "Demonstration model package" in card and "Known failures" in card
    assert 'href="model-card.html"' in (site / "limits.html").read_text(encoding="utf-8")


def test_pages_made_from_the_code_are_as_the_code_has_them() -> None:
    assert reference.differing(ROOT / "docs") == [], "run python -m scripts.reference"


def test_a_page_that_is_not_is_named(tmp_path: Path) -> None:
    for name, page in reference.PAGES.items():
        (tmp_path / name).write_text(page())
    (tmp_path / "commands.md").write_text("by hand")
    assert reference.differing(tmp_path) == ["commands.md"]


def test_every_key_of_the_config_has_a_line() -> None:
    page = reference_config.page()
    for name, info in Config.model_fields.items():
        for key in getattr(info.annotation, "model_fields", {}):
            assert f"| `{key}` |" in page, f"{name}.{key}"
    for title in (
        'protocol = "dimse"',
        'protocol = "dicomweb"',
        'protocol = "hl7"',
        "[[sources]]",
        "[profiles.NAME]",
    ):
        assert f"{title}" in page
