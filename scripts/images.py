"""Makes the pictures of the documents from phantoms: python scripts/images.py [FOLDER, default docs/images]."""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from pipeline import phantom, run
from pipeline.types import PipelineSettings, Profile

CASES = {
    "picture-phantom": phantom.PhantomSpec(rows=512, columns=512),
    "picture-healthy": phantom.PhantomSpec(lesions=()),
}
CREATED = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def main(folder: Path) -> None:
    """Analyse each phantom and keep its picture, with few colours so that the file stays small."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, spec in CASES.items():
        with tempfile.TemporaryDirectory() as temporary:
            files = phantom.write_series(phantom.make(spec), Path(temporary) / "ct")
            run.process_folder(files, Path(temporary) / "out", PipelineSettings(), Profile(), CREATED)
            picture = Image.open(Path(temporary) / "out" / run.PICTURE)
            picture.quantize(200).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "docs" / "images")
