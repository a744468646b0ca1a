"""The process that receives never loads what a worker needs: it must stay small, and alive when CUDA is not."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "lungmask", "SimpleITK", "highdicom", "pipeline.run")


def test_dispatch_and_decisions_do_not_load_the_pipeline() -> None:
    modules = "dicom_node.coordinator, dicom_node.ingest, dicom_node.ledger, dicom_node.worker"
    script = f"import sys, {modules}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
