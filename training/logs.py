"""What a run says of itself: log.csv, TensorBoard events, and a bar with images/s and the time left."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from training import checkpoint

LOG = "log.csv"
EVENTS = "tensorboard"


@dataclass(frozen=True)
class Row:
    """One epoch.

    Attributes:
        rate: learning rate.
        images_per_s: images through the step, waiting included.
        waiting, e_step: shares of the epoch's time that went on waiting for data, and on the E-step.
        part: images that went through the network at once; 0 is the whole batch.
    """

    epoch: int
    loss: float
    rate: float
    images_per_s: float
    waiting: float
    e_step: float
    part: int

    def shown(self) -> dict[str, str]:
        """The values as log.csv has them."""
        return {
            "epoch": str(self.epoch),
            "loss": f"{self.loss:.6f}",
            "rate": f"{self.rate:.3e}",
            "images_per_s": f"{self.images_per_s:.2f}",
            "waiting": f"{self.waiting:.4f}",
            "e_step": f"{self.e_step:.4f}",
            "part": str(self.part),
        }


class Journal:
    """The log of a run, from the epochs that a resumed run has behind it.

    log.csv is written whole from the epochs in the checkpoint: no epoch is missing or there twice, whenever the run
    was killed. `silent` (the ranks that do not write) shows and writes nothing.
    """

    def __init__(self, folder: Path, name: str, epochs: int, done: Sequence[Row], silent: bool) -> None:
        self._path = folder / LOG
        self._silent = silent
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]} of {task.total}, {task.fields[said]}"),
            TimeRemainingColumn(),
            disable=silent,
        )
        self._bar = self._progress.add_task(name, total=epochs, completed=len(done), epoch=len(done), said="")
        self._events = SummaryWriter(  # a name of its own: two starts within a second would share a file
            str(folder / EVENTS),
            purge_step=len(done),
            write_to_disk=not silent,
            filename_suffix=f".after{len(done)}",
        )
        if done:
            self.epoch(done)

    def __enter__(self) -> Journal:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._events.close()

    def step(self, epochs: float, images_per_s: float, loss: float) -> None:
        """How far the run is, in epochs and parts of one."""
        said = f"{images_per_s:.1f} images/s, loss {loss:.4f}"
        self._progress.update(self._bar, completed=epochs, epoch=int(epochs) + 1, said=said)

    def epoch(self, rows: Sequence[Row]) -> None:
        """All epochs so far; the last one is new."""
        last = rows[-1]
        said = f"{last.images_per_s:.1f} images/s, loss {last.loss:.4f}"
        said += f", waiting {last.waiting:.0%}" if last.waiting >= 0.005 else ""
        said += f", E-step {last.e_step:.0%}" if last.e_step >= 0.005 else ""
        said += f", {last.part} images at once" if last.part else ""
        self._progress.update(self._bar, completed=last.epoch, epoch=last.epoch, said=said)
        if self._silent:
            return
        table = io.StringIO()
        writer = csv.DictWriter(table, list(last.shown()), lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(row.shown() for row in rows)
        checkpoint.write(self._path, table.getvalue().encode())
        for name, value in asdict(last).items():
            if name != "epoch":
                self._events.add_scalar(name, value, last.epoch)
        self._events.flush()
