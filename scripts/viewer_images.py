"""Makes the documents' pictures of OHIF: python -m scripts.viewer_images [FOLDER, default docs/images].

Orthanc, Chromium and the viewer are those of the tests (scripts/system-packages.sh, scripts/viewer.sh).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from pipeline import keyslices, phantom, run
from pipeline.types import Analysis, PipelineSettings, Profile, ResultContext
from tests.fixtures import browser, ohif
from tests.fixtures.orthanc import DICOMWEB, Orthanc
from tests.fixtures.reading import Reader

SPEC = phantom.PhantomSpec(rows=384, columns=384)
CREATED = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SIZE = (1360, 800)


def main(folder: Path) -> None:
    """Analyse a phantom, open its study in the viewer, photograph what a radiologist sees."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        files = phantom.write_series(phantom.make(SPEC), place / "ct")
        analysis = run.analyse(files, PipelineSettings())
        results = run.write_results(analysis, ResultContext(CREATED, Profile(key_slices=True)), place / "results")
        orthanc = Orthanc(place / "pacs", [DICOMWEB], DicomWeb=ohif.ORTHANC_OPTIONS)
        orthanc.start()
        try:
            for path in [*files, *(result.path for result in results)]:
                orthanc.upload(path)
            with ohif.serving(orthanc.http_port) as address, sync_playwright() as playwright:
                started = playwright.chromium.launch(
                    executable_path="/usr/bin/chromium", args=list(browser.ARGUMENTS)
                )
                for name, show in PICTURES.items():
                    study_uid = str(analysis.volume.headers[0].StudyInstanceUID)
                    with Reader(started, address, study_uid, SIZE) as reader:
                        show(reader, analysis)
                        _keep(reader, folder / f"{name}.png")
                started.close()
        finally:
            orthanc.kill()


def _overlay(reader: Reader, analysis: Analysis) -> None:
    reader.open_segmentation("Lung opacity SEG")
    reader.open_panel()
    (index,) = keyslices.lesion_slices(analysis, 1)
    source = analysis.volume.headers[keyslices.source_index(analysis, index)]
    reader.look(reader.stack().index(str(source.SOPInstanceUID)))


def _report(reader: Reader, analysis: Analysis) -> None:
    reader.open("Lung opacity report")
    reader.page.get_by_text("Severity score").first.wait_for()
    reader.look()


def _picture(reader: Reader, analysis: Analysis) -> None:
    reader.open_image("Lung opacity picture")
    reader.look()


PICTURES: dict[str, Callable[[Reader, Analysis], None]] = {
    "ohif-overlay": _overlay,
    "ohif-report": _report,
    "ohif-picture": _picture,
}


def _keep(reader: Reader, path: Path) -> None:
    """With few colours, so that the file stays small."""
    reader.photograph(path)
    with Image.open(path) as taken:
        few = taken.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    few.save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "docs" / "images")
