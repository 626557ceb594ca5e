"""The grammar of --vine-env and --vine-data, SRC[:DST][,...], as the plugin has it.

The plugin (daemon/base/spec.c) decides; this is the same in Python, with the same
messages, so that a script hears of a mistake before a job waits in the queue.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from . import _url

SPEC_BYTES_MAX = 4096
SOURCES_MAX = 16  # of both options together
PATH_BYTES_MAX = 4095
SHOWN = 80  # bytes of a path quoted in a message
FORM = "; write SRC[:DST][,SRC[:DST]...], for example "
EXAMPLES = {False: "--vine-env=/shared/envs/ml", True: "--vine-data=/shared/sets/a.h5"}
DATA_PREFIX_BYTES = 5  # "data:", before the path of data in the daemons' messages
SERVER_MAX = 512  # bytes of a URL before its path
IMAGE_ENDINGS = (".sqsh", ".squashfs")
ARCHIVE_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".zip")


class SpecError(ValueError):
    """The text is not what the option takes; the message ends in the right form."""


@dataclass(frozen=True)
class Source:
    """One source. `destination` is None where it follows from the source itself."""

    path: str
    destination: str | None = None
    data: bool = False

    @property
    def is_remote(self) -> bool:
        """On a server: `path` is a URL."""
        return _url.is_url(os.fsencode(self.path))

    @property
    def is_directory(self) -> bool:
        """By its name: not an image and not an archive."""
        name = self.path.rpartition("/")[2]
        if self.is_remote:
            name = name.partition("#")[0]
        endings = IMAGE_ENDINGS + ARCHIVE_ENDINGS
        return not any(name.endswith(e) and name != e for e in endings)

    @property
    def known_destination(self) -> str | None:
        """Where a job sees it, as far as the text says."""
        own = self.data or self.is_directory
        return self.destination or (self.path if own else None)


def parse_spec(text: str) -> list[Source]:
    """Take the value of --vine-env apart.

    Args:
        text: the value, at most 4,096 bytes in the file system's encoding.

    Returns:
        1 to 16 sources, paths absolute and tidied ("//" and a trailing "/" are gone).

    Raises:
        SpecError: with the message that srun would print.
    """
    return _Parser(data=False).parse(text, [])


def parse_data(text: str, beside: Sequence[Source] = ()) -> list[Source]:
    """Take the value of --vine-data apart.

    Args:
        text: the value, as for parse_spec.
        beside: what --vine-env of the same job names.

    Returns:
        The data's sources alone.

    Raises:
        SpecError: with the message that srun would print.
    """
    return _Parser(data=True).parse(text, beside)


def spec_text(sources: Sequence[Source]) -> str:
    """The canonical text: what parse_spec gives back for it is equal."""

    def escaped(path: str) -> str:
        raw = os.fsencode(path)
        bare = _url.path_begin(raw) if _url.is_url(raw) else 0
        return os.fsdecode(raw[:bare] + re.sub(rb"([,:\\])", rb"\\\1", raw[bare:]))

    return ",".join(
        escaped(s.path) + (f":{escaped(s.destination)}" if s.destination else "")
        for s in sources
    )


def _shown(raw: bytes) -> str:
    return os.fsdecode(raw[:SHOWN])


def _tidied(path: bytearray) -> bytes:
    return bytes(path[:-1] if len(path) > 1 and path.endswith(b"/") else path)


class _Parser:
    """One option's value. Messages name that option."""

    def __init__(self, *, data: bool) -> None:
        self.data = data
        self.path_max = PATH_BYTES_MAX - (DATA_PREFIX_BYTES if data else 0)

    def parse(self, text: str, before: Sequence[Source]) -> list[Source]:
        raw = os.fsencode(text)
        self._check_text(raw)
        sources: list[Source] = []
        rest: bytes | None = raw
        while rest is not None:
            if len(before) + len(sources) == SOURCES_MAX:
                raise self._error(f"more than {SOURCES_MAX} sources")
            source, rest = self._parse_part(rest)
            self._check_duplicates([*before, *sources], source)
            sources.append(source)
        if len(os.fsencode(spec_text(sources))) > SPEC_BYTES_MAX:
            raise self._error(
                f"longer than {SPEC_BYTES_MAX} characters when each '\\' is doubled"
            )
        return sources

    def _error(self, message: str) -> SpecError:
        return SpecError(message + FORM + EXAMPLES[self.data])

    def _check_text(self, raw: bytes) -> None:
        if not raw:
            raise self._error("no source is named")
        if len(raw) > SPEC_BYTES_MAX:
            raise self._error(f"longer than {SPEC_BYTES_MAX} characters")
        for position, byte in enumerate(raw, 1):
            if byte < 0x20 or byte == 0x7F:
                raise self._error(
                    f"control character 0x{byte:02x} at position {position}"
                )

    def _too_long(self) -> SpecError:
        return self._error(f"a path is longer than {self.path_max} characters")

    def _read_source(self, raw: bytes) -> tuple[bytes, bytes, bytes]:
        """As _read_path, and checked."""
        if not _url.is_url(raw):
            read = self._read_path(raw)
            self._check_path(read[0], "source")
            return read
        bare = re.compile(rb"[^,\\]*").match(raw, 0, _url.path_begin(raw))
        server = bare[0] if bare else b""
        if len(server) > SERVER_MAX:
            raise self._too_long()
        path, end, rest = self._read_path(raw[len(server) :], len(server))
        self._check_url(server + path)
        return server + path, end, rest

    def _check_url(self, url: bytes) -> None:
        fault = _url.fault_of(url)
        if fault is not None:
            raise self._error(fault)
        path, shown = _url.path_of(url), _shown(url)
        if any(part in (b".", b"..") for part in path.split(b"/")):
            raise self._error(
                f"'{shown}' has a '.' or '..' component: name the source directly"
            )
        if self.data:
            return
        if Source(os.fsdecode(url)).is_directory:
            raise self._error(
                f"'{shown}' is no image and no archive: a URL must name such a file"
            )
        if path.endswith(b".zip"):
            raise self._error(
                f"'{shown}': a .zip cannot be read from a server: use .tar.zst"
            )

    def _read_path(self, raw: bytes, before: int = 0) -> tuple[bytes, bytes, bytes]:
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
            if before + len(out) > PATH_BYTES_MAX:
                raise self._too_long()
        return _tidied(out), b"", b""

    def _check_path(self, path: bytes, what: str) -> None:
        if not path:
            raise self._error(f"empty {what}")
        if not path.startswith(b"/"):
            raise self._error(f"'{_shown(path)}' is not an absolute path")
        if any(part in (b".", b"..") for part in path.split(b"/")):
            raise self._error(
                f"'{_shown(path)}' has a '.' or '..' component: "
                f"name the {what} directly"
            )
        if path == b"/":
            raise self._error(f"'/' cannot be a {what}")

    def _parse_part(self, raw: bytes) -> tuple[Source, bytes | None]:
        """The first part, and what follows its ','; None: it was the last."""
        path, end, rest = self._read_source(raw)
        destination = b""
        if end == b":":
            destination, end, rest = self._read_path(rest)
            self._check_path(destination, "destination")
        if len(path) > self.path_max:
            raise self._too_long()
        if end == b":":
            raise self._error(
                f"more than one ':' in '{_shown(raw)}' "
                "(write '\\:' for one that belongs to a path)"
            )
        if self.data and not destination and _url.is_url(path):
            raise self._error(
                f"'{_shown(path)}' has no path of its own: add ':' and where it goes"
            )
        source = Source(
            os.fsdecode(path), os.fsdecode(destination) or None, data=self.data
        )
        return source, rest if end == b"," else None

    def _check_duplicates(self, before: Sequence[Source], last: Source) -> None:
        target = last.known_destination
        for source in before:
            if source.path == last.path and source.data == last.data:
                shown = _shown(os.fsencode(last.path))
                raise self._error(f"source '{shown}' is named twice")
            if target is not None and source.known_destination == target:
                shown = _shown(os.fsencode(target))
                raise self._error(f"destination '{shown}' is named twice")
