"""The grammar of --vine-env, SRC[:DST][,SRC[:DST]...], as the plugin has it.

The plugin (daemon/base/spec.c) decides; this is the same in Python, with the same
messages, so that a script hears of a mistake before a job waits in the queue.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

SPEC_BYTES_MAX = 4096
SOURCES_MAX = 8
PATH_BYTES_MAX = 4095
SHOWN = 80  # bytes of a path quoted in a message
FORM = "; write SRC[:DST][,SRC[:DST]...], for example --vine-env=/shared/envs/ml"
SCHEME = re.compile(rb"[A-Za-z0-9+.-]+://")
IMAGE_ENDINGS = (".sqsh", ".squashfs")
ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".zip")


class SpecError(ValueError):
    """The text is not what --vine-env takes; the message ends in the right form."""


@dataclass(frozen=True)
class Source:
    """One source. `destination` is None where it follows from the source itself."""

    path: str
    destination: str | None = None

    @property
    def is_directory(self) -> bool:
        """By its name: not an image and not an archive."""
        name = self.path.rpartition("/")[2]
        endings = IMAGE_ENDINGS + ARCHIVE_ENDINGS
        return not any(name.endswith(e) and name != e for e in endings)

    @property
    def known_destination(self) -> str | None:
        """Where a job sees it, as far as the text says."""
        return self.destination or (self.path if self.is_directory else None)


def parse_spec(text: str) -> list[Source]:
    """Take the option's value apart.

    Args:
        text: the value, at most 4,096 bytes in the file system's encoding.

    Returns:
        1 to 8 sources, paths absolute and tidied ("//" and a trailing "/" are gone).

    Raises:
        SpecError: with the message that srun would print.
    """
    raw = os.fsencode(text)
    _check_text(raw)
    sources: list[Source] = []
    rest: bytes | None = raw
    while rest is not None:
        if len(sources) == SOURCES_MAX:
            raise _error(f"more than {SOURCES_MAX} sources")
        source, rest = _parse_part(rest)
        _check_duplicates(sources, source)
        sources.append(source)
    if len(os.fsencode(spec_text(sources))) > SPEC_BYTES_MAX:
        raise _error(
            f"longer than {SPEC_BYTES_MAX} characters when each '\\' is doubled"
        )
    return sources


def spec_text(sources: list[Source]) -> str:
    """The canonical text: what parse_spec gives back for it is equal."""

    def escaped(path: str) -> str:
        return re.sub(r"([,:\\])", r"\\\1", path)

    return ",".join(
        escaped(s.path) + (f":{escaped(s.destination)}" if s.destination else "")
        for s in sources
    )


def _error(message: str) -> SpecError:
    return SpecError(message + FORM)


def _shown(raw: bytes) -> str:
    return os.fsdecode(raw[:SHOWN])


def _check_text(raw: bytes) -> None:
    if not raw:
        raise _error("no source is named")
    if len(raw) > SPEC_BYTES_MAX:
        raise _error(f"longer than {SPEC_BYTES_MAX} characters")
    for position, byte in enumerate(raw, 1):
        if byte < 0x20 or byte == 0x7F:
            raise _error(f"control character 0x{byte:02x} at position {position}")


def _read_path(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """(path, the ',' or ':' that ended it or b"", what follows)."""
    out = bytearray()
    at = 0
    while at < len(raw):
        char = raw[at : at + 1]
        at += 1
        if char in (b",", b":"):
            return _tidied(out), char, raw[at:]
        if char == b"\\" and raw[at : at + 1] in (b",", b":", b"\\"):
            char = raw[at : at + 1]
            at += 1
        if char == b"/" and out.endswith(b"/"):
            continue
        out += char
        if len(out) > PATH_BYTES_MAX:
            raise _error(f"a path is longer than {PATH_BYTES_MAX} characters")
    return _tidied(out), b"", b""


def _tidied(path: bytearray) -> bytes:
    return bytes(path[:-1] if len(path) > 1 and path.endswith(b"/") else path)


def _check_path(path: bytes, what: str) -> None:
    if not path:
        raise _error(f"empty {what}")
    if not path.startswith(b"/"):
        raise _error(f"'{_shown(path)}' is not an absolute path")
    if any(part in (b".", b"..") for part in path.split(b"/")):
        raise _error(
            f"'{_shown(path)}' has a '.' or '..' component: name the {what} directly"
        )
    if path == b"/":
        raise _error(f"'/' cannot be a {what}")


def _parse_part(raw: bytes) -> tuple[Source, bytes | None]:
    """The first part, and what follows its ','; None: it was the last."""
    if SCHEME.match(raw):
        raise _error(f"'{_shown(raw)}': sources with a scheme are not supported yet")
    path, end, rest = _read_path(raw)
    _check_path(path, "source")
    destination = b""
    if end == b":":
        destination, end, rest = _read_path(rest)
        _check_path(destination, "destination")
    if end == b":":
        raise _error(
            f"more than one ':' in '{_shown(raw)}' "
            "(write '\\:' for one that belongs to a path)"
        )
    source = Source(os.fsdecode(path), os.fsdecode(destination) or None)
    return source, rest if end == b"," else None


def _check_duplicates(before: list[Source], last: Source) -> None:
    target = last.known_destination
    for source in before:
        if source.path == last.path:
            raise _error(f"source '{_shown(os.fsencode(last.path))}' is named twice")
        if target is not None and source.known_destination == target:
            raise _error(f"destination '{_shown(os.fsencode(target))}' is named twice")
