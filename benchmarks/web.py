"""How long the status page takes with a full ledger, as a browser gets it: over a socket, rendered, whole.

    python benchmarks/web.py [--series 100000] [--postgres] [--folder /on/the/disk]

The ledger is filled as `benchmarks/ledger.py` does. The rival is the same list with the same template, asked for by
OFFSET, as most listings are: what it costs to begin at row 50, and at the last one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.ledger import START, database, fill
from dicom_node import config
from dicom_node.ledger import Ledger, SeriesPage
from dicom_node.ledger_rows import series_query, series_record
from dicom_node.tables import SeriesRow
from dicom_node.web import app, pages
from dicom_node.web.door import Door, Visit
from dicom_node.web.server import WebServer
from tests.fixtures.page import FakeNode

TIMES = 25


def main() -> None:
    """Fill, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--url", default="", help="an empty database")
    parser.add_argument("--folder", type=Path, help="for the database file")
    arguments = parser.parse_args()
    with database(arguments) as url:
        ledger = Ledger(url)
        fill(url, arguments.series, 3)
        print(f"{arguments.series} series in {url.partition(':')[0]}")
        print(f"{'page':36s} {'median ms':>9s} {'best ms':>9s} {'size':>9s}")
        with served(ledger, arguments.series) as address, httpx.Client(base_url=address) as browser:
            for name, path in addresses(ledger, arguments.series):
                show(browser, name, "GET", path)
            for name, text in (
                ("search by series UID", f"1.2.{arguments.series // 2}"),
                ("search, nothing found", "9.9"),
            ):
                show(browser, name, "POST", "/search", text)
        ledger.close()


def show(browser: httpx.Client, name: str, method: str, path: str, text: str = "") -> None:
    """One line."""
    form = {"text": text} if text else None
    answer = browser.request(method, path, data=form)
    if answer.status_code != httpx.codes.OK:
        sys.exit(f"{name}: status {answer.status_code}")
    taken_ms = []
    for _ in range(TIMES):
        began = time.perf_counter()
        browser.request(method, path, data=form)
        taken_ms.append(1000 * (time.perf_counter() - began))
    figures = f"{statistics.median(taken_ms):9.1f} {min(taken_ms):9.1f} {len(answer.content) >> 10:6d} KB"
    print(f"{name:36s} {figures}", flush=True)


def addresses(ledger: Ledger, series: int) -> Iterator[tuple[str, str]]:
    """What is measured."""
    middle = ledger.series(f"1.2.{series // 2}")
    yield "today", "/"
    yield "destinations", "/destinations"
    yield "series, first page", "/series"
    yield "series, a page in the middle", f"/series?older={pages.written(middle.place)}"
    yield "series, last page", "/series?oldest=1"
    yield "failed series, first page", "/series?state=failed"
    yield "failed series, last page", "/series?state=failed&oldest=1"
    yield "one series with its story", f"/series/{middle.series_uid}"
    yield "rival by OFFSET, second page", "/rival?offset=50"
    yield "rival by OFFSET, last page", f"/rival?offset={series - 50}"


@contextmanager
def served(ledger: Ledger, series: int) -> Iterator[str]:
    """The page of a node at the time of its last series."""
    settings = config.parse(
        {
            "node": {"state_dir": "/tmp"},
            "reception": {"min_free_disk_mb": 0},
            "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}],
            "web": {"port": 0},
        }
    )

    @contextmanager
    def application() -> Iterator[Starlette]:
        parts = (settings, FakeNode(), ledger, lambda: START + timedelta(minutes=series))
        built = app.build(*parts)
        built.router.routes.append(Route("/rival", Door(app.desk(*parts)).look(rival)))
        yield built

    server = WebServer(settings.web, application, print)
    server.start()
    if not server.listening.wait(60):
        sys.exit("the page is not served")
    try:
        yield server.url
    finally:
        server.stop()


def rival(visit: Visit) -> Response:
    """The list by OFFSET."""
    ordered = series_query().order_by(SeriesRow.last_instance_at.desc(), SeriesRow.id.desc())
    query = ordered.limit(pages.PAGE).offset(int(visit.request.query_params["offset"]))
    with visit.desk.ledger._read() as session:
        records = tuple(series_record(*row) for row in session.execute(query))
    found = SeriesPage(records, has_newer=True, has_older=True)
    return visit.page("list.html", found=found, state=None, states=[], searched=None, limit=pages.PAGE)


if __name__ == "__main__":
    main()
