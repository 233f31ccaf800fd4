"""What kind of value each field of config.json is: a run directory may come from anybody, and is data.

The names and kinds are those of configs/common.py; a test compares the two.
"""

import math
from collections.abc import Mapping
from typing import Any

_NAMES = {
    "whole number": (
        "accumulate batch_size check_replicas_every "
        "data.folds data.shift data.threads data.view_seed data.views data.workers early_stopping data.list_rules "
        "data.folder_rules data.max_pixels "
        "keep_checkpoints log_every_steps on_nan_limit seed"
    ),
    "whole number or null": (
        "checkpoint_every_examples checkpoint_every_steps data.fold data.shots data.split_seed "
        "evaluate_every_examples evaluate_every_steps examples head.widen image_size "
        "schedule.warmup_examples schedule.warmup_steps steps"
    ),
    "number": (
        "data.blur data.cache_gb data.cutmix data.erase data.jitter data.mixup data.rate data.test data.validation "
        "gradient_clip label_smoothing learning_rate momentum new_layer_multiplier schedule.factor schedule.final "
        "weight_decay"
    ),
    "number or null": (
        "checkpoint_every_epochs epochs evaluate_every_epochs head.dropout head.scale preprocessing.crop_fraction "
        "preprocessing.value_range schedule.warmup_epochs"
    ),
    "list of numbers": (
        "data.crop_scale schedule.boundaries_epochs schedule.boundaries_examples schedule.boundaries_steps"
    ),
    "list of numbers or null": "class_weights head.new_layers preprocessing.mean preprocessing.std",
    "text": (
        "compute_dtype data.cache data.crop data.name data.near_copies data.on_bad_image data.on_leak data.policy "
        "freeze head.preset name network on_nan optimizer schedule.name"
    ),
    "text or null": (
        "data.cache_dir data.class_list data.group data.metric data.label_column data.path_column "
        "data.split_column data.on_conflict "
        "data.root data.scan_dir data.test_list data.train_list data.val_list "
        "head.classifier_init head.classifier_init_from "
        "head.classifier_rate head.norm preprocessing.channel_order preprocessing.interpolation "
        "weights weights_entry weights_sha256 preprocessing.resize "
    ),
    "true or false": "balance_classes remat",
    "text, number, true or false": "data.flip data.rotate",
    "true or false or null": "head.keep_classifier",
}
KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
# What loading, evaluating and predicting read. Other fields may be those of another version of this program.
NEEDED = ("seed", "batch_size", "compute_dtype", "head.preset", "data.name", "data.threads")


def is_a(value: Any, kind: str) -> bool:
    """Tell whether a JSON value is of a kind in `KINDS`; NaN, infinities and what no int64 can hold are no numbers."""
    if kind.endswith(" or null"):
        return value is None or is_a(value, kind.removesuffix(" or null"))
    if kind.startswith("list of "):
        one = kind.removeprefix("list of ").removesuffix("s")
        return isinstance(value, (list, tuple)) and all(is_a(item, one) for item in value)
    if kind == "text, number, true or false":
        return any(is_a(value, each) for each in ("text", "number", "true or false"))
    if isinstance(value, bool):
        return kind == "true or false"
    whole = isinstance(value, int) and abs(value) < 2**63
    return {
        "whole number": whole,
        "text": isinstance(value, str),
        "number": whole or isinstance(value, float) and math.isfinite(value),
    }.get(kind, False)


def check(values: Any, kinds: Mapping[str, str], needed: tuple[str, ...], where: str) -> None:
    """Check the fields of a JSON object.

    Args:
      values: the object.
      kinds: of its fields, with dots between the levels of nested ones; fields that are not among them are passed over.
      needed: the fields that it must have.
      where: what to call it in the message.

    Raises:
      ValueError: it is no object, lacks a needed field, or fields are of another kind; the message has all of them.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be an object in braces, not {_shown(values)}.")
    problems = []
    for name, kind in kinds.items():
        value = values
        for part in name.split("."):
            if not isinstance(value, Mapping):
                problems.append(f"{name}: its parent must be an object in braces, not {_shown(value)}")
                break
            if part not in value:
                problems += [f"{name} is missing"] if name in needed else []
                break
            value = value[part]
        else:
            if not is_a(value, kind):
                problems.append(f"{name} must be a {kind}, not {_shown(value)}")
    if problems:
        raise ValueError(f"{where} cannot be used:\n  " + "\n  ".join(problems))


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
