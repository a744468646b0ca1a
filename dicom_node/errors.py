"""Errors of the node. The class decides whether something is tried again."""


class NodeError(Exception):
    """Base of every error that the node raises on purpose; ``str(error)`` is a sentence that helps."""


class ConfigError(NodeError):
    """config.toml is wrong; the message lists every complaint with its TOML path."""


class TransientError(NodeError):
    """May pass by itself: the peer is down, busy or out of resources. Tried again later."""


class PermanentError(NodeError):
    """Will not pass by itself: refused AE title, unsupported SOP class, invalid object. Stops and says so."""


class NotWanted(PermanentError):
    """Withdrawn before it was put on the wire: nothing was sent."""


class LowDisk(NodeError):
    """Less space is left than the configured reserve; nothing new is accepted until there is more."""


class NotParsable(NodeError):
    """Received bytes are not a data set that can be filed (DICOM status C000)."""


class NotFound(NodeError):
    """Nothing with that identifier is known to the ledger."""


class IllegalTransition(NodeError):
    """A state change that the transition table does not have."""
