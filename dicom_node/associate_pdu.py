"""A-ASSOCIATE-RQ and -AC as peers write them, made into what pynetdicom reads (PS3.8 9.3.2 and 9.3.3).

pynetdicom takes a PDU whole or not at all. Here goes what a peer may write and pynetdicom does not know ("items of
unrecognized types shall be ignored and skipped", PS3.8 9.3 and D.2), and what is written badly and decides nothing:
nobody is refused for the name of his software.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_RQ, _AC = 0x01, 0x02
_HEADER = struct.Struct(">BBL")  # type, reserved, length of what follows
_ITEM = struct.Struct(">BxH")  # type, length of what follows
_TITLES = (slice(10, 26), slice(26, 42))  # called, calling
_TITLE_LENGTH = 16
_ITEMS_AT = 74
_ITEM_TYPES = frozenset({0x10, 0x20, 0x21, 0x50})
_USER_INFORMATION = 0x50
_MAXIMUM_LENGTH, _VERSION_NAME = 0x51, 0x55
_USER_ITEM_TYPES = frozenset(range(0x51, 0x5A)) - {_MAXIMUM_LENGTH, _VERSION_NAME}  # the others of PS3.7 D.3.3
_VERSION_NAME_LENGTH = 16
_USUAL_LENGTH = struct.pack(">L", 16384)  # of PDUs, for a peer that does not say: every one takes that


def readable(pdu: bytearray) -> bytearray:
    """The PDU as pynetdicom reads it; any other, and one that is broken, as it is."""
    if pdu[0] not in (_RQ, _AC) or len(pdu) < _ITEMS_AT:
        return pdu
    try:
        items = [(kind, value) for kind, value in _items(bytes(pdu[_ITEMS_AT:])) if kind in _ITEM_TYPES]
    except ValueError:
        return pdu  # what is wrong with it is told by pynetdicom
    fixed = pdu[:_ITEMS_AT]
    for place in _TITLES:  # padded with NUL by some: a title ends there
        fixed[place] = fixed[place].partition(b"\0")[0].ljust(_TITLE_LENGTH)
    variable = b"".join(_item(kind, _user(value) if kind == _USER_INFORMATION else value) for kind, value in items)
    _HEADER.pack_into(fixed, 0, pdu[0], 0, len(fixed) - _HEADER.size + len(variable))
    return fixed + variable


def _user(data: bytes) -> bytes:
    """The sub-items of the User Information; as they are where one is broken."""
    try:
        items = list(_items(data))
    except ValueError:
        return data
    told = dict(items)
    length = told.get(_MAXIMUM_LENGTH, b"")
    kept = [(_MAXIMUM_LENGTH, length if len(length) == len(_USUAL_LENGTH) else _USUAL_LENGTH)]
    kept += [(kind, value) for kind, value in items if kind in _USER_ITEM_TYPES]
    if name := _name(told.get(_VERSION_NAME, b"")):
        kept.append((_VERSION_NAME, name))
    return b"".join(_item(kind, value) for kind, value in kept)


def _name(value: bytes) -> bytes:
    """An Implementation Version Name (PS3.7 D.3.3.2.3): 1 to 16 characters of ISO 646."""
    text = value.partition(b"\0")[0].decode("ascii", "replace").replace("\ufffd", "?")
    return "".join(c for c in text if c.isprintable()).strip()[:_VERSION_NAME_LENGTH].encode("ascii")


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each item; ValueError where the last one is longer than what is there."""
    at = 0
    while at < len(data):
        if len(data) - at < _ITEM.size:
            raise ValueError("an item breaks off")
        kind, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size + length
        if at > len(data):
            raise ValueError("an item is longer than what holds it")
        yield kind, data[at - length : at]


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value
