"""The confusion matrix as an image."""

import unicodedata
from collections.abc import Sequence

import numpy as np

from flax_augtl.runtime.text import for_terminal

_LONGEST = 24  # Columns of a name.


def confusion_image(confusion: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Draw a confusion matrix.

    Args:
      confusion: counts [C, C], one row per label and one column per prediction.
      class_names: C names.

    Returns:
      An image, uint8 [H, W, 3]. It shows the counts for up to 20 classes, and the class names for up to 120. A name
      with a letter that no installed font has is replaced by the number of its class.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    count = len(class_names)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    size = float(np.clip(11 - count / 12, 4, 9))
    names = [_cut(for_terminal(name).replace("\n", " ")) for name in class_names]
    fonts, without = _fonts(set().union(*names))
    names = [f"class {index}" if set(name) & without else name for index, name in enumerate(names)]
    # Room for the names: a terminal column is about 0.6 of the font size wide.
    room = max(map(_columns, names), default=0) * 0.6 * size / 72 if count <= 120 else 0.0
    side = float(np.clip(2.0 + 0.42 * count, 4.0, 20)) + room
    figure = Figure(figsize=(side + 0.8, side), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    axes.set(xlabel="prediction", ylabel="label")
    if count <= 120:
        # A dollar sign would start a formula.
        shown = [name.replace("$", r"\$") for name in names]
        axes.set_xticks(range(count), shown, rotation=90, fontsize=size, fontfamily=fonts)
        axes.set_yticks(range(count), shown, fontsize=size, fontfamily=fonts)
    if count <= 20:
        for row in range(count):
            for column in range(count):
                if confusion[row, column]:
                    axes.text(
                        column,
                        row,
                        str(int(confusion[row, column])),
                        ha="center",
                        va="center",
                        fontsize=8,
                        color="white" if share[row, column] > 0.5 else "black",
                    )
    figure.colorbar(drawn, label="share of the class's images", shrink=0.8, format=PercentFormatter(1.0))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _columns(text: str) -> int:
    """Return the width of a text in terminal columns; East Asian letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _cut(name: str) -> str:
    """Return a name, shortened with an ellipsis if it would leave no room for the matrix."""
    if _columns(name) <= _LONGEST:
        return name
    while _columns(name) >= _LONGEST:
        name = name[:-1]
    return name + "…"


def _fonts(letters: set[str]) -> tuple[list[str], set[str]]:
    """Return the fonts that letters need, matplotlib's own first, and the letters that no installed font has."""
    from matplotlib import font_manager

    chosen, missing = ["DejaVu Sans"], {letter for letter in letters if not letter.isspace()}
    own = font_manager.findfont("DejaVu Sans")
    for name, path in [("DejaVu Sans", own), *((font.name, font.fname) for font in font_manager.fontManager.ttflist)]:
        if not missing:
            break
        if "LastResort" in path:  # This font of matplotlib's draws a box for each letter.
            continue
        try:
            known = font_manager.get_font(path).get_charmap()
        except (OSError, RuntimeError):  # The font file is missing or damaged.
            continue
        if found := {letter for letter in missing if ord(letter) in known}:
            missing -= found
            chosen += [name] if name not in chosen else []
    return chosen, missing
