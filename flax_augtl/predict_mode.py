"""`--mode=predict`: predict image files into a CSV file that grows while they are predicted."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from flax_augtl import prediction_csv
from flax_augtl.config.convert import from_json
from flax_augtl.data.loading.image_stream import ImageStream
from flax_augtl.data.sources.image_files import states_of
from flax_augtl.data.sources.patterns import find_images
from flax_augtl.data.types import fingerprint
from flax_augtl.errors import UserError
from flax_augtl.predict import BATCH, TOP, file_stream, predicted
from flax_augtl.prediction_csv import Row
from flax_augtl.prediction_extras import MOST_ON_PAGE, Explanations, Extra, Neighbours, UnknownImages
from flax_augtl.pretrained.run_description import read_run_description
from flax_augtl.run import Run, load_run
from flax_augtl.runtime import distributed
from flax_augtl.runtime.paths import absolute, exists, is_remote
from flax_augtl.runtime.text import for_spreadsheet, for_terminal, on_one_line, readable
from flax_augtl.training import prediction_files
from flax_augtl.trust import familiarity, progress
from flax_augtl.trust.predictor import rounded
from flax_augtl.workdir import files, partial_file
from flax_augtl.workdir.partial_file import PartialFile

# The exit code if some images, but not all, could be read; 1 if none could.
SOME_UNREADABLE = 2
# Of the first readable images, the rows stay in memory: they are printed, or shown on the page of explanations.
_FIRST = max(40, MOST_ON_PAGE)


def predict(flags: Any, images: str, output: epath.Path | None) -> int:
    """Predict images, and return the exit code.

    Args:
      flags: of the program.
      images: an image, a folder, or a pattern.
      output: the file to write; None for the usual one in the run directory.

    Raises:
      UserError: there are no images, none can be read, or the run cannot be loaded.
    """
    with contextlib.ExitStack() as stack:
        paths: list[str] = []
        stream = None
        if distributed.is_first():
            paths = find_images(images)
            # Read images while the network is loaded and compiled.
            stream = stack.enter_context(_stream(flags, paths))
        run = load_run(flags.workdir, step=flags.step)
        if stream is None:
            return 0
        explanations = Explanations(run) if flags.explain else None
        extras: list[Extra] = [
            *unknown_images(run, flags),
            *([Neighbours(run, flags.neighbours)] if flags.neighbours else []),
            *([explanations] if explanations else []),
        ]
        table = _Table(run, paths, extras)
        partial = stack.enter_context(partial_file.opened(output or run.workdir / files.PREDICTIONS, table.key(flags)))
        if partial.note:
            print(on_one_line(f"note: {partial.note}"), file=sys.stderr)
        if partial.done:
            stream.close()
            table.read(partial)
            print(
                on_one_line(f"Going on after {partial.done} of {len(paths)} images in {partial.path}.partial."),
                file=sys.stderr,
            )
            stream = stack.enter_context(_stream(flags, paths[partial.done :]))
        else:
            partial.append(prediction_csv.as_lines([table.header]))
        counter = stack.enter_context(
            contextlib.closing(progress.Counter("predictions", len(paths), done=partial.done))
        )
        batches = predicted(run, paths[partial.done :], stream, views=flags.views, extras=extras, before=table.readable)
        for rows in batches:
            partial.append(table.lines(rows), len(rows))
            counter.add(len(rows))
        return _finish(partial, table, explanations)


class _Table:
    """The rows that go into the file, and what the program says of them at the end.

    Attributes:
      header: the names of the columns.
      first: the first rows of images that can be read.
      readable: number of images that can be read.
      unreadable: the rows of those that cannot.
    """

    def __init__(self, run: Run, paths: Sequence[str], extras: Sequence[Extra]):
        self._run, self._paths = run, paths
        self._width = min(TOP, len(run.class_names))
        self._extras = [name for extra in extras for name in extra.names]
        self.header = prediction_csv.header(self._width, self._extras)
        self.first: list[Row] = []
        self.readable = 0
        self.unreadable: list[Row] = []

    def key(self, flags: Any) -> dict[str, str]:
        """Return what the rows depend on, by name."""
        run = self._run
        return {
            "the list of images, or one of the files,": _state_of(self._paths),
            "--workdir": str(run.workdir),
            "--step": str(run.step),
            "the training of the run": fingerprint((run.result or {}).get("seconds"), dict(run.config)),
            "the calibration or the familiarity": fingerprint(
                run.temperature, states_of("", [str(run.workdir / files.FAMILIARITY)])
            ),
            "--views": str(flags.views),
            "--max_pixels": str(flags.max_pixels),
            "--unknown_below": str(flags.unknown_below),
            "--neighbours": str(flags.neighbours),
            "--explain": str(flags.explain),
            "the columns": fingerprint(self.header),
        }

    def lines(self, rows: Sequence[Row]) -> str:
        """Return the lines of some rows, and remember what the program says of them at the end."""
        self._remember(rows)
        return prediction_csv.as_lines(prediction_csv.cells(row, self._width, self._extras) for row in rows)

    def read(self, partial: PartialFile) -> None:
        """Remember the rows that an earlier start has written."""
        lines = partial.text()
        next(lines)
        names = {for_spreadsheet(name): name for name in self._run.class_names}
        for row in prediction_csv.read(lines, self._paths, self._width, self._extras):
            self._remember([row | {"labels": [names.get(label, label) for label in row["labels"]]}])

    def _remember(self, rows: Sequence[Row]) -> None:
        sound = [row for row in rows if not row["reason"]]
        self.unreadable += [row for row in rows if row["reason"]]
        self.readable += len(sound)
        self.first += sound[: max(0, _FIRST - len(self.first))]

    def written_paths(self) -> set[str]:
        """Return the paths as the file has them."""
        return {for_spreadsheet(readable(path)) for path in self._paths}


def _state_of(paths: Sequence[str]) -> str:
    """Return digits that depend on the paths of files, and on the sizes and times of those on this machine."""
    parts = (paths[start : start + 1000] for start in range(0, len(paths), 1000))
    return fingerprint(
        *(fingerprint(*(path if is_remote(path) else states_of("", [path]) for path in part)) for part in parts)
    )


def _stream(flags: Any, paths: Sequence[str]) -> ImageStream:
    workdir = absolute(flags.workdir)
    files.check_links(workdir)
    found = read_run_description(workdir)
    return file_stream(
        paths,
        found.preprocessing,
        from_json(found.config).data,
        batch_size=rounded(BATCH),
        max_pixels=flags.max_pixels,
        views=flags.views,
    )


def _finish(partial: PartialFile, table: _Table, explanations: Explanations | None) -> int:
    """Give the file its name, and print what was found; return the exit code."""
    path, count = partial.path, table.readable
    if not count and exists(path):
        partial.drop()  # Do not replace earlier predictions by a list of reasons.
    elif not count:
        partial.drop()
        files.write_text(path, prediction_csv.as_csv(table.unreadable))
    else:
        if exists(path):
            for line in prediction_files.replaced(path, table.written_paths()):
                print(line, file=sys.stderr)
        partial.complete()
        print(prediction_csv.as_table(table.first, total=count))
        print(for_terminal(f"\nPredictions of {count} image{'s' * (count != 1)} are in {path}"))
        if explanations:
            print(for_terminal(f"What speaks for them: {explanations.write_page(table.first, count)}"))
    return report_unreadable(table.unreadable, bool(count))


def unknown_images(run: Run, flags: Any) -> list[Extra]:
    """Return what marks images of none of the classes; nothing if the run cannot tell them."""
    found = familiarity.read(run.workdir, run.step)
    if found is None:
        print(
            for_terminal(
                f"note: images of none of the classes are not marked: the weights of step {run.step} of this run have no "
                "familiarity. --mode=evaluate --calibrate fits it, if there is a validation split."
            ),
            file=sys.stderr,
        )
        return []
    print(for_terminal(f"note: {found.note}"), file=sys.stderr)
    return [UnknownImages(found, flags.unknown_below)]


def report_unreadable(unreadable: Sequence[Mapping[str, Any]], some_read: bool) -> int:
    """Report the images that could not be read, and return the exit code.

    Raises:
      UserError: none could be read.
    """
    if not unreadable:
        return 0
    told = f"{len(unreadable)} image{'s' * (len(unreadable) != 1)} could not be read:\n  " + "\n  ".join(
        f"{row['path']}: {row['reason']}" for row in unreadable
    )
    if not some_read:
        raise UserError(told)
    print(for_terminal(f"warning: {told}"), file=sys.stderr)
    return SOME_UNREADABLE
