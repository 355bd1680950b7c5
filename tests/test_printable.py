"""What reaches a terminal: no control characters, no passwords."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdgrid.printable import printable, without_password

HOSTILE = "\x1b[2J\x07\x7f\x9b1m\u202egnirts\u2028\udcff\x00\r"


def test_control_characters_become_escapes():
    assert printable(HOSTILE) == "\\x1b[2J\\x07\\x7f\\x9b1m\\u202egnirts\\u2028\\udcff\\x00\\r"
    assert printable("η_t = 0.5 – ✓ سلام\n\t") == "η_t = 0.5 – ✓ سلام\n\t"


@given(st.text(st.characters()))
def test_printing_twice_changes_nothing_more(text):
    once = printable(text)
    assert printable(once) == once and not set(once) & set("\x1b\x07\r\x9b\u202e")
    once.encode()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:se:c/re?t@@h/db", "postgresql+psycopg://me:***@h/db"),
        ("postgresql://me@h/db?password=a b&sslmode=require", "postgresql://me@h/db?password=***&sslmode=require"),
        ("postgresql://h/db?sslpassword=a&passwrod=b=c", "postgresql://h/db?sslpassword=***&passwrod=***"),
        ("mysql://m//me:sec@ret@h/db", "mysql://***@h/db"),
        ("sqlite:///a:b@c/x.db", "sqlite:///a:b@c/x.db"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ],
)
def test_passwords_are_hidden(url, shown):
    assert without_password(url) == shown
