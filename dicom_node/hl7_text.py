"""HL7 v2 in its encoding ER7 (HL7 2.5.1, 2.6 and 2.7): what separates, what is escaped, what an answer says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import hl7

from dicom_node.malformed import MALFORMED

SEPARATORS = "|^~\\&"
_ESCAPED = {"|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\", "\\": "\\E\\"}
_LINE_ENDS = re.compile(r"\r?\n(?=[A-Z][A-Z0-9]{2}\|)")
_SPECIAL = re.compile(r"[|^&~\\\x00-\x1f\x7f-\x9f\u2028\u2029]")


class NotHl7(ValueError):
    """What came is no acknowledgement."""


def escape(text: str) -> str:
    """Text as it stands in a message: separators by their letters, control characters as hexadecimal data.

    So nothing that a text holds ends a field, a segment or a block of MLLP. All else stays: MSH-18 says UTF-8.
    """
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return _SPECIAL.sub(lambda match: _ESCAPED.get(match[0]) or _hexadecimal(match[0]), clean)


def _hexadecimal(character: str) -> str:
    return f"\\X{character.encode('utf-8').hex().upper()}\\"


def components(*values: str) -> str:
    """Texts as the components of a field, without empty ones at the end."""
    return _join("^", map(escape, values))


def subcomponents(*values: str) -> str:
    """Texts as the subcomponents of a component."""
    return _join("&", map(escape, values))


def repeated(fields: Iterable[str]) -> str:
    """Encoded repetitions of a field."""
    return "~".join(fields)


def segment(name: str, fields: dict[int, str]) -> str:
    """A segment of encoded fields, by their numbers from 1."""
    return _join("|", [name, *(fields.get(number, "") for number in range(1, max(fields, default=0) + 1))])


def _join(separator: str, parts: Iterable[str]) -> str:
    return separator.join(parts).rstrip(separator)


@dataclass(frozen=True)
class Acknowledgement:
    """What an ACK says (2.9.2).

    Attributes:
        code: MSA-1 (table 0008): AA, AE, AR; CA, CE, CR.
        control_id: MSA-2, of the message that it answers.
        condition: ERR-3 (table 0357), the code alone; empty where none is given.
        text: what it says to people, on one line and bounded; from outside, of whatever content.
    """

    code: str
    control_id: str
    condition: str
    text: str


def acknowledgement(block: bytes) -> Acknowledgement:
    """Read an answer; also one whose segments end with a line feed, which many systems send (2.5.1 has CR alone).

    Raises:
        NotHl7: it is no message, or has no MSA.
    """
    try:
        text = _LINE_ENDS.sub("\r", block.decode("utf-8", "replace").strip("\r\n"))
        message = hl7.parse(text + "\r")
        answer = message.segment("MSA")
        errors = message.segments("ERR") if any(str(part[0]) == "ERR" for part in message) else []
    except (hl7.HL7Exception, *MALFORMED) as error:  # the library asserts, too
        raise NotHl7(f"no acknowledgement: {type(error).__name__}") from error
    said = [_field(answer, 3), *(_field(part, number) for part in errors for number in (3, 7, 8))]
    condition = _field(errors[0], 3) if errors else _field(answer, 6)
    words = "; ".join(dict.fromkeys(filter(None, (_one_line(text) for text in said))))
    return Acknowledgement(_field(answer, 1).upper(), _field(answer, 2), condition.partition("^")[0], words)


def _field(part: hl7.Segment, number: int) -> str:
    return str(part[number]).strip() if len(part) > number else ""


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text.replace("^", " ")).split())
