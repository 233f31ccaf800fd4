"""What --mode=predict adds to the predictions of images on request: the nearest training images, and evidence maps."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from flax_augtl.config.convert import from_json, plain
from flax_augtl.data.images import inputs
from flax_augtl.errors import UserError
from flax_augtl.run import Run
from flax_augtl.run_data import examples_of_split
from flax_augtl.runtime.markup import Markup, document, element, join, paragraph
from flax_augtl.runtime.text import readable
from flax_augtl.trust import evidence, neighbours, overlays, progress
from flax_augtl.trust.thumbnails import data_uri
from flax_augtl.workdir import files

EXPLANATIONS = "explanations"
_MOST_ON_PAGE = 100


class Extra(Protocol):
    """Adds columns to the predictions of some images."""

    def columns(
        self, paths: Sequence[str], images: Sequence[np.ndarray], probabilities: np.ndarray
    ) -> list[dict[str, str]]:
        """Return the cells of each image by column, the same columns for all.

        Args:
          paths: of the images.
          images: uint8 [H, W, 3] each.
          probabilities: float32 [N, C].
        """
        ...


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

    def _computed(self, path: epath.Path) -> neighbours.TrainingFeatures:
        run = self._run
        config = from_json(plain(run.config))
        examples, _ = examples_of_split(config, run.workdir, run.class_names, "train")
        found = []
        for start in progress.shown(
            range(0, len(examples), self._size), "features of training images", len(examples), self._size
        ):
            images = [np.asarray(examples.source[int(i)]) for i in examples.indices[start : start + self._size]]
            found.append(run.embed(images, batch_size=self._size))
        known = neighbours.training_features(run.step, examples.ids, examples.labels, np.concatenate(found))
        try:
            known.write(path)
        except files.CannotWrite:
            pass  # The next prediction computes them again.
        return known

    def columns(
        self, paths: Sequence[str], images: Sequence[np.ndarray], probabilities: np.ndarray
    ) -> list[dict[str, str]]:
        """Return the ids, labels and cosine similarities of the nearest training images."""
        features = self._run.embed(images, batch_size=self._size)
        places, similar = self._known.nearest(features, self._count)
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

    def __init__(self, run: Run, *, batch_size: int = 32):
        """Create the folder; files of an earlier prediction are replaced where the names are the same."""
        self._run, self._size, self._count = run, batch_size, 0
        self._step = evidence.compiled_evidence(run.network, run.preprocessing)
        self._figures: list[Markup] = []
        self.folder = run.workdir / EXPLANATIONS
        files.check_links(run.workdir, (EXPLANATIONS,))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.CannotWrite(f"{self.folder} cannot be written: {error.strerror or error}.") from error

    def columns(
        self, paths: Sequence[str], images: Sequence[np.ndarray], probabilities: np.ndarray
    ) -> list[dict[str, str]]:
        """Write the overlays of some images, and return the names of the files."""
        shown = np.stack([inputs.network_input(image, self._run.preprocessing) for image in images])
        classes = probabilities.argmax(1)
        fill = self._size - len(shown)
        maps = self._step(
            self._run.variables,
            np.concatenate([shown, np.zeros((fill, *shown.shape[1:]), np.uint8)]),
            np.concatenate([classes, np.zeros(fill, classes.dtype)]),
        )
        rows = []
        for path, image, found, row in zip(paths, shown, np.asarray(maps), probabilities, strict=False):
            self._count += 1
            name = f"{self._count:05d}_{_plain(path)}.png"
            drawn = overlays.beside(image, overlays.overlay(image, found))
            content = overlays.png(drawn)
            files.write_bytes(self.folder / name, content)
            if len(self._figures) < _MOST_ON_PAGE:
                said = f"{readable(self._run.class_names[int(row.argmax())])}, {row.max():.0%}"
                uri = data_uri(drawn, side=2 * self._run.preprocessing.image_size + 4)
                self._figures.append(_figure(uri, said, readable(path), name))
            rows.append({"explanation": f"{EXPLANATIONS}/{name}"})
        return rows

    def write_page(self) -> epath.Path:
        """Write explanations/index.html with the first overlays, and return its path."""
        kind = "Class activation maps" if evidence.is_exact(self._run.network) else "Grad-CAM"
        more = f" The first {_MOST_ON_PAGE} of {self._count} images." if self._count > _MOST_ON_PAGE else ""
        body = join(
            element("h1", "What speaks for the predictions"),
            paragraph(
                f"{kind}: red to yellow places speak for the predicted class. Each image is shown as the network reads "
                f"it, after resizing and cropping.{more}",
                "note",
            ),
            element("div", join(*self._figures), {"class": "figures small"}),
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


def joined(extras: Sequence[Extra], read: Mapping[str, np.ndarray], found: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the cells of all extras for each path."""
    cells: dict[str, dict[str, Any]] = {path: {} for path in read}
    if read:
        for extra in extras:
            for path, row in zip(read, extra.columns(list(read), list(read.values()), found), strict=True):
                cells[path] |= row
    return cells
