"""Label values of metrics that come from outside: cleaned, bounded in number, and none that could name a person."""

from __future__ import annotations

import re
from collections import Counter

OTHER = "other"
MAX_VALUES = 32
SEEN_BEFORE_SHOWN = 3  # a device has several patients: what stands in one study only is no name of a device
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 ._/+-]{1,47}")
_IDENTIFIER = re.compile(r"[0-9]{5,}|(?:[0-9]+\.){3}")


def clean(text: str) -> str:
    """The name of a device or model as a label; "other" where it is none, but an identifier, a UID or a PN."""
    words = " ".join(text.split())
    return words if _PLAIN.fullmatch(words) and not _IDENTIFIER.search(words) else OTHER


class Labels:
    """The values of one label. Shows a value from its third use on, and not more than `MAX_VALUES` of them."""

    def __init__(self) -> None:
        self._seen = Counter[str]()
        self._shown: set[str] = set()

    def of(self, text: str) -> str:
        """The label of one more use."""
        value = clean(text)
        if value == OTHER or value in self._shown:
            return value
        if len(self._seen) >= 100 * MAX_VALUES:
            self._seen.clear()  # somebody makes them up
        self._seen[value] += 1
        if self._seen[value] < SEEN_BEFORE_SHOWN or len(self._shown) >= MAX_VALUES:
            return OTHER
        self._shown.add(value)
        return value
