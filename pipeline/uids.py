"""UIDs derived from what makes a result, never drawn: the same causes name the same object, in any process.

A re-analysis that could give other bytes gets other UIDs, so no UID is ever sent with two contents.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid

from pipeline import SOFTWARE_NAME, __version__, others, priors
from pipeline.types import Analysis, ModelIdentity, ResultContext, ResultKind


def is_uid(value: str) -> bool:
    """Whether a value may be a UID (PS3.5 9.1): 1 to 64 characters, components of digits joined by dots.

    Leading zeros, which the standard forbids and old devices write, are let through.
    """
    return len(value) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", value, re.ASCII) is not None


def derive(*parts: str) -> str:
    """A UID below 2.25 (PS3.5 B.2) from the SHA-256 over `parts`; ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256(json.dumps(parts).encode("ascii")).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def result_set(analysis: Analysis, context: ResultContext) -> str:
    """SHA-256 (hex) over every cause of the bytes of a result set; the start of its UIDs.

    The figures are a cause too: a device that falls back to the CPU may segment a voxel otherwise. So is
    `created`, which stands in every object: hand the time of the job, not that of the attempt.
    """
    volume, profile, predecessor = analysis.volume, context.profile, context.predecessor
    causes = {
        "source": [volume.series_uid, analysis.source_digest],
        "model": analysis.model.digest,
        "software": [SOFTWARE_NAME, __version__],
        "settings": [context.settings_digest, analysis.lungs.method],
        "profile": repr(profile),
        "revision": context.revision,
        "predecessor": predecessor.sop_instance_uid if predecessor else "",
        "superseded": [each.sop_instance_uid for each in context.superseded],
        "priors": priors.to_json(context.priors) if context.priors else None,
        "others": others.to_json(context.others),
        "statements": [context.completeness, context.created.isoformat()],
        "figures": [repr(sorted(analysis.scores.regions.items())), repr(analysis.flags)],
    }
    return hashlib.sha256(json.dumps(causes, sort_keys=True).encode("ascii")).hexdigest()


def series(analysis: Analysis, context: ResultContext, kind: ResultKind) -> str:
    """SeriesInstanceUID of an object of the set."""
    return derive("series", result_set(analysis, context), kind)


def instance(analysis: Analysis, context: ResultContext, kind: ResultKind) -> str:
    """SOPInstanceUID of an object of the set."""
    return derive("instance", result_set(analysis, context), kind)


def tracking(analysis: Analysis, context: ResultContext, subject: str) -> str:
    """TrackingUID of a subject of the set (a segment, a region of a key slice), the same in SEG and SR."""
    return derive("tracking", result_set(analysis, context), subject)


def device(model: ModelIdentity) -> str:
    """DeviceUID: changes with the software version and with every trained model (its digest)."""
    return derive("device", SOFTWARE_NAME, __version__, model.digest)


def lung_device(model: ModelIdentity, method: str) -> str:
    """DeviceUID of what segments the lungs: its method, and the model package, which may have a network for it."""
    return derive("lung device", SOFTWARE_NAME, __version__, model.digest, method)
