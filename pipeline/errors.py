"""Errors of the pipeline. The class says what the node does next; the message is a sentence for a person."""

from pathlib import Path


class PipelineError(Exception):
    """Base of every error that the pipeline raises on purpose."""


class SeriesRejected(PipelineError):
    """The series cannot be analysed, now or later. ``str(error)`` is the reason shown to people."""


class ModelError(PipelineError):
    """A model package or a lung weights file is missing, damaged or of another layout."""


class ResultError(PipelineError):
    """A result object could not be built or failed its own checks: a fault of this software.

    Attributes:
        rejected: the object that failed, kept for whoever looks into it; it must not be sent.
    """

    rejected: Path | None = None
