"""What --mode=predict adds to the predictions of images: familiarity, the nearest training images, and evidence maps."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath
from PIL import Image

from flax_augtl.config.convert import from_json, plain
from flax_augtl.data.loading.image_stream import source_stream, view_path
from flax_augtl.errors import UserError
from flax_augtl.run import Run
from flax_augtl.run_data import examples_of_split
from flax_augtl.runtime.markup import Markup, document, element, join, paragraph
from flax_augtl.runtime.text import readable
from flax_augtl.trust import evidence, neighbours, overlays, progress
from flax_augtl.trust.familiarity import Familiarity
from flax_augtl.trust.predictor import rounded
from flax_augtl.trust.thumbnails import data_uri
from flax_augtl.workdir import files

EXPLANATIONS = "explanations"
MOST_ON_PAGE = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Some images that can be read, and what the network says of them.

    Attributes:
      paths: of the images.
      images: uint8 [N, S, S, 3], as the network reads them.
      probabilities: float32 [N, C], calibrated.
      features: float32 [N, D], the penultimate features.
      logits: float32 [N, C], before the calibration.
      before: number of readable images in earlier batches.
    """

    paths: Sequence[str]
    images: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray
    logits: np.ndarray
    before: int = 0


class Extra(Protocol):
    """Adds columns to the predictions of some images."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the columns."""
        ...

    def columns(self, batch: Batch) -> list[dict[str, str]]:
        """Return the cells of each image by column."""
        ...


class UnknownImages:
    """Adds the columns `familiarity`, in [0, 1], and `unknown`, which is yes below a limit and no otherwise."""

    names = ("familiarity", "unknown")

    def __init__(self, familiarity: Familiarity, below: float):
        """Take the familiarity of the weights, and below which value an image is marked."""
        self._familiarity, self._below = familiarity, below

    def columns(self, batch: Batch) -> list[dict[str, str]]:
        """Return the familiarity of each image, and whether it is marked."""
        found = self._familiarity(batch.features, batch.logits)
        return [{"familiarity": f"{value:.4f}", "unknown": "yes" if value < self._below else "no"} for value in found]


class Neighbours:
    """Adds the nearest training images: `neighbour1`, `neighbour1_label`, `neighbour1_similarity` and so on."""

    def __init__(self, run: Run, count: int, *, batch_size: int = 32):
        """Compute the features of the training images, or read those that an earlier prediction kept.

        Args:
          run: the run.
          count: number of neighbours.
          batch_size: images per batch.

        Raises:
          UserError: the training images are neither there nor known from an earlier prediction.
        """
        if count < 1:
            raise UserError(f"--neighbours={count} must be at least 1.")
        self._run, self._count, self._size = run, count, batch_size
        path = run.workdir / neighbours.NAME
        files.check_links(run.workdir, (neighbours.NAME,))
        self._known = neighbours.read(path, run.step) or self._computed(path)
        ranks = range(1, min(count, len(self._known.ids)) + 1)
        self.names = [f"neighbour{rank}{name}" for rank in ranks for name in ("", "_label", "_similarity")]

    def _computed(self, path: epath.Path) -> neighbours.TrainingFeatures:
        run = self._run
        config = from_json(plain(run.config))
        examples, _ = examples_of_split(config, run.workdir, run.class_names, "train")
        found = []
        with (
            contextlib.closing(progress.Counter("features of training images", len(examples))) as counter,
            source_stream(
                examples.source,
                examples.indices,
                view_path(run.preprocessing, "one"),
                config.data,
                batch_size=rounded(self._size),
            ) as stream,
        ):
            for outputs in run.predictor().over(batch.pixels for batch in stream):
                found.append(outputs.features)
                counter.add(len(outputs.features))
        known = neighbours.training_features(run.step, examples.ids, examples.labels, np.concatenate(found))
        try:
            known.write(path)
        except files.CannotWrite:
            pass  # The next prediction computes them again.
        return known

    def columns(self, batch: Batch) -> list[dict[str, str]]:
        """Return the ids, labels and cosine similarities of the nearest training images."""
        places, similar = self._known.nearest(batch.features, self._count)
        rows = []
        for some, values in zip(places.tolist(), similar.tolist(), strict=True):
            cells: dict[str, str] = {}
            for rank, (place, value) in enumerate(zip(some, values, strict=True), 1):
                cells[f"neighbour{rank}"] = str(self._known.ids[int(place)])
                cells[f"neighbour{rank}_label"] = self._run.class_names[int(self._known.labels[place])]
                cells[f"neighbour{rank}_similarity"] = f"{value:.4f}"
            rows.append(cells)
        return rows


class Explanations:
    """Writes an evidence map of each prediction into WORKDIR/explanations; the column `explanation` names the file."""

    names = ("explanation",)

    def __init__(self, run: Run, *, batch_size: int = 32):
        """Create the folder; files of an earlier prediction are replaced where the names are the same."""
        self._run, self._size = run, batch_size
        self._step = evidence.compiled_evidence(run.network, run.preprocessing)
        self.folder = run.workdir / EXPLANATIONS
        files.check_links(run.workdir, (EXPLANATIONS,))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.cannot_write(self.folder, error) from error

    def columns(self, batch: Batch) -> list[dict[str, str]]:
        """Write the overlays of some images, and return the names of the files."""
        rows, classes = [], batch.probabilities.argmax(1)
        for start in range(0, len(batch.images), self._size):
            some, chosen = batch.images[start : start + self._size], classes[start : start + self._size]
            fill = self._size - len(some)
            maps = self._step(
                self._run.variables,
                np.concatenate([some, np.zeros((fill, *some.shape[1:]), np.uint8)]),
                np.concatenate([chosen, np.zeros(fill, chosen.dtype)]),
            )
            for image, found in zip(some, np.asarray(maps), strict=False):
                place = len(rows)
                name = f"{batch.before + place + 1:05d}_{_plain(batch.paths[place])}.png"
                drawn = overlays.beside(image, overlays.overlay(image, found))
                files.write_bytes(self.folder / name, overlays.png(drawn))
                rows.append({"explanation": f"{EXPLANATIONS}/{name}"})
        return rows

    def write_page(self, rows: Sequence[Mapping[str, Any]], total: int) -> epath.Path:
        """Write explanations/index.html with the first overlays, and return its path.

        Args:
          rows: the rows of the first images, of which up to `MOST_ON_PAGE` are shown.
          total: number of images.
        """
        kind = "Class activation maps" if evidence.is_exact(self._run.network) else "Grad-CAM"
        more = f" The first {MOST_ON_PAGE} of {total} images." if total > MOST_ON_PAGE else ""
        figures = []
        for row in rows[:MOST_ON_PAGE]:
            name = row["extra"]["explanation"].rpartition("/")[2]
            with Image.open(io.BytesIO((self.folder / name).read_bytes())) as drawn:
                uri = data_uri(drawn, side=2 * self._run.preprocessing.image_size + 4)
            said = f"{readable(row['labels'][0])}, {row['probabilities'][0]:.0%}"
            figures.append(_figure(uri, said, readable(row["path"]), name))
        body = join(
            element("h1", "What speaks for the predictions"),
            paragraph(
                f"{kind}: red to yellow places speak for the predicted class. Each image is shown as the network reads "
                f"it, after resizing and cropping.{more}",
                "note",
            ),
            element("div", join(*figures), {"class": "figures small"}),
        )
        files.write_text(self.folder / "index.html", document("Explanations", body))
        return self.folder / "index.html"


def _figure(uri: str, said: str, path: str, name: str) -> Markup:
    image = Markup(f'<img src="{uri}" alt="">')
    return element("figure", join(image, element("figcaption", join(element("b", said), f" {path} ({name})"))))


def _plain(path: str) -> str:
    """Return the name of a file without its folder and ending, with harmless characters only."""
    stem = re.split(r"[/\\]", path)[-1].rpartition(".")
    return re.sub(r"[^A-Za-z0-9-]+", "_", stem[0] or stem[2])[:40] or "image"


def joined(extras: Sequence[Extra], batch: Batch) -> list[dict[str, str]]:
    """Return the cells of all extras for each image."""
    cells: list[dict[str, str]] = [{} for _ in batch.paths]
    for extra in extras if cells else ():
        for all_cells, more in zip(cells, extra.columns(batch), strict=True):
            all_cells |= more
    return cells
