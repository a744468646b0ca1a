"""The status page of a running node in a real browser: by keyboard alone, without scripts, for all to read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe

from dicom_node.ledger import Ledger
from tests.fixtures.audit import read_folder
from tests.fixtures.page import PASSWORD, USERS, WHO, with_story
from tests.fixtures.samples import SERIES, at, receive
from tests.fixtures.served import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = replace(
    WHO,
    patient_name="<script>alert(1)</script>^<svg onload>",
    patient_id='"><script>alert(3)</script>',
    description="</th><script>alert(4)</script>\u202e gnp.exe",
    calling_ae="'\"<b>CT",
)
WRONG_PASSWORD = "the server responded with a status of 403"  # not a fault
NARROW = {"width": 320, "height": 640}
MANY_TABS = 60


@dataclass
class Site:
    """A node that runs, and where its page is."""

    node: Served
    url: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With a hostile patient, whose SR is lost, and a list of more than a page."""
    folder = tmp_path_factory.mktemp("site")
    state_dir = folder / "state"
    state_dir.mkdir()
    users = folder / "users"
    users.write_text(USERS)
    users.chmod(0o640)
    with closing(Ledger(f"sqlite:///{state_dir / 'ledger.sqlite'}")) as ledger:
        with_story(ledger, state_dir, HOSTILE)
        for number in range(60):
            uid = f"1.9.{number}"
            receive(ledger, uid, 1, at(-number), study_uid=f"{uid}.1")
    away = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}
    node = Served(folder, [away], web={"users_file": str(users), "mask_names": False})
    node.start()
    yield Site(node, node.page())
    assert node.stop() == 0


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Where scripts are off, as everything has to work without them. Nothing may be complained of or pop up."""
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    trouble: list[str] = []
    opened.on("dialog", lambda dialog: trouble.append(dialog.message))
    opened.on(
        "console", lambda message: trouble.append(message.text) if WRONG_PASSWORD not in message.text else None
    )
    opened.on("request", lambda asked: trouble.append(asked.url) if "127.0.0.1" not in asked.url else None)
    yield opened
    context.close()
    assert trouble == []


def focused(page: Page) -> str:
    """The words on what the keyboard is at."""
    return str(page.evaluate("(document.activeElement.innerText || document.activeElement.id || '').trim()"))


def tab_to(page: Page, words: str) -> None:
    """Press Tab until the keyboard is there."""
    for _ in range(MANY_TABS):
        page.keyboard.press("Tab")
        if focused(page) == words:
            return
    raise AssertionError(f"{words!r} cannot be reached by keyboard; the last was {focused(page)!r}")


def test_hostile_values_are_text(page: Page, site: Site) -> None:
    page.goto(f"{site.url}series/{SERIES}")
    assert page.locator("h1").inner_text() == HOSTILE.description
    assert "<script>alert(1)</script> <svg onload>" in page.locator("main").inner_text()
    assert page.locator("main script").count() == 0
    page.goto(f"{site.url}series?oldest=1")
    page.goto(site.url)
    assert page.locator("script").count() == 0


def test_retry_by_keyboard_alone_after_a_login(page: Page, site: Site) -> None:
    page.goto(f"{site.url}series/{SERIES}")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused(page) == "Log in to retry or cancel"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/login\?next="))
    tab_to(page, "user")
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type("wrong password")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    tab_to(page, "user")
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/series/{SERIES}")
    tab_to(page, "Retry")
    page.keyboard.press("Enter")
    page.get_by_text("ada asked for retry at the status page").wait_for()
    tab_to(page, "Log out")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Log in", exact=True).wait_for()


def test_a_patient_is_found_by_a_form(page: Page, site: Site) -> None:
    page.goto(f"{site.url}series")
    page.get_by_label("Patient ID, accession number, study or series UID").fill(HOSTILE.patient_id)
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()
    assert page.locator("tbody tr").count() == 1
    assert HOSTILE.patient_id not in page.url


def test_the_list_is_paged_by_keyboard(page: Page, site: Site) -> None:
    def first() -> str:
        return page.locator("tbody a").first.get_attribute("href") or ""

    page.goto(f"{site.url}series")
    newest = first()
    page.get_by_role("link", name="Older").press("Enter")
    page.wait_for_url(re.compile("older="))
    assert first() != newest
    page.get_by_role("link", name="Newest").press("Enter")
    page.wait_for_url(re.compile("series$"))
    assert first() == newest
    page.get_by_label("State", exact=True).select_option("receiving")
    page.get_by_role("button", name="Show").press("Enter")
    page.wait_for_url(re.compile("state=receiving$"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_from_reading_it(browser: Browser, site: Site, scheme: str) -> None:
    """WCAG 2.2 A and AA as far as axe-core can tell, and no scrolling sideways at 320 px (1.4.10)."""
    context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light", viewport=NARROW)
    page = context.new_page()
    found = {}
    for path in ("", "destinations", "series", f"series/{SERIES}", "login", "nowhere"):
        page.goto(f"{site.url}{path}")
        results = Axe().run(page)
        found[path] = [
            (violation["id"], violation["nodes"][0]["html"]) for violation in results.response["violations"]
        ]
        if page.evaluate("document.documentElement.scrollWidth") > NARROW["width"]:
            found[path].append(("scrolls sideways", path))
    context.close()
    assert found == dict.fromkeys(found, [])


def test_monitoring_is_answered(site: Site) -> None:
    answer = httpx.get(f"{site.url}healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


def test_the_audit_trail_has_every_login_and_action(site: Site) -> None:
    """Of the test by keyboard above; the last of these tests, as it stops the node."""
    assert site.node.stop() == 0
    messages = read_folder(site.node.state_dir / "audit")
    told = [
        (message.id, message.type, message.outcome) for message in messages if message.id in {"110114", "110111"}
    ]
    assert told == [
        ("110114", "110122", "4"),
        ("110114", "110122", "0"),
        ("110111", None, "0"),
        ("110114", "110123", "0"),
    ]
    assert PASSWORD not in "".join(message.text for message in messages)
    assert PASSWORD not in "".join(site.node.log)
