"""Who may log in: lines of "name:hash", the hash by Argon2id in the PHC string format (RFC 9106)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from dicom_node.config_base import TEXT, locate
from dicom_node.errors import ConfigError

MIN_LENGTH = 12
MAX_LENGTH = 1024
NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
# OWASP's first choice for Argon2id: 19 MiB, two passes, one lane
MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1
_HASH = re.compile(r"\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,3}),p=(\d{1,2})\$[A-Za-z0-9+/]{11,}\$[A-Za-z0-9+/]{20,}")
MAX_MEMORY_KIB = 1 << 20


def line(name: str, password: str) -> str:
    """A line for the users file.

    Raises:
        ConfigError: name or password will not do.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError("a user's name has 1 to 64 characters of A-Z, a-z, 0-9, and . _ @ - within")
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ConfigError(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters")
    salted = Argon2id(salt=os.urandom(16), length=32, iterations=PASSES, lanes=LANES, memory_cost=MEMORY_KIB)
    return f"{name}:{salted.derive_phc_encoded(password.encode())}"


def read_users(path: Path) -> Mapping[str, str]:
    """Hashes by name; empty lines and those that begin with # are left out.

    Raises:
        ConfigError: it cannot be read, or a line is not of that form; says which, and nothing of what it holds.
    """
    try:
        lines = locate(path).read_text(encoding=TEXT).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path} cannot be read: {reason}") from None
    users = {}
    for number, text in enumerate(lines, 1):
        entry = text.strip()
        if not entry or entry.startswith("#"):
            continue
        name, _, hashed = entry.partition(":")
        if not re.fullmatch(NAME, name) or not _usable(hashed):
            raise ConfigError(f"{path} line {number} is not one that `dicomnode web-password NAME` has made")
        users[name] = hashed
    if not users:
        raise ConfigError(f"{path} names no user: add a line from `dicomnode web-password NAME`")
    return users


def fits(password: str, hashed: str) -> bool:
    """Whether it is that password. Takes its time, on purpose."""
    try:
        Argon2id.verify_phc_encoded(password[:MAX_LENGTH].encode("utf-8", "replace"), hashed)
    except InvalidKey:
        return False
    return True


def _usable(hashed: str) -> bool:
    found = _HASH.fullmatch(hashed)
    return found is not None and int(found[1]) <= MAX_MEMORY_KIB


# What is compared with where the name is unknown, so that the time tells nothing. Nobody knows its password.
NOBODY = Argon2id(
    salt=os.urandom(16), length=32, iterations=PASSES, lanes=LANES, memory_cost=MEMORY_KIB
).derive_phc_encoded(os.urandom(32))
