"""The whole way, once: studies in a PACS → cohort → UNet-1 → EM UNet-2 → package → the node analyses new studies.

    python benchmarks/mission.py [--studies 36] [--new 3] [--epochs 60] [--grid 128] [--features 16] [--folder DIR]

Phantom studies lie in Orthanc: healthy ones, GGO only, and GGO with consolidation. Half of those with lesions are
contoured (RTSTRUCT: infection alone, so that no pixel says what is consolidated); every study has a report, from
which `dicomnode-train cohort --pacs` takes the patient-level labels. UNet-1 learns from the contoured cases, UNet-2
by EM from the reports alone. The package is installed in the node, which gets studies that none of this has seen.
Scores are printed beside the truth; the exit status says whether all are within 10 % (relative).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import tomli_w
from rich.console import Console
from rich.table import Table

from pipeline import phantom, volume
from pipeline.package import Licence
from pipeline.phantom import PhantomSpec
from pipeline.preprocess import Preprocessing
from pipeline.types import PipelineSettings
from pipeline.unet import Architecture
from tests.fixtures import drawings, studies
from tests.fixtures.dcmtk import Dcmtk
from tests.fixtures.orthanc import Orthanc
from tests.fixtures.served import COMMAND, Served
from training import demo, export, lung_origin, prepare, runs
from training.data import Folders, Setting
from training.recipes import TOY, TOY_EM
from training.runs import Where

SPEC = PhantomSpec(slices=32, rows=160, columns=160, slice_spacing_mm=9.5, noise_hu=12.0)
KINDS = ("healthy", "ggo", "both")
REPORTS = {
    "healthy": "The lungs are clear. No ground-glass opacity, no consolidation.",
    "ggo": "Multifocal ground-glass opacities. The consolidation of the previous study has resolved.",
    "both": "Ground-glass opacities with consolidation in the lower lobe.",
}
TRUTH_WITHIN = 0.10
SCORED = {"trust": 0.5, "b2_within": (6.4, 7.49)}  # b2: −320 … −200 HU; docs/training.md, Choices
console = Console()


def chest(kind: str, seed: int) -> phantom.Phantom:
    """A study of this kind; the seed gives it again."""
    return demo.study(kind, seed, SPEC)


def fill(pacs: Orthanc, folder: Path, count: int) -> None:
    """CT, report, and for each third case with lesions contours of the infection."""
    for number in range(count):
        kind, name = KINDS[number % len(KINDS)], f"M{number:03d}"
        drawn = chest(kind, number)
        attributes = {"PatientID": name, "AccessionNumber": f"A-{name}"}
        files = phantom.write_series(drawn, folder / name, uid_seed=name, attributes=attributes)
        ct = volume.load(files, PipelineSettings())
        studies.report(ct, REPORTS[kind], folder / name / "sr.dcm", history="Consolidation?")
        if kind != "healthy" and number % 2:
            drawings.as_rt_struct(ct, {"infection": drawn.lesions.infection}, folder / name / "rt.dcm")
    for path in sorted(folder.rglob("*.dcm")):
        pacs.upload(path)


def call(*arguments: str) -> None:
    """One of the project's commands, shown and run."""
    console.print(f"[dim]$ {' '.join(arguments)}[/]", soft_wrap=True, highlight=False)
    subprocess.run([str(COMMAND.with_name(arguments[0])), *arguments[1:]], check=True)


def train(cohort: Path, folder: Path, options: argparse.Namespace) -> Path:
    """Prepared cohort, both networks, package; where it lies."""
    grid = Preprocessing(rows=options.grid, columns=options.grid)
    with prepare.executor(options.jobs) as pool:
        prepare.prepare(cohort, folder / "prepared", grid, prepare.Lungs("network"), pool)
    setting = Setting(
        architecture=Architecture(features=options.features),
        preprocessing=grid,
        lungs="network",
        lung_network=lung_origin.read(None).mark,
    )
    first = TOY.model_copy(update={"epochs": options.epochs})
    second = TOY_EM.model_copy(update={"epochs": max(6, options.epochs // 6), **SCORED})
    folders = Folders(folder / "prepared")
    runs.all_data_unet1(folders, setting, first, 1, Where(folder / "unet1", options.device))
    runs.all_data_unet2(folders, setting, second, folder / "unet1", 1, Where(folder / "unet2", options.device))
    licence = Licence(name="Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0", notice="phantoms only")
    label = export.Label("mission", "1.0", ("phantom studies",), licence, {}, {"MODEL_CARD.md": "A benchmark."})
    export.export(folder / "unet1", folder / "unet2", label, folder / "mission")
    return folder / "mission"


def judge(node: Served, dcmtk: Dcmtk, folder: Path, count: int) -> bool:
    """Send new studies; scores beside the truth, and whether all are near enough."""
    table = Table("new study", "score", "found", "truth", "relative error")
    good = True
    for number in range(count):
        drawn = chest("both", 9001 + number)
        name, lungs = f"NEW{number}", drawn.lungs.both
        files = phantom.write_series(drawn, folder / name, uid_seed=name, attributes={"PatientID": name})
        assert dcmtk.dcmsend(node.port, [folder / name], "DICOMNODE").returncode == 0
        details = node.settled(volume.load(files, PipelineSettings()).series_uid)
        (folder / f"{name}.json").write_text(json.dumps(details, indent=2))
        report = details["jobs"][-1]["report"]
        masks = {"severity_score": drawn.lesions.infection, "consolidation_score": drawn.lesions.consolidation}
        for score, mask in masks.items():
            truth = float((mask & lungs).sum() / lungs.sum())
            error = report[score] / truth - 1
            good &= abs(error) <= TRUTH_WITHIN
            table.add_row(name, score, f"{report[score]:.4f}", f"{truth:.4f}", f"{error:+.1%}")
    console.print(table)
    return good


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=36)
    parser.add_argument("--new", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--grid", type=int, default=128)
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="dicomnode-mission-"))
    pacs = Orthanc(folder / "orthanc", DicomAlwaysAllowGet=True, DicomAlwaysAllowMove=True)
    pacs.start()
    collector = Served(folder / "collector")  # a node for training only, as docs/cohort.md advises
    collector.config["sources"] = [pacs.destination()]
    node = Served(folder / "node", analysis={"device": "cpu"})
    try:
        fill(pacs, folder / "studies", options.studies)
        pacs.know("DICOMNODE", collector.start())
        pull = ["--pacs", "pacs", "--config", str(collector.path), "--body-part", "CHEST", "--rate", "0"]
        call("dicomnode-train", "cohort", str(folder / "cohort"), *pull, "--validation", "0", "--test", "0")
        collector.stop()
        package = train(folder / "cohort", folder, options)
        node.path.write_text(tomli_w.dumps(node.config))
        call("dicomnode", "models", "install", str(package), "--config", str(node.path))
        (installed,) = (node.state_dir / "models").iterdir()
        node.config["analysis"]["model"] = str(installed)
        node.start()
        return 0 if judge(node, Dcmtk(str), folder, options.new) else 1
    finally:
        for server in (collector, node, pacs):
            server.kill()
        console.print(f"everything lies in {folder}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
