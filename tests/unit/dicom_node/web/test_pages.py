"""What the pages say, to whom, and that nothing that came off the wire is anything but text."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from dicom_node import config
from dicom_node.errors import TransientError
from dicom_node.ledger import Ledger, SeriesIdentity
from dicom_node.web import app, pages
from dicom_node.web.door import THREADS, Door, Visit
from pipeline.types import ResultKind
from tests.fixtures.page import USERS, WHO, Clock, FakeNode, log_in, page, with_story
from tests.fixtures.samples import (
    SERIES,
    STUDY,
    analysed,
    at,
    deliver,
    filing,
    receive,
)

PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 104}
HOSTILE = "<script>alert(1)</script>"
QUOTES = "\"'><img src=x onerror=alert(1)>"
TURNED = "\u202eevil\u202d"
SECRETS = ("Mustermann", "Erika", "\uae40", "\ubbfc\uc11c", "PID-7755", "ACC-9911")


def test_today_says_what_came_what_waits_and_what_failed(book: Ledger, tmp_path: Path) -> None:
    receive(book, "1.1", 4, at(0), study_uid="1.1.1")
    analysed(book)
    for delivery in book.due_deliveries("pacs", at(1)):
        book.delivery_failed(delivery.id, at(2), "SOP class refused.")
    html = page(book, tmp_path).get("/").text
    assert "<dt>Series</dt><dd>2</dd>" in html
    assert "<dt>Instances</dt><dd>7</dd>" in html
    assert "not delivered to pacs: SOP class refused." in html
    assert "only what has not arrived is sent again" in html
    assert ">1 receiving</a>" in html
    assert "More instances may come" in html
    yesterday = page(book, tmp_path, Clock(at(86400 * 2))).get("/").text
    assert "Nothing has come in since midnight." in yesterday
    assert "SOP class refused." in yesterday  # what failed stays until somebody deals with it


def test_a_quiet_node_says_so(book: Ledger, tmp_path: Path) -> None:
    browser = page(book, tmp_path)
    html = browser.get("/").text
    for words in ("Nothing has come in since midnight.", "Nothing has failed.", "Nothing waits."):
        assert words in html
    assert "names no destination" in browser.get("/destinations").text
    assert "There are none here." in browser.get("/series").text


def test_what_needs_attention_beside_single_series(book: Ledger, tmp_path: Path) -> None:
    browser = page(book, tmp_path)
    assert "Needs attention" not in browser.get("/").text or "disk" in browser.get("/").text
    for name in ("a.dcm.reason.txt", "result-1.2.dcm.reason.txt", "result-1.3.dcm.reason.txt"):
        (tmp_path / "quarantine" / name).touch()
    html = browser.get("/").text
    assert "1 received file(s) could not be read" in html
    assert "2 result object(s) failed a check" in html


def test_a_disk_that_does_not_answer_is_said_and_the_rest_is_shown(book: Ledger, tmp_path: Path) -> None:
    analysed(book)
    settings = config.parse({"node": {"state_dir": str(tmp_path / "gone")}})
    node = FakeNode(disk="the disk does not answer: Input/output error")
    answer = TestClient(app.build(settings, node, book, Clock()), base_url="http://127.0.0.1").get("/")
    assert answer.status_code == 200
    assert "disk: the disk does not answer: Input/output error" in answer.text
    assert "<dt>Series</dt><dd>1</dd>" in answer.text


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The time zone of this process."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("midnight", "noon"),
    [
        (datetime(2026, 3, 28, 23, tzinfo=UTC), datetime(2026, 3, 29, 10, tzinfo=UTC)),
        (datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 10, 25, 11, tzinfo=UTC)),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_a_day_on_which_the_clocks_change_begins_at_midnight(
    book: Ledger, tmp_path: Path, midnight: datetime, noon: datetime
) -> None:
    receive(book, "1.1", 3, midnight - timedelta(minutes=30), study_uid="1.1.1")
    receive(book, "1.2", 4, midnight + timedelta(minutes=30), study_uid="1.1.2")
    html = page(book, tmp_path, Clock(noon)).get("/").text
    assert "<dt>Series</dt><dd>1</dd>" in html
    assert "<dt>Instances</dt><dd>4</dd>" in html


def test_each_destination_is_told_with_backlog_success_error_and_pause(book: Ledger, tmp_path: Path) -> None:
    with_story(book, tmp_path)
    browser = page(book, tmp_path, destinations=(PACS, {**PACS, "name": "closed", "window": "03:00-03:01"}))
    html = browser.get("/destinations").text
    assert "does not take objects at present" in html
    assert "PACS does not answer" in html
    assert "nothing was sent yet" in html
    assert "only 03:00-03:01" in html
    deliver(book, now=at(4000))
    assert "has everything" in browser.get("/destinations").text


def test_one_series_tells_its_whole_story(book: Ledger, tmp_path: Path) -> None:
    with_story(book, tmp_path)
    browser = page(book, tmp_path)
    html = browser.get(f"/series/{SERIES}").text
    for words in (
        "25.0 %",
        "12.5 %",
        "4000 ml",
        "severity class 25-50 %",
        "contrast &lt;medium&gt;",
        "whole: a test says so",
        "receiving → complete",
        "queued → analysed",
        "CT1",
        "PACS does not answer, says ***",
    ):
        assert words in html, words
    number = next(result.id for result in book.details(SERIES).results if result.kind is ResultKind.PICTURE)
    assert f'src="/series/{SERIES}/picture-{number}.png"' in html
    answer = browser.get(f"/series/{SERIES}/picture-{number}.png")
    assert answer.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (800, 400)


@pytest.mark.parametrize(
    "address", ["/series/1.9.9", f"/series/{SERIES}/picture-999.png", "/nowhere", "/series/../etc"]
)
def test_what_is_not_there_is_said(book: Ledger, tmp_path: Path, address: str) -> None:
    with_story(book, tmp_path)
    answer = page(book, tmp_path).get(address)
    assert (answer.status_code, "<h1>Not here</h1>" in answer.text) == (404, True)


def test_what_stood_in_an_address_is_shown_as_text_of_a_direction_of_its_own(book: Ledger, tmp_path: Path) -> None:
    answer = page(book, tmp_path).get("/series/%E2%80%AEevil%00%1B%3Cb%3E")
    assert answer.status_code == 404
    assert not {"\x00", "\x1b", "<b>"} & set(re.findall(r"[\x00\x1b]|<b>", answer.text))
    assert "<bdi>series \u202eevil\ufffd\ufffd&lt;b&gt; was never received.</bdi>" in answer.text


def test_a_clock_that_was_put_back_makes_nobody_wait_less_than_nothing(book: Ledger, tmp_path: Path) -> None:
    with_story(book, tmp_path)
    html = page(book, tmp_path, Clock(at(-3600)), destinations=(PACS,)).get("/destinations").text
    assert "for 0 s" in html


def test_a_picture_that_is_no_picture_is_not_shown(book: Ledger, tmp_path: Path) -> None:
    with_story(book, tmp_path)
    result = next(one for one in book.details(SERIES).results if one.kind is ResultKind.PICTURE)
    (tmp_path / "results" / result.path).write_bytes(b"\x00" * 200)
    assert page(book, tmp_path).get(f"/series/{SERIES}/picture-{result.id}.png").status_code == 404


def test_a_database_that_hangs_costs_a_few_threads_and_none_more(book: Ledger, tmp_path: Path) -> None:
    settings = config.parse({"node": {"state_dir": str(tmp_path)}})
    door = Door(app.desk(settings, FakeNode(), book, Clock()), answer_s=0.05)
    going_on, begun = threading.Event(), []

    def hangs(visit: Visit) -> Response:
        begun.append(visit)
        going_on.wait()
        return Response("late")

    hanging = Starlette(routes=[Route("/", door.look(hangs))])
    with TestClient(hanging, base_url="http://127.0.0.1") as browser:
        assert [browser.get("/").status_code for _ in range(THREADS + 2)] == [503] * THREADS + [429] * 2
        going_on.set()
    assert len(begun) == THREADS


def everything(browser: TestClient) -> str:
    """The text of every page that shows WHO."""
    found = [browser.get(path).text for path in ("/", "/destinations", "/series", f"/series/{SERIES}")]
    return "".join([*found, browser.post("/search", data={"text": SERIES}).text])


def test_masked_names_and_numbers_are_nowhere(book: Ledger, tmp_path: Path) -> None:
    with_story(book, tmp_path)
    html = everything(page(book, tmp_path, destinations=(PACS,)))
    assert "M*** E***" in html
    assert "***31" in html
    for secret in SECRETS:
        assert secret not in html, secret


def test_they_are_shown_where_config_says_so(book: Ledger, tmp_path: Path) -> None:
    with_story(book, tmp_path)
    html = everything(page(book, tmp_path, mask_names=False))
    for secret in ("Mustermann Erika", "PID-7755-31", "ACC-9911-42"):
        assert secret in html, secret


def test_nobody_finds_out_by_patient_id_who_was_here(book: Ledger, tmp_path: Path) -> None:
    with_story(book, tmp_path)
    (tmp_path / "users").write_text(USERS)
    browser = page(book, tmp_path, users_file=str(tmp_path / "users"))

    def found(text: str) -> bool:
        return f'href="/series/{SERIES}"' in browser.post("/search", data={"text": text}).text

    assert [found(text) for text in (WHO.patient_id, WHO.accession_number, SERIES, STUDY)] == [
        False,
        False,
        True,
        True,
    ]
    log_in(browser)
    assert [found(text) for text in (WHO.patient_id, f" {WHO.accession_number} ", "PID")] == [True, True, False]


class Shape(HTMLParser):
    """Elements and attributes of a document."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("masked", [True, False])
def test_hostile_values_are_shown_as_text(book: Ledger, tmp_path: Path, masked: bool) -> None:
    def pages_with(value: str) -> str:
        uid = f"1.2.{len(book.list_series())}"
        names = (
            "patient_id",
            "patient_name",
            "accession_number",
            "study_date",
            "modality",
            "description",
            "calling_ae",
        )
        identity = SeriesIdentity(uid, f"{uid}.1", **dict.fromkeys(names, value[:16] if masked else value))
        book.file_instances([filing(1, uid, identity=identity)], at(0))
        book.remark(book.series(uid), value, at(1))
        browser = page(book, tmp_path, mask_names=masked)
        found = "".join(browser.get(path).text for path in ("/series", f"/series/{uid}"))
        return found + browser.post("/search", data={"text": value}).text

    for value in (HOSTILE, QUOTES, TURNED, "{{ 7 * 7 }}", "\x1b[31m\x00"):
        html = pages_with(value)
        shape = Shape(html)
        assert not {"script", "iframe", "style", "object"} & set(shape.tags)
        assert not {name for name in shape.attributes if name.startswith("on")}
        assert shape.tags.count("img") == 0
        assert "<bdi>49</bdi>" not in html
        assert "\x1b" not in html
    assert "&lt;script&gt;" in everything_of(book, tmp_path, masked)


def everything_of(book: Ledger, state_dir: Path, masked: bool) -> str:
    return page(book, state_dir, mask_names=masked).get("/").text


def test_pages_of_many_series_lead_to_each_other(
    book: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE", 2)
    for number in range(5):
        receive(book, f"1.{number}", 1, at(number), study_uid=f"2.{number}")
    browser = page(book, tmp_path)

    def step(html: str, name: str) -> str:
        before = html.split(f">{name}</a>")[0]
        return browser.get(before[before.rindex('href="') + 6 : -1].replace("&amp;", "&").rstrip('"')).text

    def shown(html: str) -> list[str]:
        return [f"1.{number}" for number in range(5) if f'href="/series/1.{number}"' in html]

    first = browser.get("/series").text
    second = step(first, "Older")
    assert (shown(first), shown(second)) == (["1.3", "1.4"], ["1.1", "1.2"])
    assert shown(step(second, "Newer")) == shown(first)
    assert shown(step(first, "Oldest")) == ["1.0", "1.1"]
    assert shown(step(second, "Newest")) == shown(first)
    for odd in (
        "?older=x",
        "?older=1-",
        "?newer=99999999999999999999-1",
        "?older=1-99999999999",
        "?state=none",
        "?older=%00",
    ):
        assert browser.get(f"/series{odd}").status_code == 200, odd


def test_a_database_that_is_away_is_said(
    book: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object, **__: object) -> None:
        raise TransientError("host=db.example.org password authentication failed")

    monkeypatch.setattr(book, "counts", away)
    answer = page(book, tmp_path).get("/")
    assert (answer.status_code, "The database does not answer" in answer.text) == (503, True)
    assert "db.example.org" not in answer.text
    monkeypatch.setattr(book, "counts", lambda: 1 / 0)
    answer = page(book, tmp_path).get("/")
    assert (answer.status_code, "Traceback" in answer.text) == (500, False)
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "ZeroDivisionError" in caplog.text


def test_the_style_sheet_is_served(book: Ledger, tmp_path: Path) -> None:
    answer = page(book, tmp_path).get("/page.css")
    assert answer.headers["Content-Type"].startswith("text/css")
    assert ".skip" in answer.text
