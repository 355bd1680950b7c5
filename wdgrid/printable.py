"""Text that is safe to print: no control characters, no passwords."""

import re
import unicodedata

# Options of a storage URL whose values may be shown; a misspelt one may hold a password, too.
_SHOWN = "sslmode|connect_timeout|application_name|target_session_attrs|host|hostaddr|port|user"
_PASSWORD = re.compile(rf"([?&])(?!(?:{_SHOWN})=)([^=&]*)=[^&]*")
_REFUSED = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of surrogate pairs, ends of lines and paragraphs
_DIRECTION = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """The text with every control character as an escape (ESC as x1b), so that a terminal shows it and obeys none."""
    if text.isprintable():
        return text
    return "".join(_escaped(c) if _controls(c) else c for c in text)


def printable_json(text: str) -> str:
    """JSON text with every control character in its strings as an escape of JSON."""
    return "".join(f"\\u{ord(c):04x}" if _controls(c) else c for c in text)


def _controls(c: str) -> bool:
    return (unicodedata.category(c) in _REFUSED or c in _DIRECTION) and c not in "\n\t"


def _escaped(c: str) -> str:
    return c.encode("unicode_escape").decode("ascii")


def without_password(url: str) -> str:
    """A storage URL with `***` for the password before the host and for passwords in the query."""
    scheme, colon, rest = url.partition(":")
    before, at, after = rest.rpartition("@")
    user = before.lstrip("/")
    if at and not scheme.startswith("sqlite") and set(user) & set(":/?@"):  # more than a user's name
        name, _, password = user.partition(":")
        shown = f"{name}:***" if password and not set(name) & set("/?@") else "***"
        rest = f"{before[: len(before) - len(user)]}{shown}@{after}"
    return _PASSWORD.sub(r"\1\2=***", scheme + colon + rest)
