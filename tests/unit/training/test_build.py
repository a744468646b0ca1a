"""From folders and the node's archive to a cohort: what becomes a case, with which labels, and what is rejected."""

from __future__ import annotations

import csv
import hashlib
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dicom_node.ingest import Ingest
from dicom_node.ledger import Ledger
from dicom_node.part10 import FileMeta
from dicom_node.spool import Spool
from pipeline import phantom
from pipeline.provenance import MANUFACTURER
from tests.fixtures import drawings, studies
from tests.fixtures.part10 import data_set_bytes
from training import build, cli, cohort, images, report_documents, reports, structures
from training import studies as looking
from training.build import Plan
from training.errors import CohortError
from training.studies import Study, Wanted

LANGUAGES = tuple(reports.read_terms(reports.shipped(name)) for name in reports.LANGUAGES)
PLAN = Plan(structures=structures.read(), languages=LANGUAGES)


def rows(out: Path) -> dict[str, dict[str, str]]:
    with (out / "cases.csv").open() as file:
        return {row["accession"]: row for row in csv.DictReader(file)}


def rejected(out: Path) -> str:
    with (out / "rejected.csv").open() as file:
        return "\n".join(row["reason"] for row in csv.DictReader(file))


def made(world: Path, out: Path, plan: Plan = PLAN, wanted: Wanted | None = None) -> build.Built:
    return build.build(looking.in_folders([world], wanted or Wanted()), out, plan)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Three patients: one with drawings and two with report documents."""
    root = tmp_path / "world"
    drawn = studies.ct(root / "1" / "ct", "one")
    truth = studies.chest("both")
    masks = {"GGO": truth.lesions.ggo, "consolidation": truth.lesions.consolidation, "heart": truth.lungs.both}
    drawings.as_rt_struct(drawn, masks, root / "1" / "rt.dcm")
    drawings.as_seg(drawn, {"lung": truth.lungs.both}, root / "1" / "seg.dcm")
    second = studies.ct(root / "2", "two", "ggo")
    studies.report(second, "Ground-glass opacities. No consolidation.", root / "2" / "sr.dcm", "Consolidation.")
    third = studies.ct(root / "3", "three", "healthy")
    studies.report(third, "Milchglas und Konsolidierung.", root / "3" / "own.dcm", manufacturer=MANUFACTURER)
    studies.report(third, "Möglicherweise Konsolidierung.", root / "3" / "sr.dcm")
    (root / "notes.txt").write_text("no DICOM")
    return root


def test_cases_get_images_labels_and_splits(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    assert len(made(world, out).added) == 3
    found = rows(out)
    one, two, three = (found[f"A-{name}"] for name in ("one", "two", "three"))
    assert (one["ggo"], one["consolidation"], one["consolidation_from"]) == ("1", "1", "drawing")
    assert one["drawn"] == "GGO, consolidation, lung; not taken: heart"
    assert (two["ggo"], two["consolidation"]) == ("1", "0")
    assert two["consolidation_from"] == "report: absent"
    assert two["consolidation_sentence"] == "No consolidation."
    assert (three["consolidation"], three["consolidation_from"]) == ("", "report: uncertain")
    assert three["ggo"] == ""
    for case in cohort.read(out):
        assert images.load(case.image).array.shape == (12, 64, 64)
        assert case.split == cohort.split_of(case.patient, 0.15, 0.15)
        assert not {"one", "two", "three"} & {case.name, case.patient}
    (labelled,) = [case for case in cohort.read(out) if case.label is not None]
    assert labelled.lung is not None
    truth = studies.chest("both")
    label, lung = images.load(labelled.label), images.load(labelled.lung)  # type: ignore[arg-type]
    np.testing.assert_array_equal(label.array, truth.lesions.infection.astype(int) + truth.lesions.consolidation)
    np.testing.assert_array_equal(lung.array > 0, truth.lungs.both)
    np.testing.assert_allclose(label.affine, images.load(labelled.image).affine, atol=1e-3)


def test_a_corrected_row_stays_and_new_studies_are_added(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    made(world, out, Plan(limit=2))
    assert len(rows(out)) == 2
    text = (out / "cases.csv").read_text()
    corrected = text.replace(",train,", ",test,").replace(",validation,", ",test,")
    (out / "cases.csv").write_text(corrected)
    again = made(world, out)
    assert len(again.added) == 1
    assert all(line in (out / "cases.csv").read_text() for line in corrected.splitlines())
    assert made(world, out).added == []


def test_an_interrupted_command_leaves_a_whole_cohort_and_goes_on(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cohort"
    place, calls = build._place, []

    def interrupted(chosen: Any, folder: Path) -> None:
        if calls:
            (folder.with_name(f".part-{folder.name}")).mkdir()
            raise KeyboardInterrupt
        calls.append(folder)
        place(chosen, folder)

    monkeypatch.setattr(build, "_place", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(world, out)
    assert len(cohort.read(out)) == 1
    monkeypatch.undo()
    assert len(made(world, out).added) == 2
    assert len(cohort.read(out)) == 3
    assert [path for path in out.rglob("*") if path.name.startswith(".part")] == []


def test_what_cannot_become_a_case_is_rejected_with_its_reason(tmp_path: Path) -> None:
    world, out = tmp_path / "world", tmp_path / "cohort"
    gap = studies.ct(world / "gap", "gap")
    next(iter(sorted((world / "gap").glob("*0006.dcm")))).unlink()
    studies.ct(world / "short", "short", drop=frozenset(range(5)))
    damaged = studies.ct(world / "damaged", "damaged")
    first = world / "damaged" / "0001.dcm"
    first.write_bytes(first.read_bytes()[:400])
    attributes = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    phantom.write_series(studies.chest("both"), world / "scout", uid_seed="scout", attributes=attributes)
    other = studies.ct(world / "other", "other")
    drawings.as_rt_struct(gap, {"GGO": studies.chest("ggo").lesions.ggo}, world / "x" / "rt.dcm")
    ds = drawings.rt_struct(other, {"GGO": [np.array([(1, 1, 90), (5, 1, 90), (5, 5, 90)], float)]})
    drawings.write(ds, world / "other" / "rt.dcm", drawings.RTStructureSetStorage)
    built = made(world, out)
    assert damaged.hu.shape[0] == 12
    assert built.added == []
    reasons = rejected(out)
    for words in ("slices are missing", "7 slices, at least 10", "LOCALIZER", "a contour lies outside the image"):
        assert words in reasons
    assert "cannot be read: 0001.dcm" in reasons
    assert len(built.rejected) == 5
    assert not (out / "cases.csv").exists()
    assert [path.name for path in out.iterdir()] == ["rejected.csv"]


def test_one_file_in_two_places_counts_once_and_two_versions_are_a_conflict(tmp_path: Path) -> None:
    world, out = tmp_path / "world", tmp_path / "cohort"
    studies.ct(world / "a", "one")
    shutil.copytree(world / "a", world / "b")
    assert len(made(world, out).added) == 1
    for name, values in (("c", 1), ("d", 2)):
        studies.ct(world / name, "two", attributes={"PatientComments": str(values)})
    made(world, out)
    assert "conflicting instance" in rejected(out)


def test_tables_count_before_reports_and_reports_of_files_before_documents(world: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("accession,consolidation\nA-three,1\n")
    (tmp_path / "reports.csv").write_text("patient_id,report\ntwo,There is consolidation.\n")
    plan = Plan(
        structures=structures.read(),
        languages=LANGUAGES,
        labels=report_documents.from_table(tmp_path / "labels.csv", build.FINDINGS),
        reports=report_documents.read(tmp_path / "reports.csv"),
        unmentioned_absent=True,
    )
    made(world, tmp_path / "cohort", plan)
    found = rows(tmp_path / "cohort")
    assert (found["A-three"]["consolidation"], found["A-three"]["consolidation_from"]) == ("1", "table")
    assert (found["A-two"]["consolidation"], found["A-two"]["ggo"]) == ("1", "0")


def test_a_structure_that_a_newer_drawing_has_emptied_is_no_label(tmp_path: Path) -> None:
    world, truth = tmp_path / "world", studies.chest("both").lesions
    drawn = studies.ct(world / "ct", "one")
    for date, solid in (("20250101", truth.consolidation), ("20260101", np.zeros_like(truth.consolidation))):
        masks = {"GGO": truth.ggo, "consolidation": solid}
        drawings.as_rt_struct(drawn, masks, world / f"{date}.dcm", StructureSetDate=date)
    made(world, tmp_path / "cohort")
    row = rows(tmp_path / "cohort")["A-one"]
    assert (row["ggo"], row["consolidation"]) == ("1", "")


def test_a_formula_stays_text_utf_16_is_read_and_an_empty_report_tells_nothing(world: Path, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "A-two.txt").write_text("=cmd|' /C calc'!A0 consolidation")
    (tmp_path / "reports" / "A-three.txt").write_bytes("Möglicherweise Milchglas, Konsolidierung.".encode("utf-16"))
    (tmp_path / "reports" / "A-one.txt").write_bytes(b"\r\n")
    reports = report_documents.read(tmp_path / "reports")
    made(world, tmp_path / "cohort", Plan(languages=LANGUAGES, reports=reports, unmentioned_absent=True))
    found = rows(tmp_path / "cohort")
    assert found["A-two"]["consolidation_sentence"].startswith("'=cmd")
    assert (found["A-three"]["ggo"], found["A-three"]["consolidation"]) == ("", "1")
    assert (found["A-one"]["ggo"], found["A-one"]["consolidation"]) == ("", "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name,ggo\nx,1\n", "needs a column of"),
        ("case,report\nx,1\n", "needs a column of"),
        ("case,ggo\nx,1\nx,0\n", "names 'x' twice"),
    ],
)
def test_a_table_of_labels_that_is_none_is_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(CohortError, match=says):
        report_documents.from_table(tmp_path / "labels.csv", build.FINDINGS)


def test_dates_and_lists_choose_studies(world: Path) -> None:
    def count(**wanted: Any) -> int:
        return len(list(looking.in_folders([world], Wanted(**wanted))))

    every = [study.uid for study in looking.in_folders([world], Wanted())]
    assert len(every) == 3
    assert (count(since="20200315", until="20200315"), count(since="20200316"), count(until="20200314")) == (
        3,
        0,
        0,
    )
    assert (count(study_uids=every[:1]), count(but_not=every[:1])) == (1, 2)


@pytest.fixture
def archive(world: Path, tmp_path: Path) -> Path:
    """The same studies as the node keeps them."""
    spool = Spool(tmp_path / "state", 0)
    ledger = Ledger(f"sqlite:///{tmp_path / 'state' / 'ledger.sqlite'}")
    ingest = Ingest(spool, ledger, lambda: datetime.now(UTC))
    for path in world.rglob("*.dcm"):
        ds = drawings.pydicom.dcmread(path)
        meta = FileMeta(ds.SOPClassUID, ds.SOPInstanceUID, ds.file_meta.TransferSyntaxUID, "CT1", "192.0.2.7")
        ingest.process([spool.write(meta, data_set_bytes(path.read_bytes()))])
    ledger.close()
    (tmp_path / "config.toml").write_text(f'[node]\nstate_dir = "{tmp_path / "state"}"\n')
    return tmp_path / "config.toml"


def test_the_archive_gives_the_same_cohort_as_its_files(world: Path, archive: Path, tmp_path: Path) -> None:
    made(world, tmp_path / "one")
    runner = CliRunner()
    done = runner.invoke(cli.app, ["cohort", str(tmp_path / "two"), "--archive", "--config", str(archive)])
    assert done.exit_code == 0, done.output
    assert "3 cases added" in done.output
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    for path in (tmp_path / "one").rglob("*.nii.gz"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()
    names = sorted(path.name for path in (tmp_path / "two" / "ct").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "one" / "ct").iterdir())


def test_files_that_the_archive_has_lost_are_a_reason(archive: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "state" / "archive").rglob("*.dcm"):
        path.unlink()
    runner = CliRunner()
    done = runner.invoke(cli.app, ["cohort", str(tmp_path / "out"), "--archive", "--config", str(archive)])
    assert "3 studies rejected" in done.output
    assert "not there any more" in rejected(tmp_path / "out")


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    runner = CliRunner()
    for arguments, says in (
        ([], "say where the studies are"),
        (["--archive"], "need the node's --config"),
        (["--from", str(tmp_path / "none")], "no such folder"),
        (["--from", str(tmp_path), "--since", "today"], "YYYYMMDD"),
    ):
        done = runner.invoke(cli.app, ["cohort", str(tmp_path / "out"), *arguments])
        assert says in str(done.exception), arguments
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cases.csv").write_text("case\na\n")
    done = runner.invoke(cli.app, ["cohort", str(tmp_path / "other"), "--from", str(tmp_path)])
    assert "was not made by this command" in str(done.exception)


def test_a_study_without_ct_is_rejected(tmp_path: Path) -> None:
    built = build.build(iter([Study("1.2.3", tmp_path, ())]), tmp_path / "out", PLAN)
    assert built.rejected == {"1.2.3": "no CT series"}


def test_a_case_whose_row_is_deleted_is_made_anew(world: Path, tmp_path: Path) -> None:
    """With what was drawn and sent since, and without what was withdrawn; a person's columns stay."""
    out = tmp_path / "cohort"
    made(world, out)
    found = rows(out)
    one, two = found["A-one"], found["A-two"]
    kept = [{**row, "remark": "- seen by\na person"} for key, row in found.items() if key != "A-one"]
    build._write_table(out / "cases.csv", [*build.COLUMNS, "remark"], kept)
    (world / "1" / "rt.dcm").unlink()
    (world / "1" / "seg.dcm").unlink()
    before = len(list((out / "ct" / one["case"]).iterdir()))
    sorted((out / "ct" / one["case"]).iterdir())[0].unlink()
    again = made(world, out)
    assert list(again.added) == [one["case"]]
    assert len(list((out / "ct" / one["case"]).iterdir())) == before
    assert not (out / "label" / f"{one['case']}.nii.gz").exists()
    assert not (out / "lung" / f"{one['case']}.nii.gz").exists()
    assert (out / "label" / f"{one['case']}.before.nii.gz").is_file(), "nobody knows whether a person drew it"
    assert rows(out)["A-two"] == {**two, "remark": "- seen by\na person"}
    assert rows(out)["A-one"]["drawn"].startswith("set aside: label/")


def test_labels_and_reports_of_no_study_are_told(world: Path, tmp_path: Path) -> None:
    plan = Plan(labels={"A-one": {"ggo": "1"}, "77": {"ggo": "1"}}, reports={"A-9": "No opacity."})
    assert list(made(world, tmp_path / "cohort", plan).unmatched) == ["77", "A-9"]
    assert list(made(world, tmp_path / "limited", replace(plan, limit=1)).unmatched) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"case;patient\na;b\n", "semicolons between its columns"),
        ("case,patient\nä,b\n".encode("cp1252"), "save it as CSV UTF-8"),
        (b"case,patient,study_uid,ggo,consolidation\na,b,1.2,1,0\n", "lacks the columns split"),
    ],
)
def test_a_table_that_a_spreadsheet_has_spoilt_is_told_so(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(CohortError, match=says):
        build.existing(tmp_path)


def test_a_table_with_a_byte_order_mark_is_read(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    made(world, out)
    table = out / "cases.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert build.existing(out)[0]["case"]
    assert made(world, out).added == []
