"""Predictions for image files, as rows that come one batch after the other."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from flax_augtl.config.convert import from_json, plain
from flax_augtl.config.data_config import DataConfig
from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.data.loading.image_stream import ImageStream, source_stream, view_path
from flax_augtl.data.sources.image_files import FileSource
from flax_augtl.data.sources.patterns import find_images
from flax_augtl.prediction_csv import Row, as_csv, as_table
from flax_augtl.prediction_extras import Batch, Extra, joined
from flax_augtl.run import Run
from flax_augtl.trust import calibration
from flax_augtl.trust import views as image_views
from flax_augtl.trust.predictor import rounded

__all__ = ["Row", "as_csv", "as_table", "file_stream", "predict_files", "predicted"]
TOP = 5
BATCH = 32


def file_stream(
    paths: Sequence[str],
    preprocessing: Preprocessing,
    data: DataConfig,
    *,
    batch_size: int = BATCH,
    max_pixels: int | None = None,
    views: str = "one",
) -> ImageStream:
    """Start to read image files for `predicted`; an unreadable one does not end it.

    Args:
      paths: of the files.
      preprocessing: the evaluation transform of the run.
      data: `config.data` of the run: the number of threads, or of worker processes.
      batch_size: number of images per batch, a multiple of the local devices.
      max_pixels: images with more pixels count as unreadable; None for the limit of the training.
      views: over which views of each image the probabilities will be averaged; see `Run.predict`.
    """
    image_views.check(views)
    source = FileSource("", tuple(paths), max_pixels or data.max_pixels)
    path = view_path(preprocessing, views)._replace(skips=True)
    return source_stream(source, range(len(paths)), path, data, batch_size=batch_size)


def predicted(
    run: Run,
    paths: Sequence[str],
    stream: ImageStream,
    *,
    views: str = "one",
    extras: Sequence[Extra] = (),
    before: int = 0,
) -> Iterator[list[Row]]:
    """Yield the rows of one batch of image files after the other, in order; see `prediction_csv` for a row.

    Args:
      run: the run that predicts.
      paths: of the files.
      stream: their images.
      views: over which views of each image the probabilities are averaged; see `Run.predict`.
      extras: what else to find out about each image.
      before: number of images that were predicted in an earlier start, for extras that count.
    """
    predictor = run.predictor(views)
    reasons: list[dict[int, str]] = []
    kept: list[np.ndarray] = []

    def pixels() -> Iterator[np.ndarray]:
        for prepared in stream:
            reasons.append(prepared.unreadable)
            kept.append(prepared.pixels)
            yield prepared.pixels

    start = 0
    for outputs in predictor.over(pixels()):
        unreadable, shown = reasons.pop(0), kept.pop(0)
        names = paths[start : start + len(shown)]
        start += len(shown)
        sound = [row for row in range(len(names)) if row not in unreadable]
        some = Batch(
            [names[row] for row in sound],
            (shown[:, 0] if views == "ten_crop" else shown)[sound],
            calibration.calibrated(outputs.probabilities[sound], run.temperature),
            outputs.features[sound],
            outputs.logits[sound],
            before,
        )
        before += len(sound)
        more = joined(extras, some)
        rows: list[Row] = [
            {"path": name, "labels": [], "probabilities": [], "extra": {}, "reason": unreadable.get(row, "")}
            for row, name in enumerate(names)
        ]
        for row, found, extra in zip(sound, some.probabilities, more, strict=True):
            order = np.argsort(-found, kind="stable")[:TOP]
            rows[row] |= {
                "labels": [run.class_names[index] for index in order],
                "probabilities": [float(found[index]) for index in order],
                "extra": extra,
            }
        yield rows


def predict_files(
    run: Run,
    images: str | os.PathLike,
    *,
    batch_size: int = BATCH,
    max_pixels: int | None = None,
    views: str = "one",
    extras: Sequence[Extra] = (),
) -> list[Row]:
    """Predict the images in files.

    Args:
      run: the run that predicts.
      images: an image, a folder, or a pattern.
      batch_size: number of images per batch over all local devices, rounded up to a multiple of them.
      max_pixels: images with more pixels count as unreadable; None for the limit of the training.
      views: over which views of each image the probabilities are averaged; see `Run.predict`.
      extras: what else to find out about each image.

    Returns:
      A row for each file, in order; see `prediction_csv`. An unreadable file has no labels.

    Raises:
      UserError: there are no images.
    """
    paths = find_images(os.fspath(images))
    data = from_json(plain(run.config)).data
    with file_stream(
        paths,
        run.preprocessing,
        data,
        batch_size=rounded(batch_size),
        max_pixels=max_pixels,
        views=views,
    ) as stream:
        return [row for rows in predicted(run, paths, stream, views=views, extras=extras) for row in rows]
