"""The TLS context of a listener follows its files: a renewed certificate is used without a restart.

Whether they changed is looked at when a connection comes; open connections keep what they began with. Files that
cannot be used, a certificate whose new key is not there yet among them, leave the context as it was.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from dicom_node.config_base import locate
from dicom_node.config_security import TlsSection
from dicom_node.errors import ConfigError
from dicom_node.tls import server_context

LOGGER = logging.getLogger(__name__)
Stamp = tuple[tuple[int, ...] | None, ...]  # of each file: inode, size, times; None where it is not there


class RenewedContext:
    """For the thread that accepts connections.

    Args:
        section: [tls], with certificate and key.

    Raises:
        ConfigError: a file cannot be used; says which and why.
    """

    def __init__(self, section: TlsSection) -> None:
        self._section = section
        self._stamp = self._look()
        self._fault: tuple[Stamp, str] | None = None  # the last that was said
        self._context = listener_context(section)

    def current(self) -> ssl.SSLContext:
        """For the next connection."""
        stamp = self._look()  # before the files are read: what is changed meanwhile is read again next time
        if stamp != self._stamp:
            self._renew(stamp)
        return self._context

    def _renew(self, stamp: Stamp) -> None:
        """What fails is tried at the next connection again, since the cause may pass, and is said once."""
        try:
            self._context = listener_context(self._section)
        except ConfigError as error:
            if (fault := (stamp, str(error))) != self._fault:
                self._fault = fault
                LOGGER.error("tls: the files were changed and cannot be used, the old ones stay in use: %s", error)
        else:
            self._stamp = stamp
            LOGGER.info("tls: the files were changed; new connections use them")

    def _look(self) -> Stamp:
        section = self._section
        files = (section.certificate, section.key, section.key_password_file, section.ca, section.crl)
        return tuple(_stamp(path) for path in files if path is not None)


def listener_context(section: TlsSection) -> ssl.SSLContext:
    """As [tls] says.

    Raises:
        ConfigError: a file cannot be used, or none is named.
    """
    if section.identity is None:
        raise ConfigError("certificate and key are needed")
    return server_context(section.identity, section.ca, section.crl, section.require_client_certificate)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = locate(path).stat()
    except (ConfigError, OSError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
