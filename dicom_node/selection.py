"""Which series of a study is analysed, and why not each of the others. Pure rules over what the ledger holds.

Candidates are whole, axial, not known to be of another body part, and not turned down by the pipeline. They are
compared criterion by criterion; the first that differs decides, and is the reason told for the one that loses:

1. a person asked for it
2. a tag names the chest, and it is not the series of another part of a study that holds the chest too
3. it covers the lungs: at least 90 % of the longest candidate, and what exceeds 250 mm does not count
4. not in expiration, which makes lungs small and dense
5. kernel: soft or medium before unknown before sharp. Sharp kernels shift the HU of vessels and fine septa
6. slices: the larger of thickness and distance, thin before thick
7. more slices
8. a series that was chosen before stays; else the order of the UIDs, so that the choice is the same every time
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_node.completion import CHEST, ELSEWHERE, Header, geometry, slices
from dicom_node.ledger import Choice, InstanceRecord, SeriesRecord
from dicom_node.states import CHOSEN, SeriesState
from pipeline.kernel import Sharpness, sharpness
from pipeline.others import ANOTHER_ASKED_FOR

LONGEST_KERNEL = 16  # characters of VR SH (PS3.5 6.2)
LUNGS_MM = 250.0
COVERS = 0.9
BELOW_LUNGS_MM = 550.0  # abdomen and pelvis are no longer: what is longer holds the chest, whatever it is called
# In a SeriesDescription: BodyPartExamined is often that of the protocol, the same for all of a study.
OTHER_PART = re.compile(
    r"abdom|bauch|pelvi|becken|bassin|liver|leber|neck|cuello|brain|skull|cranio|cerebr|sch(ä|ae)del"
    r"|cr(â|á|a)n[eo]|(?<![a-z])(abd|foie|hals|collo|head|kopf)(?![a-z])"
    r"|腹|骨盆|骨盤|头|頭|颈|頸|복부|골반|두부|경부",
    re.IGNORECASE,
)
SPINE = re.compile(r"spine|wirbel|(?<![a-z])[bhl]ws(?![a-z])|rachis|colonn[ae]", re.IGNORECASE)  # thoracic, too
EXPIRATION = re.compile(
    r"(?<![a-z])exs?pi?(?![a-z])|e(xs?|ks)pir|(?<![a-z])espir|ausatm|wydech|呼气|呼氣|호기", re.IGNORECASE
)
INSPIRATION = re.compile(r"(?<![a-z])insp|einatm|(?<![a-z])wdech|吸气|吸氣|흡기", re.IGNORECASE)
STAYS = CHOSEN | {SeriesState.FAILED}
LOSING = STAYS | {SeriesState.COMPLETE, SeriesState.NOT_ANALYSED}


@dataclass(frozen=True)
class Candidate:
    """One series as selection sees it. Lengths in mm; `coarseness_mm` is the larger of thickness and distance."""

    series: SeriesRecord
    names_chest: bool
    extent_mm: float
    in_expiration: bool
    kernel: str
    coarseness_mm: float
    slices: int


@dataclass(frozen=True)
class Criterion:
    """One way to compare: the smaller rank wins; `told` says of a winner and a loser why, `brief` of a loser."""

    rank: Callable[[Candidate], float]
    told: Callable[[Candidate, Candidate], str]
    brief: Callable[[Candidate], str]


def candidate(series: SeriesRecord, instances: Sequence[InstanceRecord]) -> Candidate:
    """Facts of a COMPLETE series."""
    chosen = slices(instances)
    header = chosen[0].header
    extent_mm, spacing_mm = geometry(chosen)
    return Candidate(
        series=series,
        names_chest=_names_chest(header) and (extent_mm > BELOW_LUNGS_MM or not _of_another_part(header)),
        extent_mm=extent_mm,
        in_expiration=_in_expiration(header),
        kernel=_kernel(header),
        coarseness_mm=max(spacing_mm, _thickness(header)),
        slices=len(chosen),
    )


def choose(candidates: Sequence[Candidate], seen: Sequence[SeriesRecord]) -> Choice:
    """The series to analyse, and a sentence for each candidate that is not.

    Args:
        candidates: of one study; at least one.
        seen: every series of the study, so that the ledger can tell whether one changed since.
    """
    criteria = _criteria(max(item.extent_mm for item in candidates))

    def rank(item: Candidate) -> tuple[Any, ...]:
        stays = item.series.state in STAYS
        return (*(criterion.rank(item) for criterion in criteria), not stays, item.series.series_uid)

    best, *others = sorted(candidates, key=rank)
    name = best.series.identity.description or best.series.series_uid
    reasons = {
        item.series.series_uid: f'another series of this study was chosen ("{name}"): {_why(criteria, best, item)}'
        for item in others
    }
    why = (
        f"chosen of {len(candidates)} series of the study" if others else "the only analysable series of its study"
    )
    return Choice(chosen=best.series, why=why, others=reasons, seen=tuple(seen))


def shortcoming(candidates: Sequence[Candidate], best: Candidate, other: Candidate) -> str:
    """What decided against a candidate, in a few words about it alone (ASCII: they go into results)."""
    criteria = _criteria(max(item.extent_mm for item in candidates))
    deciding = next((each for each in criteria if each.rank(best) != each.rank(other)), None)
    return deciding.brief(other) if deciding is not None else "as good as the chosen one"


def _criteria(longest_mm: float) -> tuple[Criterion, ...]:
    enough_mm = COVERS * min(longest_mm, LUNGS_MM)
    return (
        Criterion(
            lambda c: not c.series.preferred,
            lambda best, other: "a person asked for it",
            lambda other: ANOTHER_ASKED_FOR,
        ),
        Criterion(
            lambda c: not c.names_chest,
            lambda best, other: "its tags name the chest",
            lambda other: "its own tags do not name the chest",
        ),
        Criterion(
            lambda c: c.extent_mm < enough_mm,
            lambda best, other: f"it covers {best.extent_mm:.0f} mm, this one {other.extent_mm:.0f} mm",
            lambda other: f"covers {other.extent_mm:.0f} mm only",
        ),
        Criterion(
            lambda c: c.in_expiration,
            lambda best, other: "this one was scanned in expiration",
            lambda other: "scanned in expiration",
        ),
        Criterion(
            lambda c: sharpness(c.kernel),
            lambda best, other: f"kernel {_told(best)} comes before {_told(other)}",
            _kernel_in_brief,
        ),
        Criterion(
            lambda c: round(c.coarseness_mm, 1),
            lambda best, other: f"its slices are {best.coarseness_mm:.1f} mm, these {other.coarseness_mm:.1f} mm",
            lambda other: f"thicker slices ({other.coarseness_mm:.1f} mm)",
        ),
        Criterion(
            lambda c: -c.slices,
            lambda best, other: f"it has {best.slices} slices, this one {other.slices}",
            lambda other: f"fewer slices ({other.slices})",
        ),
    )


def _why(criteria: Sequence[Criterion], best: Candidate, other: Candidate) -> str:
    for criterion in criteria:
        if criterion.rank(best) != criterion.rank(other):
            return criterion.told(best, other)
    return "both are equally good, and one had to be taken"


def _told(item: Candidate) -> str:
    return f"{item.kernel or 'not given'} ({sharpness(item.kernel).name.lower()})"


def _kernel_in_brief(item: Candidate) -> str:
    """With its name where that is one of a kernel: it comes from the wire and may be anything."""
    kind = sharpness(item.kernel)
    if kind is Sharpness.UNKNOWN or len(item.kernel) > LONGEST_KERNEL:
        return "kernel of unknown sharpness" if kind is Sharpness.UNKNOWN else f"{kind.name.lower()} kernel"
    return f"{kind.name.lower()} kernel {re.sub(r'[^A-Za-z0-9_.+-]', '', item.kernel)}"


def _names_chest(header: Header) -> bool:
    texts = ("BodyPartExamined", "SeriesDescription", "StudyDescription", "ProtocolName")
    return any(CHEST.search(str(header.get(keyword) or "")) for keyword in texts)


def _of_another_part(header: Header) -> bool:
    """Whether it is the abdomen, say, of a study of chest and abdomen: what its own tags say comes first."""
    description = str(header.get("SeriesDescription") or "")
    part = re.sub(r"[^A-Z]", "", str(header.get("BodyPartExamined") or "").upper())
    elsewhere = bool(ELSEWHERE.fullmatch(part) or OTHER_PART.search(description))
    return bool(SPINE.search(description)) or (elsewhere and not CHEST.search(description))


def _in_expiration(header: Header) -> bool:
    description = str(header.get("SeriesDescription") or "")
    return bool(EXPIRATION.search(description)) and not INSPIRATION.search(description)


def _kernel(header: Header) -> str:
    """The first value: Siemens writes the strength of iterative reconstruction as a second one."""
    value = header.get("ConvolutionKernel")
    return str((value[0] if isinstance(value, list) and value else value) or "")


def _thickness(header: Header) -> float:
    value = header.get("SliceThickness")
    return float(value) if isinstance(value, int | float) else 0.0
