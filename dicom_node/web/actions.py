"""POST /series/UID/retry and /cancel: as `dicomnode retry` and `cancel`; ledger and audit trail say who asked."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import RedirectResponse, Response

from dicom_node import audit_events, redo
from dicom_node.audit_message import Node, Study
from dicom_node.errors import NodeError
from dicom_node.ledger import SeriesDetails
from dicom_node.web.door import Visit


def retry(visit: Visit) -> Response:
    """Do again what ended badly."""

    def again(details: SeriesDetails) -> None:
        redo.retry(visit.desk.ledger, visit.desk.config, details.series.series_uid, visit.desk.clock())

    return _do(visit, "retry", again)


def cancel(visit: Visit) -> Response:
    """Stop what is under way."""

    def stop(details: SeriesDetails) -> None:
        visit.desk.ledger.cancel(details.series.series_uid, visit.desk.clock())

    return _do(visit, "cancel", stop)


def _do(visit: Visit, action: str, change: Callable[[SeriesDetails], None]) -> Response:
    user = visit.session.user if visit.session else ""
    details = visit.desk.ledger.details(visit.request.path_params["uid"])
    series = details.series
    person = Node(user, address=visit.address)
    study = Study(series.study_uid, series.identity.patient_id, series.identity.accession_number)
    try:
        change(details)
    except NodeError as error:
        audit_events.report(audit_events.Acted(person, study, action, str(error)))
        raise
    audit_events.report(audit_events.Acted(person, study, action))
    text = f"{user} asked for {action} at the status page"
    visit.desk.ledger.note(text, visit.desk.clock(), series_uid=series.series_uid, subject="series")
    return RedirectResponse(f"/series/{series.series_uid}", 303)
