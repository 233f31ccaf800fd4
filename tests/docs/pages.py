"""The pages of the documentation: their links, their commands and the fields that they name."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from tests.conftest import ROOT

PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs" / "quickstart.ipynb")
}
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Command(NamedTuple):
    """A command of a page.

    Attributes:
      page: the name of the page.
      words: of the command line; a pipe, `&&` and the like end it.
    """

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        """Return the page and the command, for the names of tests."""
        return f"{self.page}: {shlex.join(self.words)}"


def text_of(name: str) -> str:
    """Return the Markdown of a page; of a notebook, that of its text cells."""
    text = PAGES[name].read_text("utf-8")
    if not name.endswith(".ipynb"):
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def blocks(name: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in a language."""
    return [body for found, body in _FENCE.findall(text_of(name)) if found == language]


def prose(name: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", text_of(name))


def code(name: str) -> list[str]:
    """Return what stands in backquotes on a page, outside of fenced blocks."""
    return _CODE.findall(prose(name))


def links(name: str) -> list[str]:
    """Return where the links of a page lead, those of its code left out."""
    return _LINK.findall(_CODE.sub("", prose(name)))


def anchors(name: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(name), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


def commands() -> Iterator[Command]:
    """Yield every command in the fenced blocks of all pages, and those that stand in backquotes and have flags or files."""
    for name in PAGES:
        for body in blocks(name, "bash"):
            yield from _commands_of(name, re.sub(r"^ *#.*$", "", body, flags=re.MULTILINE).replace("\\\n", " "))
        for span in code(name):
            if re.match(r"(python3?|pip|flax-augtl|main\.py) ", span):
                yield from _commands_of(name, span)


def _commands_of(name: str, text: str) -> Iterator[Command]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";|&\n"):
            while words and re.fullmatch(r"\w+=.*", words[0]):  # Variables of the environment.
                words = words[1:]
            if words:
                yield Command(name, tuple(words))
            # The program as a part of another command: after srun, or in what a remote shell is told.
            if "main.py" in words[2:]:
                yield Command(name, tuple(words[words.index("main.py") - 1 :]))
            for inner in re.findall(r"python (main\.py [^'>]+?)(?: 2>|')", " ".join(words)):
                yield Command(name, ("python", *inner.split()))
            words = []
        else:
            words.append(word)
