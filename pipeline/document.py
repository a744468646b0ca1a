"""The picture as Encapsulated PDF (PS3.3 A.45.1), for archives and mail that show documents; on request by profile.

The page is the picture. Its words lie over it once more, invisible, each where it is drawn: they can be selected,
searched and read aloud.
"""

from __future__ import annotations

from io import BytesIO

from highdicom.base import SOPClass
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas as PdfCanvas

from pipeline import RESEARCH_USE_ONLY, SOFTWARE_NAME, header, picture, provenance
from pipeline.picture_canvas import Canvas, Word
from pipeline.types import Analysis, ResultContext, ResultKind

TITLE = f"Lung opacity on chest CT. {RESEARCH_USE_ONLY}"
PAGE_WIDTH_PT = 841.89  # A4, landscape; the height follows the picture
_FONT = "Helvetica"  # never drawn, so not embedded
_INVISIBLE = 3  # text rendering mode (ISO 32000-1, 9.3.6)


def build(analysis: Analysis, context: ResultContext) -> Dataset | None:
    """The document, or None where the profile does not want it."""
    if not context.profile.pdf:
        return None
    source = header.of_series(analysis.volume.headers)
    described = provenance.arguments(analysis, context, source, ResultKind.DOCUMENT)
    equipment = described.pop("contributing_equipment")
    built = SOPClass(
        study_instance_uid=source.ds.StudyInstanceUID,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **described,
    )
    built.ContributingEquipmentSequence = equipment
    built.copy_patient_and_study_information(provenance.nameless(source))
    ds = provenance.finish(built, analysis, context, source)
    _describe(ds, picture.shows_dates(context))
    shown = picture.shown_headers(analysis)
    ds.SourceInstanceSequence = [picture.source_image(image) for image in shown]
    _encapsulate(ds, render(picture.draw(analysis, context)))
    return ds


def _describe(ds: Dataset, shows_dates: bool) -> None:
    """Encapsulated Document Series, SC Equipment and Encapsulated Document (PS3.3 C.24.1, C.8.6.1, C.24.2)."""
    ds.ConversionType = "SYN"
    ds.AcquisitionDateTime = None
    ds.BurnedInAnnotation = "YES" if shows_dates else "NO"
    ds.RecognizableVisualFeatures = "NO"
    ds.DocumentTitle = provenance.plain(TITLE, 1024)
    ds.ConceptNameCodeSequence = []  # every title of CID 7020 says that a physician reports
    ds.VerificationFlag = "UNVERIFIED"


def _encapsulate(ds: Dataset, pdf: bytes) -> None:
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocumentLength = len(pdf)
    ds.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)


def render(canvas: Canvas) -> bytes:
    """One page of PDF. The same page gives the same bytes: reportlab then dates every file to the year 2000."""
    width, height = canvas.image.size
    scale = PAGE_WIDTH_PT / width
    file = BytesIO()
    page = PdfCanvas(file, (PAGE_WIDTH_PT, height * scale), pageCompression=1, invariant=1, lang="en")
    page.setTitle(TITLE)
    page.setAuthor(provenance.MANUFACTURER)
    page.setSubject(RESEARCH_USE_ONLY)
    page.setCreator(SOFTWARE_NAME)
    page.drawImage(ImageReader(canvas.image), 0, 0, PAGE_WIDTH_PT, height * scale)
    for word in canvas.words:
        _lay(page, word, height, scale)
    page.save()
    return file.getvalue()


def _lay(page: PdfCanvas, word: Word, height: int, scale: float) -> None:
    """One line of text, as wide as it is drawn."""
    size = word.size * scale
    natural = page.stringWidth(word.text, _FONT, size)
    text = page.beginText(word.box.left * scale, (height - word.box.bottom) * scale)
    text.setTextRenderMode(_INVISIBLE)
    text.setFont(_FONT, size)
    text.setHorizScale(100.0 * word.box.width * scale / natural if natural else 100.0)
    text.textOut(word.text)
    page.drawText(text)
