"""Keeps an instance, however it came: by a C-STORE to the receiver, or on an association of our own (C-GET).

The data set goes to the spool as it came; only its head is looked at. Success means that it is durable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_STORE

from dicom_node.association_server import Answer
from dicom_node.errors import LowDisk, NotParsable
from dicom_node.instance_check import Instance, Mismatch, check, identify
from dicom_node.part10 import FileMeta
from dicom_node.spool import Spool
from dicom_node.supported import KEPT_SOP_CLASSES
from dicom_node.upper_layer import Discarded

LOGGER = logging.getLogger(__name__)

# C-STORE status (PS3.4 B.2.3)
SUCCESS = 0x0000
SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
DATA_SET_DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
COMMENT_LENGTH = 64  # VR LO


@dataclass(frozen=True)
class Sender:
    """Who an instance comes from; `name` is for our log."""

    name: str
    calling_ae: str
    host: str


class Intake:
    """The way into the spool.

    Args:
        spool: takes the instances.
        on_stored: called with each file, once it is durable and before its sender is answered; must not raise.
        ignore_others: what is no CT is answered with success, and not kept; otherwise it is refused.
    """

    def __init__(self, spool: Spool, on_stored: Callable[[Path], None], ignore_others: bool = False) -> None:
        self._spool = spool
        self._on_stored = on_stored
        self._ignore_others = ignore_others

    def keep(
        self,
        request: C_STORE,
        sop_class: UID,
        transfer_syntax: UID,
        sender: Sender,
        on_instance: Callable[[Instance], None] = lambda _instance: None,
    ) -> Answer:
        """Keep an instance, and say how to answer; raises nothing.

        Args:
            request: with the data set.
            sop_class: abstract syntax of the presentation context.
            transfer_syntax: the one agreed for it.
            sender: noted in the file.
            on_instance: told which instance it is, before it is written.
        """
        try:
            answer = self._keep(request, sop_class, transfer_syntax, sender, on_instance)
        except Mismatch as error:
            answer = failure(DATA_SET_DOES_NOT_MATCH, str(error))
        except NotParsable as error:
            answer = failure(CANNOT_UNDERSTAND, str(error))
        except LowDisk as error:
            answer = failure(OUT_OF_RESOURCES, str(error))
        except OSError as error:
            answer = failure(OUT_OF_RESOURCES, f"cannot be stored: {error.strerror}")
        if answer.status != SUCCESS:
            LOGGER.warning("%s: instance refused, %04X: %s", sender.name, answer.status, answer.comment)
        return answer

    def _keep(
        self,
        request: C_STORE,
        sop_class: UID,
        transfer_syntax: UID,
        sender: Sender,
        on_instance: Callable[[Instance], None],
    ) -> Answer:
        if request.AffectedSOPClassUID != sop_class:
            return failure(SOP_CLASS_NOT_SUPPORTED, "SOP class is not that of the presentation context")
        if sop_class not in KEPT_SOP_CLASSES:
            unasked = failure(SOP_CLASS_NOT_SUPPORTED, "this was not asked for")
            return Answer(SUCCESS) if self._ignore_others else unasked
        if request.DataSet is None:
            return failure(CANNOT_UNDERSTAND, "there is no data set")
        if isinstance(request.DataSet, Discarded):
            return failure(OUT_OF_RESOURCES, request.DataSet.reason)
        instance = identify(request.DataSet, transfer_syntax)
        check(instance, str(sop_class), str(request.AffectedSOPInstanceUID))
        on_instance(instance)
        meta = FileMeta(sop_class, instance.sop_instance_uid, transfer_syntax, sender.calling_ae, sender.host)
        with request.DataSet.getbuffer() as data:
            path = self._spool.write(meta, data)
        self._on_stored(path)
        return Answer(SUCCESS)


def failure(status: int, comment: str) -> Answer:
    """Why an instance is not kept; the comment is cut to what an Error Comment holds."""
    return Answer(status, comment[:COMMENT_LENGTH])
