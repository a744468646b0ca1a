"""What reports say: negation, uncertainty, earlier states and sections, in English and German."""

from __future__ import annotations

import textwrap
import unicodedata
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
    ("Partial resolution of the left lower lobe consolidation.", "present"),
    ("Near-complete resolution of the consolidation.", "uncertain"),
    ("The consolidation has not fully resolved.", "present"),
    ("No progression of the bilateral consolidations.", "present"),
    ("Consolidation cannot be completely excluded.", "uncertain"),
    ("Underlying consolidation cannot be definitely ruled out.", "uncertain"),
    ("Consolidation is unlikely.", "uncertain"),
    ("Bibasilar atelectasis/consolidation.", "present"),
    ("No pleural effusion.Consolidation in the left lower lobe.", "present"),
    ("Pleural effusion: no\nConsolidation: yes, right lower lobe", "present"),
    ("Consolidation: No consolidation.", "absent"),
    ("Consolidation or ground glass: none.", "absent"),
    ("The lungs are clear of consolidation.", "absent"),
    ("Consolidation is not appreciated.", "absent"),
    ("The consolidation on the left has resolved.", "absent"),
    ("Consolidation in the right lower lobe, which has resolved.", "absent"),
    ("The consolidation has now resolved.", "absent"),
    ("New consolidation in the right lower lobe, not seen on the prior study.", "present"),
    ("Right lower lobe consolidation not present on the previous CT.", "present"),
    ("Compared with the prior CT the consolidation is larger.", "present"),
    ("No evidence of new consolidation.", "uncertain"),
    ("No other consolidation.", "uncertain"),
    ("The heart is not enlarged, bilateral consolidations.", "present"),
    ("Interval resolution of the pleural effusion with persistent consolidation at the right base.", "present"),
    ("The left lower lobe is consolidated.", "present"),
    ("INDICATION: rule out pneumonia. FINDINGS: Consolidation in the lingula. IMPRESSION: Pneumonia.", "present"),
    ("INDICATION: known consolidation FINDINGS: The lungs are clear. No consolidation.", "absent"),
    ("HISTORY/INDICATION: Pneumonia with consolidation.\nFINDINGS: Normal.", "not mentioned"),
    (
        "No pleural effusion\nNo pneumothorax\nConsolidation in the left lower lobe, bronchograms\nHeart normal",
        "present",
    ),
    (
        "The lungs are expanded. There is no pleural effusion, pneumothorax, or\nconsolidation. Normal heart.",
        "absent",
    ),
    ("INDICATION: fever\rFINDINGS: Consolidation in the lingula.", "present"),
    ("INDICATION: consolidation?\\.br\\FINDINGS: Lungs clear.", "not mentioned"),
    ("History:\nPneumonia\nFindings:\nConsoli-\ndation in the right lower lobe.", "present"),
    ("Die vorbeschriebenen Konsolidierungen zeigen sich nicht mehr.", "absent"),
    ("Die Konsolidierung ist jetzt nicht mehr nachweisbar.", "absent"),
    ("Die Konsolidierung ist noch nicht vollständig zurückgebildet.", "present"),
    ("Die Konsolidierung ist fast vollständig regredient.", "uncertain"),
    ("Nahezu vollständige Rückbildung der Konsolidierungen.", "uncertain"),
    ("Die Konsolidierung hat sich deutlich zurückgebildet.", "present"),
    ("Teilweise zurückgebildete Konsolidierung rechts.", "present"),
    ("Es finden sich noch geringe Konsolidierungen links basal.", "present"),
    ("Eine Konsolidierung kann nicht mit Sicherheit ausgeschlossen werden.", "uncertain"),
    ("Eine beginnende Konsolidierung ist nicht gänzlich auszuschließen.", "uncertain"),
    ("Konsolidierung nicht auszuschliessen.", "uncertain"),
    ("Eine Konsolidierung laesst sich nicht sicher ausschliessen.", "uncertain"),
    ("Moegliche Konsolidierung links basal.", "uncertain"),
    ("Konsolidierungen liegen nicht vor.", "absent"),
    ("Konsolidierungen finden sich nicht.", "absent"),
    ("Konsolidierungen: keine nachweisbar.", "absent"),
    ("Infiltrat/Konsolidierung: nein", "absent"),
    ("Keine Progredienz der Konsolidierungen.", "present"),
    ("Keine signifikante Größenzunahme der Konsolidierung rechts.", "present"),
    ("Kein Nachweis neuer Konsolidierungen.", "uncertain"),
    ("Keine weiteren Konsolidierungen.", "uncertain"),
    ("Z. n. Konsolidierung rechts.", "uncertain"),
    ("V. a. Konsolidierung im linken Unterlappen.", "uncertain"),
    ("V.a. eine 2,5 cm große Konsolidierung links.", "uncertain"),
    ("Konsolidierung unwahrscheinlich.", "uncertain"),
    (
        "Klinische Angaben und Fragestellung: Pneumonie mit Konsolidierung links, Verlauf.\nBefund: Unauffällig.",
        "not mentioned",
    ),
    ("Fragestellung: Pneumonie? Befund: Konsolidierung im linken Unterlappen.", "present"),
    ("Fragestellung: Pneumonie?\nBefund CT Thorax nativ: Konsolidierung im linken Unterlappen.", "present"),
    ("Kein Nachweis pneum. Infiltrate oder Konsolidierungen.", "absent"),
    ("Pneumonisches Infiltrat im rechten Oberlappen.", "present"),
    ("Konsolidierung rechts, nicht mehr progredient.", "present"),
    (
        "Kein Pleuraerguss\nKein Pneumothorax\nKonsolidierung im Unterlappen, Bronchopneumogramm\nHerz normal",
        "present",
    ),
    ("Kein Nachweis von Infiltraten, Ergüssen oder\nKonsolidierungen im Bereich beider Lungen.", "absent"),
    ("Neben der Konsolidierung finden sich keine weiteren Auffälligkeiten.", "present"),
    ("Die Konsolidierung zeigt sich nicht verändert.", "present"),
    ("Previously demonstrated consolidation now completely resolved.", "absent"),
    ("No mass, nodule, or consolidation. Comparison: CT 2019 with consolidation.", "absent"),
    ("Comparison is made to the previous studies: consolidation has increased.", "present"),
    ("Non-consolidative opacities.", "absent"),
    ("Im Vergleich zur Voruntersuchung: Konsolidierung rückläufig.", "present"),
    ("Keine vollständige Rückbildung der Konsolidierung.", "present"),
    ("Befund und Beurteilung: Konsolidierung links.", "present"),
    ("Technik und Befund: Konsolidierung links.", "present"),
    ("Konsolidierung links, zuvor nicht nachweisbar.", "present"),
    ("The lungs demonstrate no evidence for acute airspace disease.", "absent"),
    ("No fibrotic change or consolidation.", "absent"),
    ("In der Lunge finden sich keine Konsolidierungen.", "absent"),
    ("Kein Hinweis für Konsolidierung.", "absent"),
    ("Progrediente, teils konfluierende Konsolidierungen in allen Lungenlappen.", "present"),
    ("Nicht mehr nachweisbare Konsolidierungen beidseits.", "absent"),
    ("Die vorbeschriebene, jetzt nicht mehr nachweisbare Konsolidierung.", "absent"),
    ("Nicht mehr abgrenzbare Konsolidierung im Mittellappen.", "absent"),
    ("Nicht mehr erkennbar sind die Konsolidierungen im rechten Unterlappen.", "absent"),
    ("Nicht nachweisbar ist eine Konsolidierung.", "absent"),
    ("Konsolidierung, die nicht mehr nachweisbar ist.", "absent"),
    ("Erguss nicht mehr nachweisbar und Konsolidierung rückläufig.", "present"),
    ("Nicht mehr so ausgeprägte Konsolidierungen beidseits.", "present"),
    ("Neu aufgetretene, in der Voruntersuchung nicht nachweisbare Konsolidierung links.", "present"),
    ("Aufgelöste Konsolidierung.", "absent"),
    ("Vollständig aufgelöste Konsolidierung.", "absent"),
    ("Fast vollständig aufgelöste Konsolidierung rechts.", "uncertain"),
    ("Nicht vollständig aufgelöste Konsolidierung links.", "present"),
    ("Teilweise aufgelöste Konsolidierung im linken Unterlappen.", "present"),
    ("Hoch aufgelöste CT: Konsolidierung im Mittellappen.", "present"),
    ("CT ohne Kontrastmittel: Konsolidierung rechts.", "present"),
    ("CT Thorax ohne KM: keine Konsolidierung.", "absent"),
    ("Nativ-CT ohne i.v. KM: Konsolidierungen in beiden UL.", "present"),
    ("Nicht kontrastmittelverstärkte CT: Konsolidierung im linken Oberlappen.", "present"),
    ("Kein Anhalt f. Konsolidierung.", "absent"),
    ("Crazy paving und GGO bds., consolidation im UL re.", "present"),
    ("GGO bds., keine Consolidation.", "absent"),
    ("No longer visible consolidation.", "absent"),
    ("No longer seen is the consolidation.", "absent"),
    ("No longer identified are the right upper lobe consolidations.", "absent"),
    ("Not seen is any consolidation.", "absent"),
    ("Resolution not seen: consolidation persists.", "present"),
    ("Improvement not seen: consolidation unchanged.", "present"),
    ("Lungs without consolidation after contrast administration.", "absent"),
    ("Lungs without consolidation or contrast extravasation.", "absent"),
    ("Lungs without contrast-enhancing consolidation.", "absent"),
    ("Lunge ohne Konsolidierung nach Kontrastmittelgabe.", "absent"),
    ("Lungen ohne Konsolidierung oder kontrastmittelaufnehmende Herde.", "absent"),
    ("Ohne kontrastmittelaufnehmende Konsolidierung.", "absent"),
    ("Effusion no longer seen and consolidation has increased.", "present"),
    ("Right effusion no longer seen on today's exam and consolidation is unchanged.", "present"),
    ("Consolidation no longer visible and effusion decreased.", "absent"),
    ("Consolidation has nearly completely cleared.", "uncertain"),
    ("CT chest without contrast shows consolidation.", "present"),
    ("CT of the chest without IV contrast demonstrates consolidation in the right lower lobe.", "present"),
    ("Study performed without oral or IV contrast, bibasilar consolidation.", "present"),
    ("Non-contrast CT shows consolidation.", "present"),
    ("Non-contrast CT of the chest shows no consolidation.", "absent"),
    ("Non-calcified nodule and consolidation in the RLL.", "present"),
    ("Lungs w/o focal consolidation.", "absent"),
    ("Chest CT w/o contrast: consolidation in the RLL.", "present"),
    ("Nil focal consolidation or collapse.", "absent"),
]


@pytest.mark.parametrize(("text", "decision"), CONSOLIDATION)
def test_a_report_is_judged(text: str, decision: str) -> None:
    assert reports.judge(text, LANGUAGES)["consolidation"].decision == decision


def test_folded_and_decomposed_text_says_the_same() -> None:
    for text, decision in CONSOLIDATION[::3]:
        lines = [FIRST[reports.language_of(text, LANGUAGES).language], *text.splitlines()]
        lines = [part for line in lines for part in textwrap.wrap(line, 60)]
        told = unicodedata.normalize("NFD", "\r\n".join(lines))
        assert reports.judge(told, LANGUAGES)["consolidation"].decision == decision, told


FIRST = {
    "en": "Findings: The thyroid gland is normal in size and shows no nodules. The heart is normal in size.",
    "de": "Befund: Die Schilddrüse ist nicht vergrößert und zeigt keine Knoten. Das Herz ist normal groß.",
}


def test_a_file_of_terms_may_use_asterisks_in_every_list(tmp_path: Path) -> None:
    path = tmp_path / "terms.toml"
    content = reports.shipped("de").read_text(encoding="utf-8")
    path.write_text(content.replace('"verschwunden"', '"verschw*", "nicht * gesehen"'), encoding="utf-8")
    own = [reports.read_terms(path)]
    for text in ("Die Konsolidierungen sind verschwundene.", "Konsolidierung nicht sicherlich gesehen."):
        assert reports.judge(text, own)["consolidation"].decision == "absent"


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


@given(st.sampled_from([text for text, decision in CONSOLIDATION if decision == "absent" and ":" not in text]))
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
