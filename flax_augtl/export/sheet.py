"""The JSON beside an exported file: what a program needs to know to use it."""

import dataclasses
from typing import Any

from flax_augtl.export.card_command import without_paths
from flax_augtl.export.check import Checked
from flax_augtl.export.settings import ExportError, ExportSettings
from flax_augtl.models.augmented import HEAD
from flax_augtl.pretrained.run_description import read_source
from flax_augtl.run import Run
from flax_augtl.trust import familiarity
from flax_augtl.trust.familiarity import Familiarity

NOT_CALIBRATED = "not calibrated"
_WIDTHS = {
    "probabilities": "one a class",
    "logits": "one a class",
    "features": "one a unit of the penultimate layer",
    "familiarity": "one: the share of validation images that look less familiar",
}


def temperature_of(run: Run) -> float | None:
    """Return what the logits of a run are divided by before the softmax; None if it is not calibrated."""
    return run.temperature


def familiarity_of(run: Run, settings: ExportSettings) -> Familiarity | None:
    """Return the familiarity of a run if it is exported.

    Raises:
      ExportError: it is to be exported, and the run has none.
    """
    if "familiarity" not in settings.outputs:
        return None
    found = familiarity.read(run.workdir, run.step)
    if found is None:
        raise ExportError(
            f"--outputs=familiarity: the weights of step {run.step} in {run.workdir} have no familiarity. --mode=evaluate "
            "--calibrate fits it, if the run has a validation split."
        )
    return found


def is_plain(run: Run) -> bool:
    """Tell whether the head is nothing but a target classifier on the penultimate features."""
    settings = run.network.head.settings
    return settings.norm == "none" and not (settings.keep_classifier or settings.new_layers or settings.widen)


def described(run: Run) -> dict[str, Any]:
    """Return source.json of a run with stages instead of blocks, and terms that are texts."""
    found = dict(read_source(run.workdir))
    found["settings"] = {name: value for name, value in found["settings"].items() if name != "by_block"}
    found["terms"] = {name: str(value) for name, value in found["terms"].items()}
    return found


def sheet(run: Run, settings: ExportSettings, checked: Checked | None) -> dict[str, Any]:
    """Return what stands in the JSON.

    Args:
      run: that is exported.
      settings: of the export.
      checked: what the check found, None without one.
    """
    found, head = described(run), run.network.head.settings
    common = {
        "network": found["network"],
        "settings": found["settings"],
        "class_names": list(run.class_names),
        "kept_class_names": list(found["class_names"]) if head.keep_classifier else None,
        "head": None if is_plain(run) else dataclasses.asdict(head),
        "preprocessing": run.preprocessing.to_json(),
        "terms": found["terms"],
        "step": run.step,
        "test": (run.result or {}).get("test"),
        "calibration": temperature_of(run) or NOT_CALIBRATED,
        "weights": settings.weights,
    }
    if checked is not None:
        common["check"] = checked.to_json()
    if settings.format == "safetensors":
        return {**common, "config": without_paths(run.config.to_dict())}
    return {**common, **_program(run, settings)}


def _program(run: Run, settings: ExportSettings) -> dict[str, Any]:
    """Return what an exported program takes and gives."""
    preprocessing, size = run.preprocessing, run.preprocessing.image_size
    side = preprocessing.resize_size
    resize = {
        "short_side": f"resize the short side to {side} pixels, the other in proportion, rounded down",
        "squash": f"resize to {side} × {side} pixels",
        "none": "do not resize",
    }[preprocessing.resize]
    resize += f" (Pillow's {preprocessing.interpolation})" if preprocessing.resize != "none" else ""
    steps = [
        "turn the image upright, as its EXIF orientation says, and make it RGB, with transparency laid on white",
        resize,
        f"cut out the central {size} × {size} pixels; what lies outside of the image is black",
    ]
    if settings.input == "float":
        steps += [
            f"divide by {255 / preprocessing.value_range:g}",
            *(["reverse the channels to BGR"] if preprocessing.channel_order == "BGR" else []),
            f"subtract {list(preprocessing.mean)} and divide by {list(preprocessing.std)}, channel by channel",
        ]
    kind = "uint8" if settings.input == "uint8" else "float32"
    return {
        "input": {"dtype": kind, "shape": ["N", size, size, 3], "steps": steps},
        "outputs": {name: {"dtype": "float32", "of_an_image": _WIDTHS[name]} for name in settings.outputs},
    }


def head_tensors(run: Run) -> dict[str, Any]:
    """Return the tensors of the head as `head.<layer>.<tensor>`, in Flax's layout."""
    return {
        f"{HEAD}.{layer}.{leaf}": value
        for tree in run.variables.values()
        for layer, leaves in tree.get(HEAD, {}).items()
        for leaf, value in leaves.items()
    }
