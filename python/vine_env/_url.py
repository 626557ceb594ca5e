"""URLs as sources: sftp://[user@]host[:port]/path[#sha256=HEX] and https://.

The same as daemon/base/url.c, with the same messages.
"""

from __future__ import annotations

import os
import re

SHOWN = 80  # bytes of a URL quoted in a message
SCHEME = re.compile(rb"[A-Za-z0-9+.-]+://")
USER = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}\Z")
HOST = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}\Z")
ADDRESS = re.compile(rb"[0-9a-fA-F:.]{1,255}\Z")
FRAGMENT = re.compile(rb"#sha256=[0-9a-f]{64}\Z")
NOT_IN_HTTPS = re.compile(rb'[\x00-\x20\x7f-\xff"<>\\^`{|}?]')


def is_url(raw: bytes) -> bool:
    return SCHEME.match(raw) is not None


def path_begin(raw: bytes) -> int:
    """Where the path of a URL begins; its end, if it has none."""
    scheme = SCHEME.match(raw)
    found = raw.find(b"/", scheme.end() if scheme else 0)
    return len(raw) if found < 0 else found


def path_of(raw: bytes) -> bytes:
    """The path of a URL, without what follows a '#'."""
    return raw[path_begin(raw) :].partition(b"#")[0]


def fault_of(raw: bytes) -> str | None:
    """What is wrong with a URL."""
    scheme = raw.partition(b"://")[0]
    if scheme not in (b"sftp", b"https"):
        shown = os.fsdecode(raw[:SHOWN])
        return f"'{shown}': of URLs only sftp:// and https:// are sources"
    https = scheme == b"https"
    begin = path_begin(raw)
    return _server_fault(raw[len(scheme) + 3 : begin], https) or _path_fault(
        raw[begin:], https
    )


def _server_fault(server: bytes, https: bool) -> str | None:
    user, at, host = server.partition(b"@")
    if at and b":" in user:
        return "a URL must not hold a password"
    if at and https:
        return "https:// takes no login"
    if (at and not USER.match(user)) or not _is_host(host if at else server):
        form = "host[:port]" if https else "[user@]host[:port]"
        return f"'{os.fsdecode(server[:SHOWN])}' is no server: write {form}"
    return None


def _is_host(text: bytes) -> bool:
    if text.startswith(b"["):
        host, bracket, rest = text[1:].partition(b"]")
        valid = bool(bracket and ADDRESS.match(host))
    else:
        host, colon, port = text.partition(b":")
        rest = colon + port
        valid = HOST.match(host) is not None
    if not valid or not rest:
        return valid
    return re.match(rb":[0-9]{1,5}\Z", rest) is not None and 0 < int(rest[1:]) < 65536


def _path_fault(text: bytes, https: bool) -> str | None:
    path, hash_sign, _ = text.partition(b"#")
    if hash_sign and not FRAGMENT.match(text[len(path) :]):
        return "'#' in a URL begins #sha256= and 64 digits of 0-9 a-f"
    if len(path) < 2 or path.endswith(b"/"):
        return "a URL must name a file"
    bad = NOT_IN_HTTPS.search(path) if https else None
    if bad is None:
        return None
    if bad[0] == b"?":
        return "a URL must not have a query ('?'): others see it"
    return f"write byte 0x{bad[0][0]:02x} of the URL as %{bad[0][0]:02X}"
