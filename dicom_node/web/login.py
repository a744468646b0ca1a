"""GET and POST /login, POST /logout. Each success and failure is in the audit trail."""

from __future__ import annotations

import re
import secrets

from starlette.responses import RedirectResponse, Response

from dicom_node import audit_events
from dicom_node.audit_message import Node
from dicom_node.web.door import Visit, cookie_name, set_cookie
from dicom_node.web.passwords import NAME, NOBODY, fits, read_users
from dicom_node.web.sessions import MAX_FAILURES

PAGES = r"/(series(/[0-9.]{1,64})?|destinations)?"
FORM = "-form"  # end of the name of its cookie
WRONG = "Name or password is wrong."


def form(visit: Visit, status: int = 200, wrong: str = "") -> Response:
    """The form. Its token is bound to a cookie of its own: there is no session yet."""
    if visit.desk.config.web.users_file is None:
        text = "There is no login on this node: `dicomnode web-password NAME` makes one, for web.users_file."
        return visit.message(404, "No login", text)
    if visit.session is not None:
        return RedirectResponse("/", 303)
    key = secrets.token_urlsafe(32)
    wanted = visit.form.get("next") or visit.request.query_params.get("next", "")
    token = visit.desk.sessions.token(key)
    response = visit.page("login.html", status, form_token=token, next=_page(wanted), wrong=wrong)
    set_cookie(response, visit.request.url, key, FORM)
    return response


def submit(visit: Visit) -> Response:
    """Log in, or say that it did not work."""
    desk, path = visit.desk, visit.desk.config.web.users_file
    if path is None:
        return form(visit)
    key = visit.request.cookies.get(cookie_name(visit.request.url, FORM), "")
    if not desk.sessions.is_token(key, visit.form.get("token", "")):
        return form(visit, 403, "The form was too old, or cookies are switched off. Please try again.")
    user, password = visit.form.get("user", "").strip(), visit.form.get("password", "")
    wait_s = desk.attempts.wait_s(visit.address)
    if wait_s:
        return form(visit, 429, f"Too many attempts: please wait {wait_s // 60 + 1} min.")
    users = read_users(path)
    failures = desk.attempts.failed(visit.address)  # counted before: several at once gain nothing
    hashed = users.get(user, NOBODY)
    if not fits(password, hashed) or user not in users:
        named = user if re.fullmatch(NAME, user) else "not a name"  # a password may have been typed there
        _tell_failure(visit, named, failures)
        return form(visit, 403, WRONG)
    desk.attempts.succeeded(visit.address)
    response = RedirectResponse(_page(visit.form.get("next", "")), 303)
    set_cookie(response, visit.request.url, desk.sessions.begin(user, hashed))
    audit_events.report(audit_events.LoggedIn(_person(visit, user)))
    return response


def leave(visit: Visit) -> Response:
    """Log out."""
    visit.desk.sessions.end(visit.key)
    if visit.session is not None:
        audit_events.report(audit_events.LoggedOut(_person(visit, visit.session.user)))
    response = RedirectResponse("/", 303)
    set_cookie(response, visit.request.url, "")
    return response


def _tell_failure(visit: Visit, user: str, failures: int) -> None:
    person = _person(visit, user)
    audit_events.report(audit_events.LoggedIn(person, "name or password is wrong"))
    if failures >= MAX_FAILURES:
        audit_events.report(audit_events.TurnedAway(person, f"{failures} failed logins at the status page"))


def _person(visit: Visit, user: str) -> Node:
    return Node(user, address=visit.address)


def _page(wanted: str) -> str:
    """Where to go after a login: one of our own pages."""
    return wanted if re.fullmatch(PAGES, wanted) else "/"
