"""Makes the pictures of the status page: python -m scripts.page_images [FOLDER, default docs/images].

A node's page over a synthetic ledger, in Debian's Chromium.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from dicom_node import config
from dicom_node.ledger import Ledger
from dicom_node.web import app, server
from scripts import page_sample

NOON = datetime.now().astimezone().replace(hour=12, minute=0, second=0, microsecond=0).astimezone(UTC)
SIZE = {"width": 1280, "height": 900}


class Well:
    """A node that is well; see `health.Watched`."""

    def _nothing(self) -> str:
        return ""

    database_fault = disk_fault = listener_fault = worker_fault = _nothing

    def dead_threads(self) -> list[str]:
        """None."""
        return []


@contextmanager
def served(settings: config.Config) -> Iterator[str]:
    """The address of the page."""
    page = server.WebServer(settings.web, lambda: app.serving(settings, Well(), lambda: NOON), print)
    page.start()
    page.listening.wait()
    try:
        yield page.url
    finally:
        page.stop()


def main(folder: Path) -> None:
    """Fill, serve, look."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        state_dir = Path(name)
        settings = config.parse(
            {
                "node": {"state_dir": name},
                "reception": {"min_free_disk_mb": 0},
                "destinations": list(page_sample.DESTINATIONS),
                "web": {"port": 0},
            }
        )
        with closing(Ledger(settings.database_url)) as ledger:
            story = page_sample.fill(ledger, state_dir, NOON)
        (state_dir / "quarantine").mkdir()
        with served(settings) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport=SIZE, device_scale_factor=1)
            for path, image in (
                ("", "page-today"),
                (f"series/{story}", "page-series"),
            ):
                page.goto(f"{url}{path}")
                _keep(page, folder / f"{image}.png")
            browser.close()


def _keep(page: Page, path: Path) -> None:
    from PIL import Image

    page.screenshot(path=path, full_page=True)
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "docs" / "images")
