"""What runs inside a worker process. Imported by reference only: the node itself never loads torch."""

from __future__ import annotations

from pipeline.types import AnalysisOutcome, AnalysisRequest


def warm_up() -> None:
    """Load the pipeline before the first series comes."""
    import pipeline.run  # noqa: F401  # for the import itself


def analyse(request: AnalysisRequest) -> AnalysisOutcome:
    """`pipeline.run.analyse_series`."""
    from pipeline.run import analyse_series

    return analyse_series(request)
