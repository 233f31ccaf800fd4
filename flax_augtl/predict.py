"""Predictions for image files, as rows, as CSV and as a table."""

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from flax_augtl.data import UnreadableImage
from flax_augtl.data.images.decode import read_image
from flax_augtl.data.sources.patterns import find_images
from flax_augtl.prediction_extras import Extra, joined
from flax_augtl.run import Run
from flax_augtl.runtime.text import for_spreadsheet, on_one_line, readable, shows_bars

TOP = 5


def predict_files(
    run: Run,
    images: str,
    *,
    batch_size: int = 32,
    max_pixels: int | None = None,
    views: str = "one",
    extras: Sequence[Extra] = (),
) -> list[dict[str, Any]]:
    """Predict the images in files.

    Args:
      run: the run that predicts.
      images: an image, a folder, or a pattern.
      batch_size: number of images per batch.
      max_pixels: images with more pixels count as unreadable; None for the limit of the training.
      views: over which views of each image the probabilities are averaged; see `Run.predict`.
      extras: what else to find out about each image.

    Returns:
      A row for each file, in order: its `path`; up to five `labels`, the likeliest first, and their `probabilities`;
      `extra`, the cells of `extras` by column; and `reason`, which says why a file cannot be read, and is empty
      otherwise. An unreadable file has no labels.

    Raises:
      UserError: there are no images.
    """
    rows = []
    paths = find_images(images)
    for start in tqdm(range(0, len(paths), batch_size), unit="batch", disable=not shows_bars(), leave=False):
        read: dict[str, np.ndarray] = {}
        unreadable: dict[str, str] = {}
        for path in paths[start : start + batch_size]:
            try:
                read[path] = np.asarray(read_image(path, max_pixels=max_pixels or run.config.data.max_pixels))
            except UnreadableImage as error:
                unreadable[path] = error.reason
        probabilities = run.predict(list(read.values()), batch_size=batch_size, views=views)
        found = dict(zip(read, probabilities, strict=True))
        more = joined(extras, read, probabilities)
        for path in paths[start : start + batch_size]:
            row = found.get(path, np.zeros(0))
            order = np.argsort(-row, kind="stable")[:TOP]
            rows.append(
                {
                    "path": path,
                    "labels": [run.class_names[index] for index in order],
                    "probabilities": [float(row[index]) for index in order],
                    "extra": more.get(path, {}),
                    "reason": unreadable.get(path, ""),
                }
            )
    return rows


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV: path, label, probability, then label2, probability2 and so on, extras, and the reason last.

    A path, label or reason that a spreadsheet would take for a formula is prefixed by `'`.
    """
    width = max((1, *(len(row["labels"]) for row in rows)))
    header = ["path"]
    for rank in range(1, width + 1):
        header += [f"label{rank if rank > 1 else ''}", f"probability{rank if rank > 1 else ''}"]
    extras = list(dict.fromkeys(name for row in rows for name in row.get("extra", ())))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, *extras, "reason"])
    for row in rows:
        cells = [for_spreadsheet(readable(row["path"]))]
        for label, probability in zip(row["labels"], row["probabilities"], strict=True):
            cells += [for_spreadsheet(label), f"{probability:.6f}"]
        cells += [""] * (len(header) - len(cells))
        cells += [for_spreadsheet(readable(row.get("extra", {}).get(name, ""))) for name in extras]
        writer.writerow([*cells, for_spreadsheet(readable(row.get("reason", "")))])
    return text.getvalue()


def as_table(rows: Sequence[dict[str, Any]], limit: int = 40) -> str:
    """Return the first rows as aligned text."""
    shown = rows[:limit]
    width = min(max((len(row["path"]) for row in shown), default=4), 60)
    lines = []
    for row in shown:
        path = on_one_line(row["path"])
        path = path if len(path) <= width else "…" + path[1 - width :]
        lines.append(
            f"{path:{width}}  "
            + _mark(row)
            + "  ".join(
                f"{on_one_line(label)} {probability:.1%}"
                for label, probability in zip(row["labels"], row["probabilities"], strict=True)
            )
        )
    if len(rows) > limit:
        lines.append(f"… and {len(rows) - limit} more")
    return "\n".join(lines)


def _mark(row: dict[str, Any]) -> str:
    """Return what stands before the classes of an image that is probably of none of them."""
    extra = row.get("extra", {})
    return f"UNKNOWN? (familiarity {extra['familiarity']})  " if extra.get("unknown") == "yes" else ""
