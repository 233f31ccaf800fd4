"""Charts as SVG, in one style for all reports. Text is drawn as outlines, so that a page needs no font."""

import base64
import io
from typing import TYPE_CHECKING

from flax_augtl.runtime.markup import Markup, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of Okabe and Ito, which colour-blind people can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def canvas(entries: int, small: bool = False) -> tuple["Figure", "Axes"]:
    """Return a figure with room for a legend with so many entries, narrow enough for a telephone."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    rows = -(-entries // 2)
    figure = Figure(figsize=(3.9, 2.3 + 0.22 * rows) if small else (5.2, 3.3 + 0.22 * rows), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.tick_params(labelsize=8.5 if small else 10)
    axes.grid(True, color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: "Figure", axes: "Axes") -> str:
    """Return a figure with its legend as SVG; the same figure gives the same text."""
    import matplotlib

    handles, labels = axes.get_legend_handles_labels()
    # Escape dollar signs, which would start mathematics.
    labels = [label.replace("$", r"\$") for label in labels]
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9.5)
    text = io.StringIO()
    # With a fixed salt and no date, the same figure gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "flax_augtl", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def embedded(drawn: str, alt: str) -> Markup:
    """Return an SVG as an image of a page."""
    return picture(f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()}", alt)
