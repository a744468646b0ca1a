"""`dicomnode-train cohort` and `prepare`: from DICOM files, the archive or a PACS to arrays that training maps."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dicom_node import config as configuration
from dicom_node.config import CompletionSection, Config, Source
from dicom_node.ledger import Ledger
from pipeline.preprocess import Preprocessing
from training import build, prepared, report_documents, retrieve, structures, studies
from training import prepare as preparing
from training import reports as report_terms
from training.build import FINDINGS, Built, Plan
from training.cli_options import (
    CohortDir,
    Json,
    LungChoice,
    LungRun,
    Lungs,
    console,
    quiet_for,
    refuse_other_lungs,
    say_json,
)
from training.errors import CohortError
from training.retrieve import Criteria, Retrieval, Row
from training.studies import Study, Wanted

OnSeries = Callable[[int, int, Row], None]
DATE = re.compile(r"(\d{8})?")


def cohort(
    out: Annotated[Path, typer.Argument(help="Folder of the cohort; cases are added to one that is there.")],
    folder: Annotated[list[Path] | None, typer.Option("--from", help="Folder of DICOM files; may repeat.")] = None,
    archive: Annotated[bool, typer.Option("--archive", help="Take what the node has received.")] = False,
    pacs: Annotated[str, typer.Option(metavar="SOURCE", help="Fetch from a [[sources]] entry of --config.")] = "",
    body_part: Annotated[str, typer.Option(help="With --pacs: BodyPartExamined, with * and ?.")] = "",
    rate: Annotated[float, typer.Option(min=0, help="With --pacs: series a minute; 0: no limit.")] = 20,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", envvar="DICOMNODE_CONFIG", help="config.toml of the node.")
    ] = None,
    since: Annotated[str, typer.Option(metavar="YYYYMMDD", help="Studies of this day or later.")] = "",
    until: Annotated[str, typer.Option(metavar="YYYYMMDD", help="Studies of this day or earlier.")] = "",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"So many cases at most; studies of a PACS: {Criteria.limit} unless said."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV: ggo and consolidation by case, study_uid, accession or patient_id."),
    ] = None,
    reports: Annotated[
        Path | None,
        typer.Option(help="Folder of <accession or study UID>.txt, or a CSV with a column report."),
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="Of the reports; may repeat. Default: en, de.")] = None,
    terms: Annotated[list[Path] | None, typer.Option(help="Files of report terms, in place of --language.")] = None,
    unmentioned_absent: Annotated[
        bool, typer.Option("--unmentioned-absent", help="What a report does not mention is absent, not unknown.")
    ] = False,
    table: Annotated[
        Path | None, typer.Option("--structures", help="TOML: which drawn structure is which label.")
    ] = None,
    validation: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the patients.")] = 0.15,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the patients.")] = 0.15,
    site: Annotated[str, typer.Option(help="Site of all cases; default: InstitutionName.")] = "",
    json: Json = False,
) -> None:
    """Build a cohort or add to one: images, labels from drawings, tables and reports, splits by patient.

    JSON: added, rejected, unmatched, cases.

    Example: dicomnode-train cohort COHORT --from /data/export --reports /data/reports
    """
    quiet_for(json)
    settings = configuration.load(config) if config is not None else Config()
    plan = Plan(
        validation=validation,
        test=test,
        site=site,
        structures=structures.read(table or structures.SHIPPED),
        languages=_languages(language, terms),
        reports=report_documents.read(reports) if reports is not None else {},
        labels=report_documents.from_table(labels, FINDINGS) if labels is not None else {},
        unmentioned_absent=unmentioned_absent,
        limit=limit,
        rules=settings.completion if config is not None else CompletionSection(),
    )
    if not DATE.fullmatch(since) or not DATE.fullmatch(until):
        raise CohortError("--since and --until are days as YYYYMMDD")
    known = frozenset(row["study_uid"] for row in build.existing(out))
    wanted = Wanted(since, until, but_not=known)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("looking for studies", total=None)

        def looked_at(files: int) -> None:
            progress.update(task, description=f"looking for studies: {files} files")

        def fetched(number: int, total: int, row: Row) -> None:
            progress.update(task, description=f"series {number} of {total} from {pacs}: {row.state} {row.reason}")

        criteria = Criteria("CT", body_part, since, until, limit or Criteria.limit)
        place = _Place(folder or [], archive, pacs, settings, config, out)
        with place.studies(wanted, criteria, rate, looked_at, fetched) as found:
            counted = _counted(found, progress, task)
            built = build.build(counted, out, plan)
    _tell(built, out)
    if json:
        say_json(asdict(built) | {"cases": len(build.existing(out))})


def prepare(
    folder: CohortDir,
    out: Annotated[Path, typer.Option(help="Folder of the arrays; an interrupted command there goes on.")],
    lungs: Lungs = LungChoice.BUILTIN,
    lung_run: LungRun = None,
    labels: Annotated[str, typer.Option(help="Folder of the labels beside ct/.")] = "label",
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    scheduler: Annotated[str, typer.Option(help="Address of a dask.distributed scheduler, tcp://HOST:PORT.")] = "",
    json: Json = False,
) -> None:
    """Verify a cohort and prepare it for training: arrays on disk, and the reason for each case left out.

    JSON: cases, kept, rejected.

    Example: dicomnode-train prepare --cohort COHORT --lungs network --out PREPARED --jobs 8
    """
    quiet_for(json)
    refuse_other_lungs(lungs, lung_run)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        preparing.executor(jobs or os.cpu_count() or 1, scheduler) as workers,
        Progress(*columns, console=console, transient=True) as progress,
    ):
        task = progress.add_task("cases", total=None)
        outcome = preparing.prepare(
            folder,
            out,
            Preprocessing(),
            preparing.Lungs(lungs.value, lung_run),
            workers,
            lambda done, total: progress.update(task, completed=done, total=total),
            labels,
        )
    told = f"{len(outcome.entries)} cases in {out}, {outcome.kept} of them from before"
    console.print(f"{told}; {len(outcome.rejected)} rejected", soft_wrap=True, highlight=False)
    if outcome.rejected:
        console.print(f"the reasons are in {out / prepared.REJECTED}", soft_wrap=True, highlight=False)
    if json:
        told_all = {"cases": len(outcome.entries), "kept": outcome.kept, "rejected": outcome.rejected}
        say_json(told_all)
    known = {entry.case.consolidation for entry in outcome.entries}
    if not {True, False} <= known:
        console.print("note: consolidation is known to be of one kind at most; UNet-2 needs both", highlight=False)


def _languages(names: list[str] | None, files: list[Path] | None) -> list[report_terms.Terms]:
    unknown = set(names or ()) - set(report_terms.LANGUAGES)
    if unknown:
        known = ", ".join(report_terms.LANGUAGES)
        raise CohortError(
            f"--language {', '.join(sorted(unknown))}: there are terms for {known}; others by --terms"
        )
    paths = files or [report_terms.shipped(name) for name in names or report_terms.LANGUAGES]
    return [report_terms.read_terms(path) for path in paths]


@dataclass(frozen=True)
class _Place:
    """The one place that was asked for."""

    folders: list[Path]
    archive: bool
    pacs: str
    settings: Config
    config: Path | None
    out: Path

    @contextmanager
    def studies(
        self, wanted: Wanted, criteria: Criteria, rate: float, looked_at: studies.LookedAt, fetched: OnSeries
    ) -> Iterator[Iterator[Study]]:
        """The studies there."""
        if [bool(self.folders), self.archive, bool(self.pacs)].count(True) != 1:
            raise CohortError("say where the studies are: --from FOLDER, --archive or --pacs SOURCE")
        if self.folders:
            absent = [str(folder) for folder in self.folders if not folder.is_dir()]
            if absent:
                raise CohortError(f"no such folder: {', '.join(absent)}")
            yield studies.in_folders(self.folders, wanted, looked_at)
            return
        if self.config is None:
            raise CohortError("--archive and --pacs need the node's --config")
        received = self.out / retrieve.RECEIVED
        with closing(Ledger(self.settings.database_url, migrate=False)) as ledger:
            if self.pacs:
                pause = threading.Event().wait
                cases = wanted.but_not
                retrieval = Retrieval(self.settings, self._source(), ledger, self.out, pause, cases)
                wanted = replace(wanted, study_uids=retrieval.run(criteria, rate, fetched))
                if retrieval.more:
                    told = f"note: more than {criteria.limit} studies match: a larger --limit asks for them too"
                    console.print(told, soft_wrap=True, highlight=False)
            archived = studies.in_archive(ledger, self.settings.node.state_dir / "archive", wanted)
            beside = studies.in_folders([received], wanted, looked_at) if received.is_dir() else iter(())
            yield retrieve.joined(archived, beside)

    def _source(self) -> Source:
        for source in self.settings.sources:
            if source.name == self.pacs:
                return source
        known = ", ".join(source.name for source in self.settings.sources) or "none"
        raise CohortError(f"{self.config} has no source {self.pacs!r} (known: {known})")


def _counted(found: Iterator[Study], progress: Progress, task: TaskID) -> Iterator[Study]:
    for number, study in enumerate(found, start=1):
        progress.update(task, description=f"study {number}: {study.uid}")
        yield study


def _tell(built: Built, out: Path) -> None:
    rows = build.existing(out)
    console.print(f"{len(built.added)} cases added, {len(rows)} in {out / build.CASES}", soft_wrap=True)
    if before := len(rows) - len(built.added):
        told = "their rows and labels were left as they are; delete a row to have its case made anew"
        console.print(f"{before} cases were there already: {told}", soft_wrap=True, highlight=False)
    if built.unmatched:
        told = f"{len(built.unmatched)} rows or reports given are of no study that was looked at, for instance"
        told = f"{told} {built.unmatched[0]!r}"
        console.print(f"note: {told}", soft_wrap=True, highlight=False, markup=False)
    if not rows and not built.rejected:
        console.print("no CT study was found there", soft_wrap=True)
        return
    for finding in FINDINGS:
        known = [row[finding] for row in rows]
        counts = f"{known.count('1')} with, {known.count('0')} without, {known.count('')} unknown"
        console.print(f"{finding}: {counts}", highlight=False)
    if built.rejected:
        console.print(f"{len(built.rejected)} studies rejected: see {out / build.REJECTED}", soft_wrap=True)
    if rows and (lacking := build.one_kind_only(out)):
        console.print(f"note: {lacking}; UNet-2 needs both", highlight=False)
