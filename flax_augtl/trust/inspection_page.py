"""The findings of an inspection as sections of a page, as the page inspection.html, and as CSV."""

import csv
import io
from collections import Counter
from collections.abc import Sequence

import numpy as np

from flax_augtl.runtime.markup import Markup, document, element, join, paragraph, section, table
from flax_augtl.runtime.text import for_spreadsheet, readable
from flax_augtl.trust.copies import CopyPair
from flax_augtl.trust.inspection import Inspection
from flax_augtl.trust.thumbnails import thumbnail
from flax_augtl.trust.typicality import nearest

PAGE, TABLE, COPIES = "inspection.html", "inspection.csv", "inspection_copies.csv"
MOST = 60  # Findings of one kind on the page; the CSV files have all of them.


def label_section(found: Inspection, most: int = MOST, listed: bool = True) -> tuple[str, Markup]:
    """Return the title and the HTML of a section on labels that are probably wrong; empty if there are none.

    Beside each image is the image that is most like it among those with the suggested label.
    """
    suspects = found.suspects()
    if not len(suspects):
        return "Labels that are probably wrong", Markup("")
    rows = []
    for i in suspects[:most].tolist():
        label, other = int(found.labels[i]), int(found.errors.suggestion[i])
        shown = [
            _figure(found, i, join("labelled ", element("b", _class(found, label))), f"{_score(found, i)}"),
        ]
        like = nearest(found.features, np.array([i]), np.flatnonzero(found.labels == other))
        if like is not None:
            shown.append(_figure(found, like, join("most like it among ", element("b", _class(found, other)))))
        rows.append(element("div", join(*shown), {"class": "pair"}))
    text = (
        f"{len(suspects)} of {len(found.labels)} labels. A linear head on features of the source weights, fitted "
        "on the other images, finds another class more likely. Not every one is a mistake: an image may show two classes, "
        "or be hard to tell."
    )
    return _titled("Labels that are probably wrong", text, rows, len(suspects), TABLE if listed else "")


def copies_section(found: Inspection, most: int = MOST, listed: bool = True) -> tuple[str, Markup]:
    """Return the title and the HTML of a section on near-copies: with two labels, in two splits, and the others."""
    parts = []
    for title, why, pairs in copy_kinds(found):
        if pairs:
            rows = [
                element(
                    "div",
                    join(*(_figure(found, i, join("labelled ", element("b", _class(found, found.labels[i]))))
                           for i in (pair.first, pair.second)), element("div", _distance(pair), {"class": "note"})),
                    {"class": "pair"},
                )
                for pair in pairs[:most]
            ]  # fmt: skip
            parts.append(join(element("h3", f"{title}: {len(pairs)}"), paragraph(why, "note"), _grid(rows)))
            if len(pairs) > most:
                parts.append(_more(len(pairs) - most, COPIES if listed else ""))
    return "Near-copies", join(*parts)


def copy_kinds(found: Inspection) -> list[tuple[str, str, list[CopyPair]]]:
    """Return (title, why it matters, pairs) of each kind of near-copies."""
    splits, labels = found.splits, found.labels
    kinds: tuple[list[CopyPair], ...] = [], [], []
    for pair in found.copies:
        i, j = pair.first, pair.second
        kinds[0 if labels[i] != labels[j] else 1 if splits[i] != splits[j] else 2].append(pair)
    return [
        ("With different labels", "At most one of the two labels is right.", kinds[0]),
        ("In different splits", "The network may be tested on an image that it was trained on.", kinds[1]),
        ("In one class and one split", "They count twice, and bring little that is new.", kinds[2]),
    ]


def unlike_section(found: Inspection, most: int = MOST, listed: bool = True) -> tuple[str, Markup]:
    """Return the title and the HTML of a section on images that are unlike their class; empty if there are none.

    Images whose label is probably wrong are left out, because they are in the section on labels.
    """
    unlike = [i for i in found.unlike().tolist() if not found.errors.suspected[i]]
    if not unlike:
        return "Images unlike their class", Markup("")
    rows = []
    for i in unlike[:most]:
        like = nearest(found.features, np.array([i]), np.flatnonzero(found.labels == found.labels[i]))
        shown = [_figure(found, i, join("labelled ", element("b", _class(found, found.labels[i]))))]
        if like is not None:
            shown.append(_figure(found, like, "most like it in its class"))
        rows.append(element("div", join(*shown), {"class": "pair"}))
    text = "They may be mistakes, drawings among photographs, or rare cases of which more images would help."
    return _titled("Images unlike their class", text, rows, len(unlike), TABLE if listed else "")


def skipped_section(found: Inspection, most: int = MOST, listed: bool = True) -> tuple[str, Markup]:
    """Return the title and the HTML of a section on images that cannot be read; empty if there are none."""
    rows = [[readable(path), readable(reason)] for path, reason in list(found.skipped.items())[:most]]
    return "Images that cannot be read", table(["Path", "Reason"], rows, wrap=True) if rows else Markup("")


def sections(found: Inspection, most: int = MOST, listed: bool = True) -> list[tuple[str, Markup]]:
    """Return the title and the HTML of every section that has content.

    Args:
      found: the findings.
      most: findings of one kind to show.
      listed: whether the CSV files, which have all findings, lie beside the page.
    """
    made = [f(found, most, listed) for f in (label_section, copies_section, unlike_section, skipped_section)]
    return [(title, content) for title, content in made if content]


def summary(found: Inspection) -> list[str]:
    """Return the findings as sentences."""
    total = len(found.labels)
    lines = [f"Labels that are probably wrong: {len(found.suspects())} of {total}."]
    for title, _, pairs in copy_kinds(found):
        if pairs:
            lines.append(f"Near-copies {title[0].lower()}{title[1:]}: {len(pairs)} pairs.")
    unlike = sum(not found.errors.suspected[i] for i in found.unlike())
    lines.append(f"Other images that are unlike their class: {unlike}.")
    if found.skipped:
        lines.append(f"Images that cannot be read: {len(found.skipped)}.")
    return [*lines, *found.notes]


def page(found: Inspection, name: str) -> str:
    """Return inspection.html; `name` is what to call the data."""
    sizes = ", ".join(f"{count} {split or 'in no split'}" for split, count in Counter(found.splits).items())
    body = join(
        element("h1", f"Inspection: {name}"),
        paragraph(f"{len(found.labels)} images ({sizes}) of {len(found.class_names)} classes.", "note"),
        section("Verdict", element("ul", join(*(element("li", line) for line in summary(found))))),
        *(section(title, content) for title, content in sections(found)),
        paragraph(f"All images, the most suspicious first: {TABLE}. All pairs: {COPIES}.", "note"),
    )
    return document(f"Inspection: {name}", body)


def as_csv(found: Inspection) -> str:
    """Return all images as CSV, the most suspicious first.

    The columns are path, label, suggestion (empty if nothing speaks against the label), score in [0, 1], split,
    probability of the label, typicality and unlike_class. Cells that a spreadsheet would take for a formula are prefixed
    by `'`.
    """
    ids, splits, errors = found.ids, found.splits, found.errors
    unlike = set(found.unlike().tolist())
    rows = []
    for i in errors.ranking().tolist():
        label = int(found.labels[i])
        rows.append(
            [
                _cell(ids[i]),
                _cell(found.class_names[label]),
                _cell(found.class_names[errors.suggestion[i]]) if errors.suspected[i] else "",
                f"{errors.score[i]:.4f}",
                splits[i],
                f"{found.probabilities[i, label]:.4f}",
                f"{found.typicality[i]:.2f}",
                "yes" if i in unlike else "no",
            ]
        )
    header = ["path", "label", "suggestion", "score", "split", "probability", "typicality", "unlike_class"]
    return _written(header, rows)


def copies_csv(found: Inspection) -> str:
    """Return all pairs of near-copies as CSV, the nearest first."""
    ids, splits = found.ids, found.splits
    rows = []
    for pair in found.copies:
        sides = [
            value
            for i in (pair.first, pair.second)
            for value in (_cell(ids[i]), splits[i], _cell(found.class_names[found.labels[i]]))
        ]
        rows.append([*sides, pair.distance, *("yes" if value else "no" for value in (pair.mirrored, pair.equal))])
    header = ["path", "split", "label", "copy_path", "copy_split", "copy_label", "distance", "mirrored", "equal"]
    return _written(header, rows)


def _written(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _cell(text: str) -> str:
    return for_spreadsheet(readable(text))


def _class(found: Inspection, label: int | np.ndarray) -> str:
    return readable(found.class_names[int(label)])


def _score(found: Inspection, i: int) -> str:
    of, other = found.probabilities[i], found.errors.suggestion[i]
    return f"{of[other]:.0%} {_class(found, other)}, {of[found.labels[i]]:.0%} its label"


def _distance(pair: CopyPair) -> str:
    if pair.equal:
        return "equal"
    return f"distance {pair.distance}{', mirrored' if pair.mirrored else ''}"


def _figure(found: Inspection, i: int, *captions: object) -> Markup:
    name = readable(found.ids[i])
    split = f" ({found.splits[i]})" if found.splits[i] else ""
    return thumbnail(found.pixels, i, name, *captions, element("small", f"{name}{split}"))


def _grid(rows: Sequence[Markup]) -> Markup:
    return element("div", join(*rows), {"class": "pairs"})


def _titled(title: str, text: str, rows: Sequence[Markup], count: int, file: str) -> tuple[str, Markup]:
    return title, join(
        paragraph(text, "note"), _grid(rows), _more(count - len(rows), file) if count > len(rows) else ""
    )


def _more(count: int, file: str) -> Markup:
    return paragraph(f"{count} more {f'are in {file}' if file else 'are not shown'}.", "note")
