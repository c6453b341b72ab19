"""Every exception this package raises on purpose, under one root.

Messages name what was given, what is allowed and what to try. Errors that describe a wrong argument
are also `ValueError`, so callers need not import anything to catch them.
"""

from __future__ import annotations


class AvocetError(Exception):
    """Root of all errors raised by Avocet. The command line prints it as one line and exits with 2."""


class ConfigError(AvocetError, ValueError):
    """A setting or an argument is outside of what is allowed."""


class RecordError(AvocetError, ValueError):
    """A record (or one line of a record file) breaks its own rules."""


class MediaError(AvocetError):
    """A media file cannot be read as asked.

    `path` is the file, `stream` is "container", "video" or "audio", `reason` says what went wrong.
    """

    def __init__(self, path: str, stream: str, reason: str) -> None:
        super().__init__(f"{path}: {stream}: {reason}")
        self.path = path
        self.stream = stream
        self.reason = reason

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        # Worker processes send errors home by pickling their arguments, and ours are not the message.
        return type(self), (self.path, self.stream, self.reason)


class ModelNotFoundError(AvocetError):
    """The weights of a model are not on this machine."""


class CheckpointError(AvocetError):
    """A checkpoint folder does not hold what its model needs, or holds what it must not."""


class LayoutError(AvocetError, ValueError):
    """A token plan and the features (or placeholders) it should describe do not agree."""


class MissingExtraError(AvocetError, ImportError):
    """An optional dependency is not installed; the message is the line that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency. Install it with: pip install 'avocet[{extra}]'")
        self.feature = feature
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.feature, self.extra)
