"""Whose series it is, as the page may show it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from unicodedata import east_asian_width

from dicom_node.ledger_records import SeriesIdentity

STARS = "***"
LONG = 6  # of identifiers so long the last two characters are shown: enough to tell two patients apart
SHORTEST = 3  # shorter values are not looked for in texts, but for names of two letters


def mask_name(name: str) -> str:
    """ "Doe^John" → "D*** J***". Initials only of alphabets; one sign of another script may be a whole name."""
    group = next((group for group in name.split("=") if group.strip("^ ")), "")
    parts = [part for part in group.replace("^", " ").split() if part]
    return " ".join(f"{part[0] if part[0].upper() != part[0].lower() else ''}{STARS}" for part in parts[:2])


def mask_identifier(value: str) -> str:
    """Stars, and the last two characters of a long one."""
    text = value.strip()
    if not text:
        return ""
    return f"{STARS}{text[-2:]}" if len(text) >= LONG else STARS


def _traces(secret: str) -> str:
    """Pattern of a value in a text, in upper and lower case: a short one may be a part of an innocent word."""
    text = re.escape(secret)
    if len(secret) >= LONG:
        return f"(?i:{text})"
    word = rf"(?i:(?<![^\W_]){text}(?![^\W_]))"  # "_" parts words here
    if len(secret) >= SHORTEST:
        return f"{word}|{text}"
    if len(secret) != 2 or not secret.isalpha():
        return ""
    return text if _is_wide(secret) else word


def _is_wide(text: str) -> bool:
    """Whether it is of signs that are written without spaces; a Latin name may make up another word ("An^d")."""
    return all(east_asian_width(sign) in "WFH" for sign in text)  # H: katakana of half width


@dataclass(frozen=True)
class Mask:
    """How patients are shown; `enabled` as web.mask_names says."""

    enabled: bool

    def name(self, value: str) -> str:
        """PatientName."""
        return mask_name(value) if self.enabled else value.replace("^", " ").split("=")[0].strip()

    def identifier(self, value: str) -> str:
        """PatientID or AccessionNumber."""
        return mask_identifier(value) if self.enabled else value

    def text(self, value: str, identity: SeriesIdentity) -> str:
        """A text of somebody else (description, reason) without what tells whose series it is."""
        if not self.enabled:
            return value
        groups = identity.patient_name.split("=")
        parts = [group.split("^") for group in groups]
        names = [identity.patient_name, *groups, *(part for group in parts for part in group)]
        joined = ("".join(part.strip() for part in group[:2]) for group in parts)
        names += [name for name in joined if _is_wide(name)]  # as Chinese, Japanese, Korean has it
        secrets = {identity.patient_id, identity.accession_number, *names}
        for secret in sorted({secret.strip() for secret in secrets}, key=len, reverse=True):
            if pattern := _traces(secret):
                value = re.sub(pattern, STARS, value)
        return value
