"""`dicomnode-train`: from a cohort to a model package. Each command lives in the module of its kind."""

from __future__ import annotations

import os

import typer

from dicom_node.errors import NodeError
from pipeline.errors import PipelineError
from training import distributed
from training.cli_cohort import cohort, prepare
from training.cli_evaluate import evaluate
from training.cli_options import console
from training.cli_published import import_published
from training.cli_train import crossval, export, lungs, unet1, unet2
from training.errors import TrainingError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, cross-validate, export and evaluate model packages. Research use only.",
)
for command in (cohort, prepare, lungs, unet1, unet2, crossval, export, evaluate, import_published):
    app.command()(command)


def main() -> None:
    """Entry point: errors of ours are a sentence and exit status 1."""
    console.quiet = int(os.environ.get("RANK", "0")) > 0  # one voice for all processes of torchrun
    try:
        with distributed.joined():
            app()
    except (TrainingError, NodeError, PipelineError) as error:
        console.quiet = False
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from error
