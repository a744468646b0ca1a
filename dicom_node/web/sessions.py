"""Who is logged in, how often it may be tried, and the tokens of forms. In memory; for any thread."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

MAX_SESSIONS = 100
LONGEST = timedelta(hours=12)  # however busy: then a password is asked for again
MAX_FAILURES = 5  # of one address
WITHIN = timedelta(minutes=15)
MAX_ADDRESSES = 10_000


@dataclass
class Session:
    """One login. `stamp` is the user's line in the users file: where that changes, the session is over."""

    user: str
    stamp: str = field(repr=False)
    began: datetime
    seen: datetime


class Sessions:
    """Sessions by key, and form tokens bound to a key.

    Args:
        lifetime: a session that is not used for so long is over.
        clock: the present, time zone aware.
    """

    def __init__(self, lifetime: timedelta, clock: Callable[[], datetime]) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._open: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, user: str, stamp: str) -> str:
        """The key of a new session; where there are too many the one not used for longest ends."""
        key, now = secrets.token_urlsafe(32), self._clock()
        with self._lock:
            self._open[key] = Session(user, stamp, now, now)
            while len(self._open) > MAX_SESSIONS:
                self._open.popitem(last=False)
        return key

    def find(self, key: str) -> Session | None:
        """The session of a key, which is used with that; None where it is over."""
        now = self._clock()
        with self._lock:
            session = self._open.get(key)
            if session is None:
                return None
            if not timedelta() <= now - session.seen < self._lifetime or now - session.began >= LONGEST:
                del self._open[key]
                return None
            session.seen = now
            self._open.move_to_end(key)
            return session

    def end(self, key: str) -> None:
        """Log out."""
        with self._lock:
            self._open.pop(key, None)

    def token(self, key: str) -> str:
        """What a form carries that was shown to this key, and nobody else can know."""
        return hmac.new(self._secret, key.encode(), hashlib.sha256).hexdigest()

    def is_token(self, key: str, token: str) -> bool:
        """Whether a form was shown to this key."""
        return bool(key) and hmac.compare_digest(self.token(key).encode(), token.encode())


class Attempts:
    """Failed logins by address; beyond MAX_FAILURES within WITHIN it has to wait."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[datetime]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, address: str) -> int:
        """Seconds until it may be tried again; 0: now."""
        now = self._clock()
        with self._lock:
            failures = self._recent(_network(address), now)
            if len(failures) < MAX_FAILURES:
                return 0
            return max(1, int((failures[0] + WITHIN - now).total_seconds()))

    def failed(self, address: str) -> int:
        """Count a failure; returns how many there were lately."""
        network, now = _network(address), self._clock()
        with self._lock:
            failures = self._recent(network, now)
            failures.append(now)
            self._failures[network] = failures
            self._failures.move_to_end(network)
            while len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)
            return len(failures)

    def succeeded(self, address: str) -> None:
        """Forget its failures."""
        with self._lock:
            self._failures.pop(_network(address), None)

    def _recent(self, network: str, now: datetime) -> deque[datetime]:
        failures = self._failures.get(network, deque())
        while failures and not timedelta() <= now - failures[0] < WITHIN:
            failures.popleft()
        return failures


def _network(address: str) -> str:
    """One machine: an IPv6 host has 2**64 addresses. A listener at "::" shows IPv4 ones as ::ffff:a.b.c.d."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network(f"{parsed}/64", strict=False))
