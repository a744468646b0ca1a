"""Login, retry and cancel: who may, what is refused, and that the audit trail and the ledger say who it was."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dicom_node import audit_events
from dicom_node.ledger import Ledger
from dicom_node.states import SeriesState
from dicom_node.web.sessions import MAX_FAILURES, WITHIN
from tests.fixtures.page import USERS, Clock, log_in, page, token
from tests.fixtures.samples import SERIES, analysed, at

ACTION = f"/series/{SERIES}/retry"
CANCEL = f"/series/{SERIES}/cancel"


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the audit trail is told."""
    events: list[Any] = []
    monkeypatch.setattr(audit_events, "report", events.append)
    return events


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"# who may\n\n{USERS}")
    return path


@pytest.fixture
def browser(book: Ledger, tmp_path: Path, clock: Clock, users: Path) -> TestClient:
    """At the page of a node with one failed series."""
    analysed(book)
    for delivery in book.due_deliveries("pacs", at(1)):
        book.delivery_failed(delivery.id, at(2), "refused")
    return page(book, tmp_path, clock, users_file=str(users))


def state(ledger: Ledger) -> SeriesState:
    return ledger.series(SERIES).state


def story_token(browser: TestClient) -> str:
    return token(browser.get(f"/series/{SERIES}").text.split('class="actions"')[1])


def test_without_a_login_there_is_nothing_to_press_and_nothing_happens(book: Ledger, browser: TestClient) -> None:
    html = browser.get(f"/series/{SERIES}").text
    assert "<button" not in html
    assert f"/login?next=/series/{SERIES}" in html
    for path in (ACTION, CANCEL):
        answer = browser.post(path, data={"token": "0" * 64}, follow_redirects=False)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert state(book) is SeriesState.FAILED


def test_retry_after_a_login(book: Ledger, browser: TestClient, reported: list[Any]) -> None:
    answer = log_in(browser, next=f"/series/{SERIES}")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/series/{SERIES}")
    answer = browser.post(ACTION, data={"token": story_token(browser)}, follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/series/{SERIES}")
    assert state(book) is SeriesState.RECEIVING  # the files of its results are not there: analysed again
    assert "ada asked for retry at the status page" in [event.reason for event in book.details(SERIES).events]
    entered, acted = reported
    assert (entered.person.user_id, entered.person.address, entered.failure) == ("ada", "127.0.0.1", "")
    assert (acted.person.user_id, acted.action, acted.study.patient_id, acted.failure) == ("ada", "retry", "P1", "")


def test_cancel_after_a_login_and_a_retry_that_the_ledger_refuses(
    book: Ledger, browser: TestClient, reported: list[Any]
) -> None:
    log_in(browser)
    sent = story_token(browser)
    browser.post(CANCEL, data={"token": sent})
    assert state(book) is SeriesState.CANCELLED
    answer = browser.post(CANCEL, data={"token": sent})
    assert (answer.status_code, "there is nothing left to cancel" in answer.text) == (409, True)
    assert reported[-1].failure
    assert browser.post("/series/1.9.9/retry", data={"token": sent}).status_code == 404


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ({}, {}),
        ({"token": ""}, {}),
        ({"token": "0" * 64}, {}),
        ({"token": "\u00e4"}, {}),
        (None, {"Origin": "https://evil.example"}),
        (None, {"Origin": "null"}),
        (None, {"Sec-Fetch-Site": "cross-site"}),
        (None, {"Sec-Fetch-Site": "same-site"}),
    ],
)
def test_forms_of_others_do_nothing(
    book: Ledger, browser: TestClient, form: dict[str, str] | None, headers: dict[str, str]
) -> None:
    log_in(browser)
    sent = {"token": story_token(browser)} if form is None else form
    answer = browser.post(ACTION, data=sent, headers=headers)
    assert answer.status_code == 403
    assert state(book) is SeriesState.FAILED


def test_a_token_of_another_login_does_nothing(
    book: Ledger, browser: TestClient, tmp_path: Path, users: Path
) -> None:
    log_in(browser)
    theirs = story_token(browser)
    browser.cookies.clear()
    log_in(browser)
    assert browser.post(ACTION, data={"token": theirs}).status_code == 403
    assert state(book) is SeriesState.FAILED
    assert browser.get(ACTION).status_code == 404
    assert state(book) is SeriesState.FAILED


def test_a_long_form_and_one_that_is_none_are_refused(browser: TestClient) -> None:
    log_in(browser)
    assert browser.post(ACTION, content=b"token=" + b"a" * 10_000).status_code == 413
    assert browser.post(ACTION, content=b"\xff\xfe").status_code == 400
    assert browser.post(ACTION, content=b"&a=" * 100).status_code == 400


def test_the_cookie_is_for_this_page_alone(browser: TestClient, book: Ledger, tmp_path: Path, users: Path) -> None:
    cookie = log_in(browser).headers["Set-Cookie"].lower()
    for part in ("dicomnode=", "httponly", "samesite=strict", "path=/"):
        assert part in cookie
    assert "secure" not in cookie
    files = {"tls_certificate": "/page.pem", "tls_key": "/page.key"}
    secure = page(book, tmp_path, users_file=str(users), tls=True, **files)
    answer = log_in(secure)
    assert answer.headers["Set-Cookie"].startswith("__Host-dicomnode=")
    assert "; Secure" in answer.headers["Set-Cookie"]
    assert "Strict-Transport-Security" in answer.headers


def test_wrong_passwords_are_counted_and_then_it_has_to_wait(
    browser: TestClient, clock: Clock, reported: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(MAX_FAILURES):
        answer = log_in(browser, user="ada" if number % 2 else "nobody", password="wrong")
        assert (answer.status_code, "Name or password is wrong." in answer.text) == (403, True)
    answer = log_in(browser)
    assert (answer.status_code, "Too many attempts" in answer.text) == (429, True)
    names = [type(event).__name__ for event in reported]
    assert names == ["LoggedIn"] * MAX_FAILURES + ["TurnedAway"]
    assert {event.failure for event in reported[:-1]} == {"name or password is wrong"}
    assert f"{MAX_FAILURES} failed logins" in reported[-1].reason
    clock.now += WITHIN
    assert log_in(browser).status_code == 303


def test_a_password_that_was_typed_as_name_is_in_no_record(browser: TestClient, reported: list[Any]) -> None:
    answer = log_in(browser, user="correct horse battery", password="x")
    assert answer.status_code == 403
    assert "correct horse battery" not in answer.text
    assert reported[0].person.user_id == "not a name"


def test_a_login_needs_the_form_that_was_shown(browser: TestClient, reported: list[Any]) -> None:
    form = {"user": "ada", "password": "correct horse battery", "token": token(browser.get("/login").text)}
    browser.cookies.clear()
    assert browser.post("/login", data=form, follow_redirects=False).status_code == 403
    assert reported == []


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example", "/\\evil.example", "/series/../x", "x"]
)
def test_after_a_login_only_own_pages_follow(browser: TestClient, wanted: str) -> None:
    assert log_in(browser, next=wanted).headers["Location"] == "/"


def test_a_login_ends_by_time_by_logout_and_with_its_user(
    browser: TestClient, clock: Clock, users: Path, reported: list[Any]
) -> None:
    def logged_in() -> bool:
        return "Logged in as" in browser.get("/").text

    log_in(browser)
    for _ in range(3):
        clock.now += timedelta(minutes=29)
        assert logged_in()
    clock.now += timedelta(minutes=31)
    assert not logged_in()
    log_in(browser)
    browser.post("/logout", data={"token": token(browser.get("/").text)})
    assert not logged_in()
    assert type(reported[-1]).__name__ == "LoggedOut"
    log_in(browser)
    for _ in range(30):
        clock.now += timedelta(minutes=25)
        logged_in()
    assert not logged_in()  # however busy: twelve hours at most
    log_in(browser)
    users.write_text(USERS.replace("ada", "grace"))
    assert not logged_in()
    users.unlink()
    answer = log_in(browser)
    assert answer.status_code == 503


@pytest.mark.parametrize("damage", ["bob:oops\n", None])
def test_a_users_file_that_cannot_be_used_is_not_said_to_be_the_database(
    browser: TestClient, users: Path, caplog: pytest.LogCaptureFixture, damage: str | None
) -> None:
    users.unlink() if damage is None else users.write_text(USERS + damage)
    answer = log_in(browser)
    assert (answer.status_code, "web.users_file" in answer.text) == (503, True)
    assert "database" not in answer.text
    assert str(users) not in answer.text
    assert str(users) in caplog.text


def test_with_login_always_nothing_is_shown_before(book: Ledger, tmp_path: Path, users: Path) -> None:
    browser = page(book, tmp_path, users_file=str(users), login="always")
    for path in ("/", "/destinations", "/series", f"/series/{SERIES}"):
        answer = browser.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["Location"].split("?")[0]) == (303, "/login")
    assert browser.post("/search", data={"text": SERIES}, follow_redirects=False).status_code == 303
    assert browser.get("/healthz").status_code == 200
    assert "A login is needed to see anything here." in browser.get("/login").text
    log_in(browser)
    assert "<h1>Today</h1>" in browser.get("/").text


def test_who_comes_through_a_proxy_is_not_on_this_machine(book: Ledger, tmp_path: Path, users: Path) -> None:
    forwarded = {"X-Forwarded-For": "192.0.2.9"}
    browser = page(book, tmp_path, users_file=str(users))
    answer = browser.get("/", headers=forwarded, follow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login?next=/")
    without = page(book, tmp_path).get("/", headers=forwarded)
    assert (without.status_code, "no login on this node" in without.text) == (403, True)


def test_where_there_are_no_users_there_is_no_login(book: Ledger, tmp_path: Path) -> None:
    browser = page(book, tmp_path)
    assert "/login" not in browser.get("/").text
    assert browser.get("/login").status_code == 404
    assert browser.post("/login", data={"user": "ada", "password": "x"}).status_code == 404
