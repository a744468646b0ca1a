"""One message to one channel, by webhook or by mail. What goes wrong is a `TransientError` that says what to do."""

from __future__ import annotations

import json
import smtplib
import socket
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from dicom_node import tls
from dicom_node.alarms import Message
from dicom_node.config_base import read_secret
from dicom_node.config_notify import AnyNotification, Mail, Webhook
from dicom_node.errors import ConfigError, TransientError
from dicom_node.http_session import session
from pipeline import SOFTWARE_NAME, __version__

MAX_TOLD = 200
_ACCESS = ": check user and password_file or token_file, or whether the webhook is still allowed"
_GONE = ": it is not there, or not any more; make a new webhook, and put its URL into url or url_file"
_MOVED = ", a redirection: correct url or url_file"
_ADVICE = {
    **dict.fromkeys((301, 302, 303, 307, 308), _MOVED),
    **dict.fromkeys((401, 403, 407), _ACCESS),
    **dict.fromkeys((404, 405, 410), _GONE),
}


class TakenInPart(TransientError):
    """Some recipients have it, and others were refused: sent again, the first would have it again and again."""


def send(channel: AnyNotification, message: Message, node: str) -> None:
    """Return when the other side has taken it.

    Args:
        channel: whom to tell.
        message: what.
        node: AE title of the node.

    Raises:
        TransientError: it did not arrive; `TakenInPart`: not at everybody.
    """
    try:
        if isinstance(channel, Mail):
            _mail(channel, message, node)
        else:
            _post(channel, message, node)
    except ConfigError as error:
        raise TransientError(f"{channel.name}: {error}") from error


def _post(channel: Webhook, message: Message, node: str) -> None:
    content = {
        "source": SOFTWARE_NAME,
        "version": __version__,
        "node": node,
        "host": socket.gethostname(),
        "text": f"{node}: {message.summary}",  # what chat systems show
        **message.json,
    }
    hook = channel.located()
    with session(hook) as opened:
        answer = opened.request(
            "POST",
            "",
            content=iter([json.dumps(content).encode("utf-8")]),
            headers={"Content-Type": "application/json", "Accept": "*/*"},
        )
    if not 200 <= answer.status < 300:
        told = f"{hook.label} refused the notification with HTTP status {answer.status}"
        raise TransientError(f"{told}{_ADVICE.get(answer.status, '')}.")  # a person may correct it while it waits


def _mail(channel: Mail, message: Message, node: str) -> None:
    where = f"{channel.host}:{channel.port}"
    try:
        with _connected(channel) as smtp:
            if channel.password_file is not None:
                smtp.login(channel.user, read_secret(channel.password_file))
            refused = smtp.send_message(_letter(channel, message, node))
    except smtplib.SMTPAuthenticationError as error:
        raise TransientError(f"{where} does not take user and password_file of {channel.name}.") from error
    except (smtplib.SMTPException, OSError, UnicodeError) as error:
        raise TransientError(
            f"{where} did not take a mail: {_why(error)}. Check host, port and security."
        ) from error
    if refused:
        code, said = next(iter(refused.values()))
        raise TakenInPart(
            f"{where} refused {len(refused)} of {len(channel.recipients)} recipients, the others have the mail: "
            f"{code} {_words(said)}"
        )


def _connected(channel: Mail) -> smtplib.SMTP:
    here = socket.gethostname()
    context = None if channel.client_tls is None else tls.client_context(channel.client_tls)
    if channel.security == "tls":
        return smtplib.SMTP_SSL(channel.host, channel.port, here, timeout=channel.timeout_s, context=context)
    smtp = smtplib.SMTP(channel.host, channel.port, here, channel.timeout_s)
    if context is not None:
        smtp.starttls(context=context)
    return smtp


def _letter(channel: Mail, message: Message, node: str) -> EmailMessage:
    letter = EmailMessage()
    letter["Subject"] = f"[{SOFTWARE_NAME} {node}] {message.summary}"
    letter["From"] = channel.sender
    letter["To"] = ", ".join(channel.recipients)
    letter["Date"] = formatdate()
    letter["Message-ID"] = make_msgid(domain=channel.sender.rpartition("@")[2])
    letter["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence is answered
    here = f"{SOFTWARE_NAME} {__version__}, {node} on {socket.gethostname()}, {message.at}"
    letter.set_content(f"{message.text}\n-- \n{here}\n")
    return letter


def _why(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, said = next(iter(error.recipients.values()))
        return f"every recipient was refused: {code} {_words(said)}"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_words(error.smtp_error)}"
    if isinstance(error, OSError) and not isinstance(error, smtplib.SMTPException):  # which is one, too
        return tls.reason(error)
    return f"{type(error).__name__} {error}"[:MAX_TOLD]


def _words(said: bytes | str) -> str:
    """What a server answered, on one line and bounded."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return " ".join(text.split())[:MAX_TOLD]
