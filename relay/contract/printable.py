"""What a terminal would obey, and what stands for it: in text, in JSON, in a header. Pure.

Customers and peers write what relay shows and passes on; none of it may move a cursor, hide a line
or turn the direction of writing. What a record's value holds stays as it is: JSON escapes it.
"""

import json
import re
import unicodedata
from urllib.parse import quote

#: Control, format and line-breaking characters, lone surrogates; bidi controls are among them.
_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
#: What CloudEvents keeps out of its attributes, and the bidi controls.
_NOT_IN_HEADERS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]"
)


def printable(text: str | bytes) -> str:
    """Make a text safe for a terminal: a blank for each character that would drive it."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if text.isprintable():
        return text
    return "".join(" " if _drives(char) else char for char in text)


def escaped(document: str) -> str:
    """Escape what JSON allows to stand raw but a terminal would obey; the meaning stays.

    The line breaks of an indented document stay, too.
    """
    if document.isprintable():
        return document
    return "".join(_escape(char) if _drives(char) and char != "\n" else char for char in document)


def header(text: str) -> bytes:
    """Make a text a header's value: percent-encoded is what CloudEvents does not take."""
    if not text.isprintable():
        text = _NOT_IN_HEADERS.sub(lambda match: quote(match[0]), text)
    return text.encode()


def segment(text: str) -> str:
    """Make a text a segment of a path; `.` and `..`, which would lead elsewhere, are left out."""
    return "" if text in {".", ".."} else quote(text, safe="")


def _drives(char: str) -> bool:
    return unicodedata.category(char) in _CATEGORIES


def _escape(char: str) -> str:
    """Write a character as JSON; DEL is the one that the standard library lets stand."""
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]
