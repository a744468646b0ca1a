"""What a result says about the other series of its study: in report and page, bounded, and of one patient only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from pipeline import codes, others, phantom, picture, run, series_files, uids
from pipeline.others import OtherSeries
from pipeline.picture_canvas import Canvas
from pipeline.types import AnalysisRequest, Flag, PipelineSettings, Profile, ResultKind
from tests.fixtures.results import CREATED, build_set, make_analysis, make_context

SPEC = phantom.PhantomSpec(slices=16, rows=64, columns=64, slice_spacing_mm=10.0)
THREE = (
    OtherSeries(1, "localizer"),
    OtherSeries(4, "sharp kernel B60f, another was chosen"),
    OtherSeries(5, "2 slices only"),
)
TOLD = (
    "3 other series of this study (series 1: localizer; series 4: sharp kernel B60f, another was chosen; "
    "series 5: 2 slices only)"
)


def evaluations(report: Dataset) -> dict[str, str]:
    """The texts of the Qualitative Evaluations by code value."""
    (container,) = (
        item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "C0034375"
    )
    return {
        item.ConceptNameCodeSequence[0].CodeValue: item.TextValue
        for item in container.ContentSequence
        if item.ValueType == "TEXT"
    }


def words_on(page: Canvas) -> str:
    return " ".join(word.text for word in page.words)


def test_report_and_page_say_the_same() -> None:
    analysis, context = make_analysis(), make_context(others=THREE)
    report = build_set(analysis, context)[ResultKind.SR]
    assert evaluations(report)[codes.OTHER_SERIES.value] == TOLD
    assert f"Not analysed: {TOLD}" in words_on(picture.draw(analysis, context))


def test_without_another_series_nothing_is_said() -> None:
    analysis, context = make_analysis(), make_context()
    assert codes.OTHER_SERIES.value not in evaluations(build_set(analysis, context)[ResultKind.SR])
    assert "Not analysed" not in words_on(picture.draw(analysis, context))


def test_series_of_one_reason_are_told_together_and_those_without_number_are_counted() -> None:
    some = [OtherSeries(number, "localizer") for number in (7, 2, None, 3)]
    assert others.sentence(some) == (
        "4 other series of this study (series 2, 3, 7 and 1 without number: localizer)"
    )
    assert others.sentence([OtherSeries(None, "incomplete")]) == (
        "1 other series of this study (1 without number: incomplete)"
    )


@pytest.mark.parametrize("count", [1, 12, 400])
def test_a_study_of_many_series_makes_a_bounded_sentence(count: int) -> None:
    each = others.sentence([OtherSeries(number, f"reason {number}") for number in range(count)])
    same = others.sentence([OtherSeries(number, "localizer") for number in range(count)])
    long = others.sentence([OtherSeries(number, "x" * 300) for number in range(count)])
    for sentence in (each, same, long):
        assert len(sentence) <= others.LONGEST
        assert sentence.startswith(f"{count} other series of this study (")
        assert sentence.endswith(")")
    assert (f"and {count - 6} more: localizer" in same) == (count > 6)
    assert "reasons: see the node" in long
    named = each.count("reason ")
    assert (f"and {count - named} more)" in each) == (named < count)


def test_numbers_that_are_none_are_not_shown() -> None:
    values = ("4", 4, 4.0, " 4 ", "", None, "4.5", "nan", "inf", "1e400", "Doe^Jane", -1, 10**9)
    numbers = [OtherSeries(others.series_number(value), "").number for value in values]
    assert numbers == [4] * 4 + [None] * 9


def test_they_survive_the_database() -> None:
    assert others.from_json(others.to_json(THREE)) == THREE
    assert others.from_json(None) == ()
    with pytest.raises(ValueError, match="number"):
        others.from_json([{"number": "x", "why": "y"}])


def test_other_words_are_another_object() -> None:
    analysis = make_analysis()
    sets = [uids.result_set(analysis, make_context(others=told)) for told in ((), THREE, THREE[:2], THREE)]
    assert len(set(sets)) == 3
    assert sets[1] == sets[3]


def test_many_series_and_many_warnings_stay_in_their_panels() -> None:
    many = tuple(OtherSeries(number, f"sharp kernel B{number}f, another was chosen") for number in range(60, 72))
    canvas = Canvas(Image.new("RGB", (picture.WIDTH, picture.HEIGHT)))
    left = picture._draw_others(canvas, make_context(others=many), make_analysis())
    assert all(left.bottom < word.box.top for word in canvas.words)
    assert all(word.box.bottom < picture._WARNINGS.bottom for word in canvas.words)
    assert all(word.box.right < picture._WARNINGS.right for word in canvas.words)
    assert left.height > 0.6 * picture._WARNINGS.height
    assert "Not analysed: 12 other series" in words_on(canvas)


def test_warnings_come_before_other_series() -> None:
    """What fits beside one line fits: the reasons are left to the report, a warning is not."""
    texts = [f"Warning {number}. " + "The score may be too low. " * 3 for number in range(3)] + ["Warning 3."]
    flags = tuple(Flag(f"F{number}", text) for number, text in enumerate(texts))
    words = words_on(picture.draw(make_analysis(flags=flags), make_context(others=THREE)))
    assert "Not analysed: 3 other series of this study, see the report" in words
    assert "Warning 3." in words and "more: see the report" not in words


def test_the_pixels_of_the_rest_of_the_page_stay() -> None:
    analysis = make_analysis()
    pages = [np.asarray(picture.render(analysis, make_context(others=told))) for told in ((), THREE)]
    np.testing.assert_array_equal(pages[0][:700], pages[1][:700])
    np.testing.assert_array_equal(pages[0][:, 680:], pages[1][:, 680:])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole series, and beside it one of the study, one of another patient, one of another study."""
    folder = tmp_path_factory.mktemp("study")
    first = phantom.write_series(phantom.make(SPEC), folder / "ct")[0]
    beside = {
        "9.1": {"SeriesNumber": 7, "SeriesDescription": "Doe^Jane </p>"},
        "9.2": {"PatientID": "SOMEBODY ELSE"},
        "9.3": {"StudyInstanceUID": "9"},
        "9.4": {"SeriesNumber": "Doe^Jane"},
    }
    for uid, changes in beside.items():
        ds = dcmread(first)
        for keyword, value in {"SeriesInstanceUID": uid, **changes}.items():
            if keyword == "SeriesNumber":
                ds.add_new("SeriesNumber", "LO", str(value))
            else:
                setattr(ds, keyword, value)
        ds.save_as(folder / f"{uid}.dcm")
    return folder


def test_a_folder_with_several_series_names_those_beside_the_chosen_one(study: Path) -> None:
    found = series_files.series_in(study)
    (chosen,) = (uid for uid, files in found.items() if len(files) > 1)
    told = set(series_files.others_in(found, chosen))
    assert told == {OtherSeries(7, others.ANOTHER_ASKED_FOR), OtherSeries(None, others.ANOTHER_ASKED_FOR)}


def test_the_module_takes_one_of_several_series(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run.main([str(study)]) == 1
    assert "--series" in capsys.readouterr().err
    assert run.main([str(study), "--series", "1.2.3"]) == 1
    assert "--series" in capsys.readouterr().err
    found = series_files.series_in(study)
    (chosen,) = (uid for uid, files in found.items() if len(files) > 1)
    assert run.main([str(study), "--series", chosen, "--out", str(tmp_path), "--device", "cpu"]) == 0
    told = evaluations(dcmread(tmp_path / "sr.dcm"))[codes.OTHER_SERIES.value]
    assert told == (f"2 other series of this study (series 7 and 1 without number: {others.ANOTHER_ASKED_FOR})")
    assert told in capsys.readouterr().out


def test_what_the_node_knows_reaches_every_profile(study: Path, tmp_path: Path) -> None:
    files = tuple(sorted((study / "ct").iterdir()))
    settings = PipelineSettings(device="cpu", threads=1)
    profiles = (Profile(), Profile("plain", seg="NONE", picture=False))
    asked = AnalysisRequest(files, tmp_path, settings, profiles, CREATED, others=THREE)
    outcome = run.analyse_series(asked)
    reports = [dcmread(each.path) for each in outcome.objects if each.kind is ResultKind.SR]
    assert [evaluations(report)[codes.OTHER_SERIES.value] for report in reports] == [TOLD, TOLD]
    assert outcome.report["not_analysed"] == TOLD
