"""What reports say: negation, uncertainty, earlier states and sections, in English and German."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import reports
from training.errors import CohortError

LANGUAGES = [reports.read_terms(reports.shipped(language)) for language in reports.LANGUAGES]

CONSOLIDATION = [
    ("No consolidation.", "absent"),
    ("There is no focal consolidation, effusion or pneumothorax.", "absent"),
    ("No pleural effusion, pneumothorax or consolidation is seen.", "absent"),
    ("The consolidation has resolved.", "absent"),
    ("Previously seen consolidation in the left lower lobe has completely resolved.", "absent"),
    ("Consolidation in the right lower lobe, previously seen, has resolved.", "absent"),
    ("Consolidation: none", "absent"),
    ("Interval resolution of the consolidation.", "absent"),
    ("The consolidation is no longer seen.", "absent"),
    ("INDICATION: rule out consolidation\nFINDINGS:\nThe lungs are clear without consolidation.", "absent"),
    ("Consolidation in the right lower lobe, effusion has resolved.", "present"),
    ("Pneumothorax resolved, consolidation unchanged.", "present"),
    ("No pneumothorax, but consolidation in the left lower lobe.", "present"),
    ("No significant change in the right basal consolidation.", "present"),
    ("Partially resolved consolidation on the right.", "present"),
    ("The consolidation has not resolved.", "present"),
    ("Consolidation without cavitation in the right upper lobe.", "present"),
    ("Airspace consolidation, likely pneumonia.", "present"),
    ("No consolidation on the right. New consolidation on the left.", "present"),
    ("Possible consolidation in the lingula.", "uncertain"),
    ("Consolidation cannot be excluded.", "uncertain"),
    ("No new consolidation.", "uncertain"),
    ("Atelectasis versus consolidation at the left base.", "uncertain"),
    ("History: pneumonia with consolidation.\nFindings: Lungs are clear.", "not mentioned"),
    ("Normal chest.", "not mentioned"),
    ("", "not mentioned"),
    ("Keine Konsolidierung.", "absent"),
    ("Kein Nachweis von Konsolidierungen oder Milchglastrübungen.", "absent"),
    ("Die Konsolidierung ist vollständig regredient.", "absent"),
    ("Konsolidierungen sind nicht mehr nachweisbar.", "absent"),
    ("Konsolidierungen: keine.", "absent"),
    ("Weder Konsolidierung noch Erguss.", "absent"),
    ("Milchglastrübungen beidseits, keine Konsolidierung.", "absent"),
    ("Konsolidierung rechts basal, keine Ergüsse.", "present"),
    ("Unveränderte Konsolidierung im rechten Unterlappen.", "present"),
    ("Rückläufige Konsolidierungen beidseits.", "present"),
    ("Kein Pleuraerguss, aber neu aufgetretene Konsolidierung links.", "present"),
    ("Keine wesentliche Befundänderung der Konsolidierung rechts.", "present"),
    ("V.a. Konsolidierung links.", "uncertain"),
    ("Konsolidierung kann nicht ausgeschlossen werden.", "uncertain"),
    ("Z.n. Konsolidierung.", "uncertain"),
    ("Konsolidierung?", "uncertain"),
    ("Fragestellung: Konsolidierung?\nBefund: Die Lunge ist frei.", "not mentioned"),
]


@pytest.mark.parametrize(("text", "decision"), CONSOLIDATION)
def test_a_report_is_judged(text: str, decision: str) -> None:
    assert reports.judge(text, LANGUAGES)["consolidation"].decision == decision


def test_findings_are_told_apart_and_the_sentence_is_kept() -> None:
    found = reports.judge("Bilateral ground-glass opacities,\n  crazy paving. No consolidation.", LANGUAGES)
    assert found["ggo"] == reports.Judgement(
        reports.Decision.PRESENT, "Bilateral ground-glass opacities, crazy paving."
    )
    assert found["consolidation"] == reports.Judgement(reports.Decision.ABSENT, "No consolidation.")
    assert (found["ggo"].decision.flag, found["consolidation"].decision.flag) == (True, False)
    assert reports.Decision.UNCERTAIN.flag is None


@given(st.text(max_size=300))
def test_any_text_is_judged_without_an_error(text: str) -> None:
    found = reports.judge(text, LANGUAGES)
    assert set(found) == {"consolidation", "ggo"}
    assert all(len(one.sentence) <= reports.MAX_SENTENCE for one in found.values())


@given(st.sampled_from([text for text, decision in CONSOLIDATION if decision == "absent" and "\n" not in text]))
def test_one_present_mention_decides_whatever_else_is_absent(absent: str) -> None:
    said = reports.judge(f"{absent}\n\n{PRESENT[reports.language_of(absent, LANGUAGES).language]}", LANGUAGES)
    assert said["consolidation"].decision == "present"


PRESENT = {"en": "There is a consolidation.", "de": "Es findet sich eine Konsolidierung."}


@pytest.mark.parametrize("content", ["", "language = 1", "not toml ["])
def test_a_file_that_is_no_terms_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "terms.toml"
    path.write_text(content)
    with pytest.raises(CohortError, match="no file of report terms"):
        reports.read_terms(path)
