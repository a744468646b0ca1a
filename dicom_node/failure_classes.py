"""Reasons of failures in a few classes: for metrics and notifications, which must not carry the reasons themselves.

Reasons are sentences for people and may hold UIDs, paths and what a peer said. A test makes the real ones and looks
that each falls into its class; what is new falls into "other".
"""

from __future__ import annotations

import re

OTHER = "other"
CHOSEN = "another_chosen"  # what is no failure
_PATTERNS: dict[
    tuple[str, str], tuple[tuple[str, str], ...]
] = {  # subject, state → (class, pattern), first one counts
    ("job", "failed"): (
        ("interrupted", r"the node stopped while it ran"),
        ("worker_died", r"worker process died"),
        ("deadline", r"took longer than"),
        ("unexpected", r"unexpected error in the analysis"),
        ("not_recorded", r"could not be recorded"),
        ("result_check", r"^Quarantined|could not be set aside|no result can refer to it"),
        ("model_or_device", r"model package|manifest|weights|safetensors|device|network"),
    ),
    ("delivery", "failed"): (
        ("damaged_file", r"^[^:]*: (Quarantined|The result file)"),
        ("unconfirmed", r"could not be confirmed"),
        ("given_up", r"Given up after (many|\d+) attempts"),
        ("no_destination", r"has no destination"),
        ("refused", r"."),
    ),
    ("retrieval", "failed"): (("retrieval", r""),),
    ("announced", "failed"): (("notice", r""),),
    ("series", "not_analysed"): (
        (CHOSEN, r"another series of this study was chosen|was chosen"),
        ("conflict", r"conflicting"),
        ("not_analysable", r""),
    ),
    ("series", "incomplete"): (("incomplete", r""),),
}
CLASSES = {  # that may occur
    key: tuple(dict.fromkeys(name for name, _ in (*found, (OTHER, "")) if name != CHOSEN))
    for key, found in _PATTERNS.items()
}


def classify(subject: str, state: str, reason: str) -> str | None:
    """The class of a reason; None where that state of that subject is no failure of its own."""
    patterns = _PATTERNS.get((subject, state))
    if patterns is None:
        return None
    found = next((name for name, pattern in patterns if re.search(pattern, reason)), OTHER)
    return None if found == CHOSEN else found
