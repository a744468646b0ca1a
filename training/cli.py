"""`dicomnode-train`: from a cohort to a model package. Each command lives in the module of its kind."""

from __future__ import annotations

import sys

import typer

from dicom_node import cli_exit
from training import distributed
from training.cli_cohort import cohort, prepare
from training.cli_demo import demo
from training.cli_evaluate import evaluate
from training.cli_options import quiet_for
from training.cli_published import import_published
from training.cli_train import crossval, export, lungs, unet1, unet2
from training.errors import TrainingError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train, cross-validate, export and evaluate model packages. Research use only.",
)
for command in (demo, cohort, prepare, lungs, unet1, unet2, crossval, export, evaluate, import_published):
    app.command()(command)


def main() -> None:
    """Entry point: errors of ours are a sentence on standard error and an exit status, as of `dicomnode`."""
    quiet_for(json=False)
    with distributed.joined():
        status = cli_exit.run(app, sys.argv[1:], "dicomnode-train", (TrainingError, *cli_exit.EXPECTED))
    sys.exit(status)
