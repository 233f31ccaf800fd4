"""HTML from Python values: every text is escaped, unless it is markup already."""

import html
import importlib.resources
from collections.abc import Mapping, Sequence


class Markup(str):
    """Text that is HTML and must not be escaped."""


def text(value: object) -> Markup:
    """Return a value as HTML, escaped unless it is `Markup`."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(*parts: object) -> Markup:
    """Return the concatenation of some parts."""
    return Markup("".join(map(text, parts)))


def element(name: str, content: object, attributes: Mapping[str, str] | None = None) -> Markup:
    """Return an element around some content."""
    given = "".join(f' {key}="{html.escape(value)}"' for key, value in (attributes or {}).items())
    return Markup(f"<{name}{given}>{text(content)}</{name}>")


def paragraph(content: object, kind: str = "") -> Markup:
    """Return a paragraph."""
    return element("p", content, {"class": kind} if kind else None)


def section(title: str, content: Markup) -> Markup:
    """Return a section with a heading; an empty text if it has no content."""
    if not content:
        return Markup("")
    name = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    return Markup(f"\n{element('section', join(element('h2', title), content), {'id': name})}")


def details(title: str, content: Markup, *, open: bool = False) -> Markup:
    """Return content that the reader can unfold."""
    return Markup(f"<details{' open' if open else ''}>{element('summary', title)}{content}</details>")


def picture(uri: str, alt: str, kind: str = "") -> Markup:
    """Return an image."""
    return Markup(f'<img src="{html.escape(uri)}" alt="{html.escape(alt)}"{f" class={kind}" if kind else ""}>')


def table(
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    marks: Sequence[bool] | None = None,
    *,
    shades: Sequence[Sequence[float]] | None = None,
    wrap: bool = False,
) -> Markup:
    """Return a table that scrolls sideways if the window is narrower.

    Args:
      header: the texts of the header, which is left out if all are empty.
      rows: the texts of each row.
      marks: which rows to highlight.
      shades: how strongly to colour each cell, in [0, 1].
      wrap: whether long texts may wrap; otherwise every cell is one line.
    """
    lines = []
    for i, row in enumerate(rows):
        made = [
            element(
                "th" if not j else "td",
                value,
                {"style": f"background: rgb(0 114 178 / {shades[i][j] * 0.55:.2f})"}
                if shades and shades[i][j]
                else None,
            )
            for j, value in enumerate(row)
        ]
        lines.append(element("tr", join(*made), {"class": "chosen"} if marks and marks[i] else None))
    head = element("thead", element("tr", join(*(element("th", name) for name in header)))) if any(header) else ""
    made = element("table", join(head, element("tbody", join(*lines))), {"class": "wrap"} if wrap else None)
    return element("div", made, {"class": "scroll"})


def document(title: str, body: Markup) -> str:
    """Return a whole page in the style of this program's reports.

    The page cannot load anything or run a script, whatever the names in the data contain.
    """
    style = importlib.resources.files("flax_augtl.runtime").joinpath("page.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        "'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{element('title', title)}\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
