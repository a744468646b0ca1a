"""How records are shown: tables for people, JSON for programs. No queries, no decisions."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box, markup
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dicom_node.ledger_records import (
    Delivery,
    Event,
    JobRecord,
    Purgeable,
    Retrieval,
    SeriesDetails,
    SeriesRecord,
)
from dicom_node.states import DeliveryState, RetrievalState, SeriesState
from pipeline.notation import NOT_MEASURED, millilitres, percent, points

if TYPE_CHECKING:  # they bring pynetdicom with them
    from dicom_node.models import ModelRow
    from dicom_node.reconcile import Finding
    from dicom_node.send_test import Outcome

STYLES: Mapping[SeriesState, str] = {
    SeriesState.DELIVERED: "green",
    SeriesState.ANALYSED: "green",
    SeriesState.FAILED: "bold red",
    SeriesState.INCOMPLETE: "red",
    SeriesState.NOT_ANALYSED: "yellow",
    SeriesState.CANCELLED: "yellow",
}

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # names off the wire must not steer a terminal


def as_json(value: Any, indent: int | None = 2) -> str:
    """Records as JSON, on one line where `indent` is None; times in ISO 8601."""
    return json.dumps(value, default=_plain, indent=indent)


def silent() -> Console:
    """For what would be told to a person, where a program asked."""
    return Console(quiet=True)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # Not asdict: it deep-copies mappings that are not dicts badly.
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not shown as JSON")


def escape(text: str) -> str:
    """`text` as it is, without what rich or a terminal would take for a command."""
    return markup.escape(CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))


def time(value: datetime | None) -> str:
    """Local time to the second; empty for None."""
    return "" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def status_view(
    counts: Mapping[SeriesState, int], series: Sequence[SeriesRecord], remarks: Sequence[str] = ()
) -> RenderableType:
    """How many series are in each state, the newest ones with state and reason, and what is to be looked at."""
    numbers = "  ".join(f"[{STYLES.get(state, 'default')}]{state}[/] {n}" for state, n in counts.items() if n)
    below: list[RenderableType] = [Text(remark) for remark in remarks]
    if not series:
        return Group(numbers, "No series yet.", *below)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("last instance", "state", "patient", "series", "slices", "rev", "reason"):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"last instance", "state", "slices", "rev"})
    for record in series:
        table.add_row(
            time(record.last_instance_at),
            f"[{STYLES.get(record.state, 'default')}]{record.state}[/]",
            escape(record.identity.patient_id),
            escape(f"{record.identity.description}\n{record.series_uid}"),
            str(record.instances),
            str(record.revision),
            escape(record.reason or record.completeness),
        )
    return Group(numbers, table, *below)


def models_table(rows: Sequence[ModelRow]) -> Table:
    """The packages; the one that is used has a star."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("", "name", "version", "folder", "fault"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = (row.name, row.version, str(row.path), row.fault)
        table.add_row("*" if row.used else "", *map(escape, cells))
    return table


def show_purged(console: Console, purged: Sequence[Purgeable], dry_run: bool) -> None:
    """What was removed, or would be."""
    would = "would be " if dry_run else ""
    for item in purged:
        what = f"{item.sources} received files ({item.source_bytes >> 20} MB), {item.results} result objects"
        console.print(
            f"{escape(item.series_uid)}  {item.state} since {time(item.changed_at)}: {what}",
            highlight=False,
            soft_wrap=True,
        )
    size_mb = sum(item.source_bytes for item in purged) >> 20
    console.print(f"{len(purged)} series: {size_mb} MB of received files {would}removed", highlight=False)


def show_series(console: Console, details: SeriesDetails) -> None:
    """One series: where it stands, its figures, where each result is, and its story."""
    record = details.series
    console.print(f"[bold]{escape(record.identity.description or record.series_uid)}[/]")
    for name, text in (
        ("series", record.series_uid),
        ("study", record.study_uid),
        ("patient", record.identity.patient_id),
        ("accession", record.identity.accession_number),
        ("from", f"{record.identity.calling_ae} {record.identity.peer_address}"),
        ("state", f"{record.state}, revision {record.revision}"),
        ("reason", record.reason),
        ("completeness", record.completeness),
        ("instances", ", ".join(f"{n} {state}" for state, n in details.instances.items() if n)),
        ("purged", _purged(record)),
    ):
        if text.strip():
            console.print(f"  {name:<13}{escape(text)}")
    for job in details.jobs:
        _show_job(console, job)
    if details.retrievals:
        show_retrievals(console, details.retrievals)
    if details.deliveries:
        console.print(_delivery_table(details.deliveries))
    console.print(_event_table(details.events))


def _purged(record: SeriesRecord) -> str:
    """Which files are not here any more."""
    parts = (("received files", record.sources_purged_at), ("result files", record.results_purged_at))
    return ", ".join(f"{name} {time(at)}" for name, at in parts if at is not None)


def _show_job(console: Console, job: JobRecord) -> None:
    console.print(
        f"  {'analysis':<13}revision {job.revision}: {job.state}, {job.attempts} attempt(s) {escape(job.reason)}"
    )
    if job.report:
        show_report(console, job.report)


def show_report(console: Console, report: Mapping[str, Any]) -> None:
    """The figures of result.json."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("", "severity", "consolidation", "lung", "infection", "consolidation "):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, part in (("both", report), ("right", report["right"]), ("left", report["left"])):
        scores = [percent(part[key]) for key in ("severity_score", "consolidation_score")]
        lesions = [
            NOT_MEASURED if part["severity_score"] is None else f"{millilitres(part[key])} ml"
            for key in ("infection_volume_ml", "consolidation_volume_ml")
        ]
        table.add_row(name, *scores, f"{millilitres(part['lung_volume_ml'])} ml", *lesions)
    console.print(table)
    model = report["model"]
    console.print(
        f"  severity class {report['severity_class']} · lungs: {escape(report['lungs_method'])} · model "
        f"{escape(model['name'])} {escape(model['version'])}"
    )
    for flag in report["flags"]:
        console.print(f"  [yellow]![/] {escape(flag['text'])}")
    if others := report.get("not_analysed"):
        console.print(f"  not analysed: {escape(others)}")
    _show_priors(console, report)


def _show_priors(console: Console, report: Mapping[str, Any]) -> None:
    """Which earlier results were used, what changed, and why it may not be comparable."""
    if "priors_search" not in report:  # of a version that had none
        return
    console.print(f"  {'earlier':<13}{escape(report['priors_search'])}")
    for prior in report["priors"]:
        figures = (
            f"severity {percent(prior['severity_score'])}, consolidation {percent(prior['consolidation_score'])}"
        )
        console.print(
            f"  {'':<13}{prior['acquired']}  {figures}  study {prior['study_uid']}, {escape(prior['origin'])}"
        )
        for words in prior["not_comparable"]:
            console.print(f"  {'':<13}  [yellow]![/] {escape(words)}")
    if change := report["change"]:
        points_of = ", ".join(
            f"{name} {points(change[key])}"
            for name, key in (("severity", "severity_score"), ("consolidation", "consolidation_score"))
        )
        console.print(
            f"  {'change':<13}since {change['since']} ({change['days']} d): {points_of} percentage points"
        )


def outcome_lines(outcomes: Sequence[Outcome]) -> str:
    """What became of each test object, a line each; slices of one outcome in one line."""
    lines = []
    slices = Counter((each.answer, each.kept) for each in outcomes if each.name.isdigit())
    lines += [f"CT, {number} slices: {answer}; {kept}" for (answer, kept), number in slices.items()]
    lines += [f"{each.name}: {each.answer}; {each.kept}" for each in outcomes if not each.name.isdigit()]
    return "\n".join(line.rstrip("; ") for line in lines)


def show_retrievals(console: Console, retrievals: Sequence[Retrieval]) -> None:
    """What is or was fetched from the sources."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("source", "series", "fetched", "state", "attempts", "next attempt", "why", "remark"):
        table.add_column(heading, overflow="fold")
    for row in retrievals:
        table.add_row(
            row.source,
            row.series_uid,
            f"{row.fetched} of {row.wanted}" if row.wanted else "",
            str(row.state),
            str(row.attempts),
            time(row.next_attempt_at) if row.state is RetrievalState.WAITING else "",
            escape(row.why),
            escape(row.reason),
        )
    console.print(table)


def show_findings(console: Console, findings: Sequence[Finding], listed: int, since: date) -> None:
    """What the sources have and the node never saw or never finished."""
    console.print(
        f"{listed} chest CT series since {since} at the sources, {len(findings)} never seen or never finished",
        highlight=False,
    )
    if not findings:
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("source", "study date", "patient", "accession", "series", "there", "here", "state", "reason"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        row = finding.series
        table.add_row(
            row.source,
            row.study_date,
            escape(row.patient_id),
            escape(row.accession_number),
            escape(f"{row.description}\n{row.series_uid}"),
            "" if row.instances is None else str(row.instances),
            str(finding.received),
            str(finding.state or ""),
            escape(finding.reason),
        )
    console.print(table)


def _delivery_table(deliveries: Sequence[Delivery]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("destination", "object", "rev", "state", "attempts", "next attempt", "remark"):
        table.add_column(heading, overflow="fold")
    for row in deliveries:
        pending = row.state is DeliveryState.PENDING
        table.add_row(
            row.destination,
            str(row.kind),
            str(row.revision),
            str(row.state),
            str(row.attempts),
            time(row.next_attempt_at) if pending else "",
            escape(row.warning or row.reason),
        )
    return table


def _event_table(events: Sequence[Event]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("time", "what", "state", "reason"):
        table.add_column(heading, overflow="fold")
    for event in events:
        moved = f"{event.old_state} → {event.new_state}" if event.new_state else ""
        table.add_row(time(event.at), event.subject, moved, escape(event.reason))
    return table
