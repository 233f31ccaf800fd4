"""Texts from others, made fit for terminals and spreadsheets."""

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

_LONE = re.compile("[\ud800-\udfff]")  # What Python makes of bytes that are not UTF-8.


def readable(name: str) -> str:
    r"""Return a file name as text that can be written anywhere: bytes that are not UTF-8 become `\xe9`."""
    return name if name.isascii() else _LONE.sub(lambda found: _escaped(found[0]), name)


def for_terminal(text: str) -> str:
    """Return a text with its control characters written out: they could move the cursor, or worse. Lines stay lines.

    So are bytes of file names that are no text.
    """
    return "".join(c if c == "\n" or c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    return f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char.encode("unicode_escape").decode()


def shows_bars() -> bool:
    """Tell whether progress bars can be drawn: on a terminal, and in a Jupyter notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel.")


def on_one_line(text: str) -> str:
    """Return a text as `for_terminal` does, with its line breaks written out as well."""
    return for_terminal(text).replace("\n", "\\n")


def first_line(error: Exception, length: int = 300) -> str:
    """Return the first line of what an error says, its kind where it says nothing; of a long one the middle is left out.

    Of TensorStore's, which may have all that it knows in one line, only what the operating system said is returned.
    """
    if found := re.search(r"os_error_code='(\d{1,4})'", str(error)):
        return os.strerror(int(found[1]))
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if len(lines[0]) <= length:
        return lines[0]
    # What was tried stands at its beginning, what stood in the way at its end.
    return f"{lines[0][: length // 2 - 2]} … {lines[0][-(length // 2 - 1) :]}"


def for_spreadsheet(text: str) -> str:
    """Return a text that spreadsheets show rather than compute: one that could be a formula gets a `'` before it.

    Numbers, which may have a sign, stay as they are.
    """
    if not text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return text
    try:
        float(text)
        return text
    except ValueError:
        return "'" + text


def duration(seconds: float) -> str:
    """Return a duration as text such as `1:02:03` or `4:05`."""
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def columns(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows of cells as text in aligned columns."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell!s:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
