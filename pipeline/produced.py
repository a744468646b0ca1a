"""Which SOP classes a result set has, and how its objects are encoded: for whoever has to ask a peer about them."""

from __future__ import annotations

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from pipeline.types import Profile, ResultKind

LABELMAP = UID("1.2.840.10008.5.1.4.1.1.66.7")  # Label Map Segmentation Storage
TRANSFER_SYNTAX = ExplicitVRLittleEndian


def sop_classes(profile: Profile) -> dict[ResultKind, UID]:
    """What a profile sends; a healthy patient has no SEG of lesions, a first result no rejection note."""
    made: dict[ResultKind, UID] = {}
    if profile.seg != "NONE":
        segmentation = SegmentationStorage if profile.seg == "BINARY" else LABELMAP
        made[ResultKind.LESIONS] = segmentation
        if profile.lungs_seg:
            made[ResultKind.LUNGS] = segmentation
    if profile.picture:
        made[ResultKind.PICTURE] = SecondaryCaptureImageStorage
    if profile.slice_pictures:
        made[ResultKind.SLICES] = MultiFrameTrueColorSecondaryCaptureImageStorage
    if profile.pdf:
        made[ResultKind.DOCUMENT] = EncapsulatedPDFStorage
    made[ResultKind.SR] = Comprehensive3DSRStorage
    if profile.rejection_note:
        made[ResultKind.REJECTION] = KeyObjectSelectionDocumentStorage
    return made
