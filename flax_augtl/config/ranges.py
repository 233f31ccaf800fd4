"""The ranges of the numbers in a configuration: a value outside would train on, and towards nothing."""

import math
import numbers
from collections.abc import Iterator, Mapping
from typing import Any

# Field → least, largest, and whether these two are out of range themselves.
_AT_LEAST_0 = (0, math.inf, "[]")
_SHARE = (0, 1, "[]")
_BELOW_1 = (0, 1, "[)")
_ABOVE_0 = (0, math.inf, "(]")
_AT_LEAST_1 = (1, math.inf, "[]")
# Above it numbers no longer fit the integers of arrays.
_LARGEST = 2**31 - 1
RANGES: Mapping[str, tuple[float, float, str]] = {
    "learning_rate": _AT_LEAST_0,
    "new_layer_multiplier": _AT_LEAST_0,
    "momentum": _BELOW_1,
    "weight_decay": _AT_LEAST_0,
    "gradient_clip": _AT_LEAST_0,
    "label_smoothing": _BELOW_1,
    "schedule.final": _AT_LEAST_0,
    "schedule.factor": _AT_LEAST_0,
    "head.scale": _ABOVE_0,
    "head.widen": _AT_LEAST_0,
    "head.dropout": _BELOW_1,
    "data.jitter": _SHARE,
    "data.erase": _SHARE,
    "data.mixup": _AT_LEAST_0,
    "data.cutmix": _AT_LEAST_0,
    "data.folder_rules": (1, 2, "[]"),
    "data.views": _AT_LEAST_0,
    "data.shift": _AT_LEAST_0,
    "data.threads": _AT_LEAST_0,
    "data.workers": _AT_LEAST_0,
    "data.max_pixels": _AT_LEAST_1,
    "data.blur": _AT_LEAST_0,
    "data.list_rules": (1, 2, "[]"),
    "data.cache_gb": _AT_LEAST_0,
    "data.split_seed": _AT_LEAST_0,
    "data.folds": _AT_LEAST_0,
    "data.fold": _AT_LEAST_0,
    "image_size": _AT_LEAST_1,
    "keep_checkpoints": _AT_LEAST_1,
    "early_stopping": _AT_LEAST_0,
    "batch_size": _AT_LEAST_1,
    "accumulate": _AT_LEAST_1,
    "on_nan_limit": _AT_LEAST_0,
    "log_every_steps": _AT_LEAST_1,
    "check_replicas_every": _AT_LEAST_0,
    "study.minutes": _AT_LEAST_0,
    "study.selection_seeds": _AT_LEAST_0,
    "study.views": _AT_LEAST_1,
    "study.cache_gb": _AT_LEAST_0,
    "study.device_gb": _AT_LEAST_0,
    "study.together": _AT_LEAST_0,
    "study.checkpoint_seconds": _AT_LEAST_0,
    "study.lease_seconds": _ABOVE_0,
}
# Fields that hold several numbers.
_SEVERAL = (
    "head.new_layers",
    "class_weights",
    "data.crop_scale",
    "preprocessing.mean",
    "preprocessing.std",
    "schedule.boundaries_steps",
    "schedule.boundaries_epochs",
    "schedule.boundaries_examples",
    "study.learning_rates",
    "study.seeds",
)
_WHOLE = ("head.new_layers", "study.seeds")


def check_ranges(config: Mapping[str, Any]) -> None:
    """Raise ValueError, with the field, if a number of a configuration is not finite or outside of its range.

    Args:
      config: see configs/common.py; fields that it lacks or that are None are not looked at.
    """
    for field, value in _fields(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"config.{field}={value} is not a finite number.")
        if isinstance(value, int) and abs(value) > _LARGEST and not field.endswith("seed"):
            raise ValueError(f"config.{field}={value} is above {_LARGEST}.")
        if field in _SEVERAL:
            kind = numbers.Integral if field in _WHOLE else numbers.Real
            if not isinstance(value, tuple | list) or not all(
                isinstance(each, kind) and abs(each) < math.inf for each in value
            ):
                what = "whole numbers" if field in _WHOLE else "finite numbers"
                raise ValueError(f"config.{field}={value!r} must be {what}.")
        elif field in RANGES:
            least, most, ends = RANGES[field]
            if not isinstance(value, numbers.Real):
                raise ValueError(f"config.{field}={value!r} must be a number.")
            if not (least < value if ends[0] == "(" else least <= value) or not (
                value < most if ends[1] == ")" else value <= most
            ):
                raise ValueError(f"config.{field}={value} must be {_said(least, most, ends)}.")
    scale = config["data"].get("crop_scale", (1, 1)) if "data" in config else (1, 1)
    if len(scale) != 2:
        raise ValueError(
            f"config.data.crop_scale={tuple(scale)} must be two shares of the area, the least and the most."
        )


def _said(least: float, most: float, ends: str) -> str:
    low = f"above {least:g}" if ends[0] == "(" else f"at least {least:g}"
    return low if math.isinf(most) else f"{low} and {'below' if ends[1] == ')' else 'at most'} {most:g}"


def _fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every field that is set; variants and heads of one's own are no fields."""
    for name in config:
        value, field = config[name], prefix + name
        if field in ("variants", "study.own_heads") or value is None:
            continue
        if isinstance(value, Mapping) or hasattr(value, "items"):
            yield from _fields(value, field + ".")
        else:
            yield field, value
