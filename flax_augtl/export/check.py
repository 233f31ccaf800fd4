"""The check before a file is put in place: the exported program computes what the run computes."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from flax_augtl.export.check_images import BATCH, CheckImages
from flax_augtl.export.forward import forward
from flax_augtl.export.settings import OUTPUTS, ExportError, ExportSettings
from flax_augtl.run import Run
from flax_augtl.trust.familiarity import Familiarity

# Of a probability. Logits and features may differ by the thousandth part of the largest one.
TOLERANCE = 1e-4
_RELATIVE = 1e-3

Program = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""An exported program: a batch of its input -> its outputs."""


@dataclasses.dataclass
class Checked:
    """What a check found.

    Attributes:
      images: how many of which kind, for people.
      n: how many.
      differences: {output: largest absolute difference from the run}.
      labelled: whether the images have labels.
      correct: how many images the exported weights predict correctly.
      correct_float32: how many the float32 weights of the run do.
      changed: of how many images the prediction differs from that of the float32 weights.
    """

    images: str
    n: int = 0
    differences: dict[str, float] = dataclasses.field(default_factory=dict)
    labelled: bool = False
    correct: int = 0
    correct_float32: int = 0
    changed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what the JSON beside the file says of the check."""
        found = {"images": self.images, "largest_difference": self.differences}
        if self.labelled:
            found |= {"top1": self.correct / self.n, "top1_float32": self.correct_float32 / self.n}
        return {**found, "changed_predictions": self.changed}

    def accuracy_change(self) -> str:
        """Return a sentence on what the weights of fewer bits change."""
        changed = f"{self.changed} of {self.images} are predicted differently"
        if not self.labelled:
            return f"{changed} than with float32 weights."
        before, after = self.correct_float32 / self.n, self.correct / self.n
        return f"top-1 {before:.4f} with float32 weights, {after:.4f} with these ({after - before:+.4f}); {changed}."


def check(
    run: Run,
    variables: Mapping[str, Any],
    settings: ExportSettings,
    program: Program,
    images: CheckImages,
    *,
    temperature: float | None = None,
    familiarity: Familiarity | None = None,
) -> Checked:
    """Compare an exported program with the run, image by image.

    Args:
      run: that was exported.
      variables: as they are stored in the export.
      settings: of the export.
      program: what was exported, ready to run.
      images: to compare on.
      temperature: see `forward`.
      familiarity: see `forward`.

    Raises:
      ExportError: the outputs differ by more than the tolerance, or the predicted class of an image differs.
    """
    everything = ExportSettings("onnx", outputs=everything_of(settings))
    # One compilation for weights of all types.
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)
    function = jax.jit(forward(run.network, run.preprocessing, everything, temperature, familiarity))
    found = Checked(str(images), differences=dict.fromkeys(settings.outputs, 0.0))
    largest = dict.fromkeys(settings.outputs, 0.0)
    for pixels, labels in images.batches():
        given = pixels if settings.input == "uint8" else np.asarray(run.preprocessing.normalise(pixels))
        results = program(given)
        wanted = of_one_size(functools.partial(function, variables))(pixels)
        precise = wanted
        if settings.weights != "float32":
            precise = of_one_size(functools.partial(function, run.variables))(pixels)
        for name in settings.outputs:
            result = np.asarray(results[name])
            if result.shape != wanted[name].shape:
                raise _failed(settings, f"its {name} have the shape {result.shape}, not {wanted[name].shape}", images)
            difference = np.abs(result - wanted[name]).max()
            found.differences[name] = float(np.maximum(found.differences[name], difference))  # NaN stays.
            largest[name] = max(largest[name], float(np.abs(wanted[name]).max()))
        classes = wanted["probabilities"].argmax(axis=1)
        for name in {"probabilities", "logits"} & set(settings.outputs):
            theirs, rows = np.asarray(results[name]).argmax(axis=1), np.arange(len(classes))
            # Two classes that are as likely as each other may change places.
            gap = wanted["probabilities"][rows, classes] - wanted["probabilities"][rows, theirs]
            if (gap > TOLERANCE).any():
                raise _failed(
                    settings, f"{np.count_nonzero(gap > TOLERANCE)} images have another likeliest class", images
                )
        before = precise["probabilities"].argmax(axis=1)
        found.n += len(pixels)
        found.changed += int(np.count_nonzero(classes != before))
        if labels is not None:
            found.labelled = True
            found.correct += int(np.count_nonzero(classes == labels))
            found.correct_float32 += int(np.count_nonzero(before == labels))
    for name, difference in found.differences.items():
        allowed = TOLERANCE if name == "probabilities" else _RELATIVE * max(largest[name], 1.0)
        if name == "familiarity" and familiarity is not None:
            # Two validation images may be as far away as this one, up to rounding.
            allowed += 2.5 / (len(familiarity.validation) + 1)
        if not difference <= allowed:
            raise _failed(
                settings, f"its {name} differ by up to {difference:.2g}, and {allowed:.2g} is allowed", images
            )
    return found


def everything_of(settings: ExportSettings) -> tuple[str, ...]:
    """Return all outputs; the familiarity only if it is exported, because not every run has one."""
    return tuple(name for name in OUTPUTS if name != "familiarity" or name in settings.outputs)


def of_one_size(function: Callable[[np.ndarray], Mapping[str, jax.Array]]) -> Program:
    """Return a compiled function that is called with full batches only, so that it is compiled once."""

    def program(batch):
        filled = np.concatenate([batch, np.zeros((BATCH - len(batch), *batch.shape[1:]), batch.dtype)])
        return {name: np.asarray(value)[: len(batch)] for name, value in function(filled).items()}

    return program


def _failed(settings: ExportSettings, what: str, images: CheckImages) -> ExportError:
    return ExportError(
        f"The {settings.format} export does not compute what the run computes, and nothing was written: {what} "
        f"(checked on {images}). Another version of JAX"
        f"{' or of onnxruntime' if settings.format == 'onnx' else ''} may help; please report it."
    )
