"""The log of a run: progress bar, lines of text, metrics.jsonl, TensorBoard, and the image of the confusion matrix."""

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from flax_augtl.errors import UserError
from flax_augtl.runtime.paths import is_remote
from flax_augtl.runtime.text import duration, for_terminal, shows_bars
from flax_augtl.training.confusion import confusion_image
from flax_augtl.workdir import files

BRACKETS = "in brackets: 95 % bootstrap intervals over these images, for this trained network"


class _Events:
    """An event file for TensorBoard.

    It is written in the calling thread: tensorboardX's own writer thread dies when the disk is full, and then blocks.
    """

    def __init__(self, directory: epath.Path, step: int):
        # Importing this takes a tenth of a second, which `predict` should not wait for.
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._summary, self._directory = summary, directory
        self._pb: Any = event_pb2  # Protobuf makes its classes at runtime.
        with self._saying():
            directory.mkdir(parents=True, exist_ok=True)
            self._writer = event_file_writer.EventsWriter(str(directory / "events"))
            if step:  # Have TensorBoard drop the later steps, which a resumed run writes again.
                start = self._pb.SessionLog(status=self._pb.SessionLog.START)
                self._writer.write_event(self._pb.Event(step=step + 1, session_log=start))

    @contextlib.contextmanager
    def _saying(self) -> Iterator[None]:
        """Raise UserError if the file cannot be written."""
        try:
            yield
        except OSError as error:
            raise UserError(f"{self._directory} cannot be written: {error.strerror or error}.") from error

    def _write(self, summary: Any, step: int) -> None:
        with self._saying():
            self._writer.write_event(self._pb.Event(step=step, wall_time=time.time(), summary=summary))

    def scalar(self, name: str, value: float, step: int) -> None:
        self._write(self._summary.scalar(name, value), step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        self._write(self._summary.image(name, image, dataformats="HWC"), step)

    def flush(self) -> None:
        with self._saying():
            self._writer.flush()

    def close(self) -> None:
        # Another method has raised this error, or will.
        with contextlib.suppress(OSError):
            self._writer.close()


class RunLog:
    """Log of a run; if there are several processes, only the first one has a log.

    On a terminal or in a notebook, a bar shows step, loss, images/s and the time left. Elsewhere, a line says the same
    from time to time.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        total_steps: int,
        step: int,
        batch_size: int,
        quiet: bool = False,
        seconds_between_lines: float = 30.0,
    ):
        self.workdir = epath.Path(workdir)
        self._total, self._first, self._step, self._batch_size = total_steps, step, step, batch_size
        events = self.workdir / files.TENSORBOARD
        # tensorboardX writes local files only; for a remote workdir they are copied from time to time.
        self._holder = tempfile.TemporaryDirectory(prefix="flax-augtl-") if is_remote(events) else None
        self._events = _Events(epath.Path(self._holder.name) if self._holder else events, step)
        self._interval = seconds_between_lines
        self._quiet = quiet
        self._started: float | None = None
        self._last_line = 0.0
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.1,
            disable=quiet or not shows_bars(),
        )

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        if not self._quiet:
            tqdm.write(for_terminal(text), file=sys.stderr)

    def step(self, step: int, loss: float) -> None:
        """Show that `step` steps are done. The first call starts the clock, so that compilation does not count."""
        now = time.monotonic()
        if self._started is None:
            self._started, self._last_line, self._first = now, now, step
            self._bar.n = step
            self._bar.unpause()
        else:
            self._bar.update(step - self._step)
        self._step = step
        done = step - self._first
        if done:
            rate = done / (now - self._started)
            self._bar.set_postfix_str(f"loss {loss:.3f}, {rate * self._batch_size:.0f} images/s", refresh=False)
            if self._bar.disable and now - self._last_line >= self._interval:
                self._last_line = now
                self.say(
                    f"step {step}/{self._total}  loss {loss:.3f}  {rate * self._batch_size:.0f} images/s  "
                    f"{duration((self._total - step) / rate)} left"
                )

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append a row to metrics.jsonl, and write the values for TensorBoard."""
        files.append_metrics(self.workdir, [{"step": step, "split": split, **values}])
        for name, value in values.items():
            if value is not None:  # None: the metric is not defined for these images.
                self._events.scalar(f"{split}/{name}", value, step)
        self._events.flush()
        if split != "train":
            self._copy_events()

    def write_confusion(self, split: str, confusion: np.ndarray, class_names: Sequence[str], step: int) -> None:
        """Write the confusion matrix as `confusion_<split>.png`, and for TensorBoard."""
        image = confusion_image(confusion, class_names)
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(image).save(content, format="PNG")
        files.write_bytes(self.workdir / f"confusion_{split}.png", content.getvalue())
        self._events.image(f"{split}/confusion", image, step)

    def close(self) -> None:
        """Close the progress bar and the TensorBoard file."""
        self._bar.close()
        self._events.close()
        self._copy_events()
        if self._holder:
            self._holder.cleanup()

    def _copy_events(self) -> None:
        """Copy the TensorBoard file to a remote workdir."""
        if self._holder is None:
            return
        there = self.workdir / files.TENSORBOARD
        there.mkdir(parents=True, exist_ok=True)
        for file in epath.Path(self._holder.name).iterdir():
            file.copy(there / file.name, overwrite=True)


def describe(values: Mapping[str, Any], intervals: Mapping[str, Sequence[float]] | None = None) -> str:
    """Return evaluation metrics as one short text, with their intervals over images, if given (`BRACKETS`)."""
    ends = {name: f" [{low:.4f}, {high:.4f}]" for name, (low, high) in (intervals or {}).items()}
    return (
        f"top-1 {values['top1']:.4f}{ends.get('top1', '')}, mean per class {values['mean_per_class']:.4f}"
        f"{ends.get('mean_per_class', '')}, loss {values['loss']:.4f} ({values['n']} examples)"
    )
