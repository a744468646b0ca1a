"""The pages to read: today, destinations, all series, one series, its pictures. Each is one look at the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta

from pydicom.uid import SecondaryCaptureImageStorage
from starlette.responses import Response

from dicom_node import certificates
from dicom_node.config import Config
from dicom_node.errors import NotFound
from dicom_node.health import examine
from dicom_node.ledger import Place, ResultRecord, SeriesRecord
from dicom_node.result_file import Quarantine
from dicom_node.retention import LOW_DISK, Disk
from dicom_node.states import SeriesState
from dicom_node.web import advice
from dicom_node.web.door import Desk, Visit
from dicom_node.web.picture import thumbnail
from dicom_node.web.render import CONTROL

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_ID = 2**31
PAGE = 50
LISTED = 20  # of each kind on the page of today
MAX_PICTURES = 12


def today(visit: Visit) -> Response:
    """What came in, what is waiting and why, what failed and what to do."""
    desk, now = visit.desk, visit.desk.clock()
    midnight = _midnight(now)
    counts = desk.ledger.counts()
    newest = desk.ledger.page_of_series(limit=LISTED).records
    return visit.page(
        "today.html",
        now=now,
        midnight=midnight,
        came=desk.ledger.states_since(midnight),
        instances=desk.ledger.instances_since(midnight),
        newest=[series for series in newest if series.last_instance_at >= midnight],
        counts=counts,
        waiting=[series for state in advice.WAITING if counts[state] for series in _some(desk, state)],
        to_do=[series for state in advice.TO_DO if counts[state] for series in _some(desk, state)],
        attention=_attention(desk, now),
        limit=LISTED,
    )


def destinations(visit: Visit) -> Response:
    """How each of them is."""
    desk, now = visit.desk, visit.desk.clock()
    configured = desk.config.destinations
    backlogs = desk.ledger.backlogs([destination.name for destination in configured])
    rows = [
        (destination, backlog, advice.health(backlog, destination, now))
        for destination, backlog in zip(configured, backlogs, strict=True)
    ]
    return visit.page("destinations.html", now=now, rows=rows)


def series_list(visit: Visit) -> Response:
    """All series, page by page."""
    query = visit.request.query_params
    state = SeriesState(query["state"]) if query.get("state") in set(SeriesState) else None
    older, newer = _place(query.get("older", "")), _place(query.get("newer", ""))
    oldest = query.get("oldest") == "1"
    found = visit.desk.ledger.page_of_series(
        state=state, older_than=older, newer_than=newer, oldest=oldest, limit=PAGE
    )
    return visit.page("list.html", found=found, state=state, states=list(SeriesState), searched=None, limit=PAGE)


def search(visit: Visit) -> Response:
    """Series by what identifies them. A POST: patient IDs do not belong into addresses, which proxies keep."""
    text = CONTROL.sub("", visit.form.get("text", "")).strip()
    found = visit.desk.ledger.search(text, by_patient=visit.may_search_patients, limit=PAGE)
    return visit.page("list.html", found=found, state=None, states=list(SeriesState), searched=text, limit=PAGE)


def story(visit: Visit) -> Response:
    """One series from its first instance to its last delivery."""
    details = visit.desk.ledger.details(visit.request.path_params["uid"])
    pictures = [result for result in details.results if _is_picture(result) and not result.purged]
    return visit.page("story.html", details=details, pictures=pictures[-MAX_PICTURES:])


def picture(visit: Visit) -> Response:
    """A picture of a series as a small PNG."""
    details = visit.desk.ledger.details(visit.request.path_params["uid"])
    number = visit.request.path_params["number"]
    result = next((one for one in details.results if one.id == number and _is_picture(one)), None)
    content = None if result is None else thumbnail(visit.desk.config.node.state_dir / "results" / result.path)
    if content is None:
        raise NotFound("this picture is not here, or not any more")
    return Response(content, media_type="image/png")


def _is_picture(result: ResultRecord) -> bool:
    return result.sop_class_uid == SecondaryCaptureImageStorage


def _some(desk: Desk, state: SeriesState) -> tuple[SeriesRecord, ...]:
    return desk.ledger.page_of_series(state=state, limit=LISTED).records


def _attention(desk: Desk, now: datetime) -> list[str]:
    """What an administrator should look at beside single series."""
    found = examine(desk.node).reasons
    with suppress(OSError):  # a disk that does not answer: `examine` has said it
        found.extend(_of_state_folder(desk.config))
    found += [f"Renew soon: {warning}" for warning in certificates.expiring(desk.config, now)]
    found += [f"{certificates.KEEPS_OLD}: {fault}" for fault in certificates.not_in_use(desk.config)]
    return found


def _of_state_folder(config: Config) -> Iterator[str]:
    disk = Disk.of(config)
    if disk.low:
        yield f"The disk is low ({disk}): {LOW_DISK}"
    elif disk.short:
        yield f"The disk is short ({disk}): soon nothing is received; `dicomnode purge`, or a larger disk"
    yield from Quarantine.of(config.node.state_dir).remarks()


def _midnight(now: datetime) -> datetime:
    """When the local day began; on a day on which the clocks change its offset is not that of `now`."""
    return datetime.combine(now.astimezone(), time()).astimezone()


def _place(text: str) -> Place | None:
    """A place in the list of series as an address has it; None for anything else."""
    micros, _, number = text.partition("-")
    if not (micros.isascii() and micros.isdigit() and number.isascii() and number.isdigit()):
        return None
    try:
        place = Place(EPOCH + timedelta(microseconds=int(micros)), int(number))
    except (ValueError, OverflowError):
        return None
    return place if place.id < MAX_ID else None


def written(place: Place) -> str:
    """The other way round; whole microseconds, as the database has them."""
    return f"{(place.at - EPOCH) // timedelta(microseconds=1)}-{place.id}"
