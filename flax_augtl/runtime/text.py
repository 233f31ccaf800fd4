"""Text for terminals and spreadsheets, with untrusted characters escaped."""

import itertools
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

_LONE = re.compile("[\ud800-\udfff]")  # Python decodes bytes that are not UTF-8 to these.


def readable(name: str) -> str:
    r"""Return a file name as valid text: bytes that are not UTF-8 are escaped, such as `\xe9`."""
    return name if name.isascii() else _LONE.sub(lambda found: _escaped(found[0]), name)


def for_terminal(text: str) -> str:
    """Return a text with escaped control characters, which could move the cursor, or worse; line breaks stay.

    Bytes of file names that are not UTF-8 are escaped as well.
    """
    return "".join(c if c == "\n" or c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    return f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char.encode("unicode_escape").decode()


def shows_bars() -> bool:
    """Return whether progress bars can be drawn, as on a terminal and in a Jupyter notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel.")


def on_one_line(text: str) -> str:
    """Return a text like `for_terminal`, with line breaks escaped as well."""
    return for_terminal(text).replace("\n", "\\n")


def first_line(error: Exception, length: int = 300) -> str:
    """Return the first line of an error's message, or its type if it has none; long lines lose their middle.

    TensorStore writes very long lines; of those, only the operating system's message is returned.
    """
    if found := re.search(r"os_error_code='(\d{1,4})'", str(error)):
        return os.strerror(int(found[1]))
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if len(lines[0]) <= length:
        return lines[0]
    # The beginning says what was tried, the end says why it failed.
    return f"{lines[0][: length // 2 - 2]} … {lines[0][-(length // 2 - 1) :]}"


def for_spreadsheet(text: str) -> str:
    """Return a text that spreadsheets do not evaluate: one that could be a formula is prefixed by `'`.

    Numbers, which may have a sign, do not change.
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


def columns(rows: Sequence[Sequence[Any]], *, align: str = "", least: Sequence[int] = (), gap: str = "  ") -> str:
    """Return rows of cells as text in aligned columns.

    Args:
      rows: the cells, as many in every row.
      align: `<` or `>` for each column; columns without one are aligned to the left.
      least: the smallest width of each column; 0 if there is none.
      gap: what stands between two columns.
    """
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    widths = [max(pair) for pair in itertools.zip_longest(widths, least, fillvalue=0)]
    signs = align + "<" * (len(widths) - len(align))
    return "\n".join(
        gap.join(f"{cell!s:{sign}{width}}" for cell, sign, width in zip(row, signs, widths, strict=True)).rstrip()
        for row in rows
    )
