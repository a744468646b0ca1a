"""What every request goes through: who asks, what is allowed, in which thread it is answered, how errors look.

A view is a plain function of a `Visit`; it runs in one of a few threads, so that the page never takes more of the
machine than those.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote

from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from dicom_node.config import Config
from dicom_node.errors import ConfigError, IllegalTransition, NodeError, NotFound
from dicom_node.health import Watched
from dicom_node.ledger import Ledger
from dicom_node.web.masking import Mask
from dicom_node.web.passwords import read_users
from dicom_node.web.places import NoPlaceError, Places
from dicom_node.web.render import Renderer
from dicom_node.web.sessions import Attempts, Session, Sessions

LOGGER = logging.getLogger(__name__)
THREADS = 4
ANSWER_S = 30.0
MAX_FORM_BYTES = 8192
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Desk:
    """What the views work with."""

    config: Config
    node: Watched
    ledger: Ledger
    clock: Callable[[], datetime]
    sessions: Sessions
    attempts: Attempts
    mask: Mask
    render: Renderer


@dataclass(frozen=True)
class Visit:
    """One request, its form read, and who makes it.

    Attributes:
        key: of the session, from the cookie; it may be anything.
        session: None for somebody who is not logged in.
    """

    desk: Desk
    request: Request
    key: str
    session: Session | None
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where it comes from."""
        return self.request.client.host if self.request.client else ""

    @property
    def may_search_patients(self) -> bool:
        """Where names are masked, nobody without a login may find out whether somebody was here."""
        return self.session is not None or not self.desk.mask.enabled

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """The answer, with what all pages show."""
        token = self.desk.sessions.token(self.key) if self.session else ""
        user = self.session.user if self.session else ""
        path = self.request.url.path
        return HTMLResponse(
            self.desk.render(template, visit=self, token=token, user=user, path=path, **values), status
        )

    def message(self, status: int, title: str, text: str) -> HTMLResponse:
        """A page that only says something."""
        return self.page("message.html", status, title=title, text=text)


View = Callable[[Visit], Response]


class Door:
    """Makes endpoints of views."""

    def __init__(self, desk: Desk, answer_s: float = ANSWER_S) -> None:
        self._desk = desk
        self._answer_s = answer_s
        self._places = Places(THREADS, answer_s)

    def look(self, view: View) -> Endpoint:
        """A page to read: for everybody, or after a login, as web.login says."""

        async def endpoint(request: Request) -> Response:
            visit = self._visit(request)
            return self._to_login(visit) or await self._answer(view, visit)

        return endpoint

    def ask(self, view: View) -> Endpoint:
        """A form that changes nothing (search): as `look`, with a body."""

        async def endpoint(request: Request) -> Response:
            visit, refusal = await self._visit_with_form(request)
            return refusal or self._to_login(visit) or await self._answer(view, visit)

        return endpoint

    def enter(self, view: View) -> Endpoint:
        """A page for those who are not logged in yet."""

        async def endpoint(request: Request) -> Response:
            refusal = None
            visit = self._visit(request)
            if request.method == "POST":
                visit, refusal = await self._visit_with_form(request)
            return refusal or await self._answer(view, visit)

        return endpoint

    def act(self, view: View) -> Endpoint:
        """A form that changes something: only after a login, and only from a page that was shown to it."""

        async def endpoint(request: Request) -> Response:
            visit, refusal = await self._visit_with_form(request)
            if refusal is None and visit.session is None:
                refusal = self._login(visit)
            if refusal is None and not self._desk.sessions.is_token(visit.key, visit.form.get("token", "")):
                refusal = visit.message(
                    403, "Not done", "The form was not one of this login. Go back and try again."
                )
            return refusal or await self._answer(view, visit)

        return endpoint

    async def _answer(self, view: View, visit: Visit) -> Response:
        try:
            return await self._places.run(partial(_guarded, view, visit))
        except TimeoutError:
            return visit.message(503, "No answer", f"The database has not answered for {self._answer_s:g} s.")
        except NoPlaceError:
            return visit.message(429, "Busy", "Earlier requests still wait for the database. Try again later.")

    def _visit(self, request: Request, form: Mapping[str, str] | None = None) -> Visit:
        key = request.cookies.get(cookie_name(request.url), "")
        session = self._desk.sessions.find(key) if key else None
        if session is not None and not self._still_a_user(session):
            self._desk.sessions.end(key)
            session = None
        return Visit(self._desk, request, key, session, form or {})

    def _still_a_user(self, session: Session) -> bool:
        path = self._desk.config.web.users_file
        try:
            return path is not None and read_users(path).get(session.user) == session.stamp
        except ConfigError:
            return False

    async def _visit_with_form(self, request: Request) -> tuple[Visit, Response | None]:
        visit = self._visit(request)
        if not _is_own_form(request):
            return visit, visit.message(403, "Not done", "The form came from another page than this node's.")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM_BYTES:
                return visit, visit.message(413, "Not done", "The form is too long.")
        try:
            fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="replace")
        except (UnicodeDecodeError, ValueError):
            return visit, visit.message(400, "Not done", "The form cannot be read.")
        return self._visit(request, {name: values[0] for name, values in fields.items()}), None

    def _to_login(self, visit: Visit) -> Response | None:
        """Where the page may not be read without a login."""
        section = self._desk.config.web
        forwarded = any(name in visit.request.headers for name in FORWARDED)
        if visit.session is not None or (section.login == "actions" and not forwarded):
            return None
        return self._login(visit)

    def _login(self, visit: Visit) -> Response:
        if self._desk.config.web.users_file is None:
            text = "There is no login on this node: `dicomnode web-password NAME` makes one, for web.users_file."
            return visit.message(403, "Only with a login", text)
        back = visit.request.url.path if visit.request.method == "GET" else ""
        return RedirectResponse(f"/login?next={quote(back)}" if back else "/login", 303)


def _guarded(view: View, visit: Visit) -> Response:
    """The answer of a view, or the page that says why there is none."""
    try:
        return view(visit)
    except NotFound as error:
        return visit.message(404, "Not here", f"{error}.")
    except IllegalTransition as error:
        return visit.message(409, "Not done", f"{error}.")
    except ConfigError as error:
        LOGGER.error("%s cannot be answered: %s", visit.request.url.path, error)
        text = "The file of users (web.users_file) cannot be used: log and `dicomnode check` say why."
        return visit.message(503, "Nobody can log in", text)
    except (NodeError, SQLAlchemyError) as error:
        LOGGER.error("%s cannot be answered: %s", visit.request.url.path, error)
        return visit.message(503, "No answer", "The database does not answer. The log of the node says why.")
    except Exception:  # the border of the page: whatever it is, it is said and the next request is answered
        LOGGER.exception("%s cannot be answered", visit.request.url.path)
        return visit.message(500, "No answer", "This should not happen. The log of the node says more.")


def _is_own_form(request: Request) -> bool:
    """Whether the browser says that the form was on a page of ours; old ones say nothing."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    own = origin is None or origin.partition("://")[2] == request.headers.get("host")
    return own and site in {"same-origin", "none"}


def cookie_name(url: URL, end: str = "") -> str:
    """With TLS a name that browsers keep only for this host, as a whole and encrypted (RFC 6265bis 4.1.3.2)."""
    return f"__Host-dicomnode{end}" if url.scheme == "https" else f"dicomnode{end}"


def set_cookie(response: Response, url: URL, value: str, end: str = "") -> None:
    """The key of a session or of a form; the browser forgets it when it is closed."""
    secure = url.scheme == "https"
    response.set_cookie(cookie_name(url, end), value, path="/", secure=secure, httponly=True, samesite="strict")
