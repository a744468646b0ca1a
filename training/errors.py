"""Errors of training; the message is a sentence for the researcher."""


class TrainingError(Exception):
    """Base of every error that training raises on purpose."""


class CohortError(TrainingError):
    """The cohort folder is not usable; the message lists every complaint."""


class RunError(TrainingError):
    """A run folder does not fit the command, or training went astray."""


class PublishedError(TrainingError):
    """A published checkpoint cannot be imported."""
