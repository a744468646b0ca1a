"""SOP classes and transfer syntaxes that the receiver takes; the conformance statement is made from them."""

from __future__ import annotations

from pydicom.uid import (
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]

KEPT_SOP_CLASSES: tuple[UID, ...] = (CTImageStorage, EnhancedCTImageStorage)

# In the order of our preference, where a peer proposes several in one context: what needs no decoder first.
TRANSFER_SYNTAXES: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGLSLossless,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEG2000Lossless,
    RLELossless,
    JPEGLSNearLossless,
    JPEG2000,
)
MESSAGE_TRANSFER_SYNTAXES: tuple[UID, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def supported_contexts(ignore_other_modalities: bool, commitment_reports: bool) -> list[PresentationContext]:
    """The presentation contexts that peers may propose.

    Args:
        ignore_other_modalities: accept every storage class of the standard; the receiver keeps CT only.
        commitment_reports: accept Storage Commitment, for the N-EVENT-REPORT of a PACS that calls back.
    """
    contexts = [build_context(Verification, list(MESSAGE_TRANSFER_SYNTAXES))]
    classes = list(KEPT_SOP_CLASSES)
    if ignore_other_modalities:
        classes += [
            context.abstract_syntax for context in AllStoragePresentationContexts if context.abstract_syntax
        ]
    contexts += [build_context(sop_class, list(TRANSFER_SYNTAXES)) for sop_class in dict.fromkeys(classes)]
    if commitment_reports:
        commitment = build_context(StorageCommitmentPushModel, list(MESSAGE_TRANSFER_SYNTAXES))
        # The peer requests the association and yet is the provider of the service: it proposes the SCP role for
        # itself (PS3.7 D.3.3.4), which is agreed to. One that proposes no role is accepted too.
        commitment.scu_role = False
        commitment.scp_role = True
        contexts.append(commitment)
    return contexts
