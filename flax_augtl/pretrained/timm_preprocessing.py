"""The fields of timm's pretrained_cfg that describe the preprocessing → `Preprocessing`.

They mean what they mean to timm's evaluation transform at the size of training (`resolve_model_data_config`). The
fields `test_input_size` and `test_crop_pct` describe another, larger input; they are ignored.
"""

from collections.abc import Mapping
from typing import Any

from flax_augtl.data.images.preprocessing import FILTERS, Preprocessing
from flax_augtl.pretrained.unsettled import Unsettled


def read(fields: Mapping[str, Any]) -> tuple[Preprocessing, list[Unsettled]]:
    """Return the preprocessing that the fields describe, and the fields that are not supported.

    A missing field has timm's default.

    Raises:
      ValueError: a value is out of range.
      TypeError: a value has the wrong type.
    """
    values: dict[str, Any] = {"interpolation": "bicubic"}
    unsettled = []

    def open_(name: str, by: str) -> None:
        unsettled.append(Unsettled(f"{name}={fields[name]!r}", (by,)))

    if fields.get("input_size") is not None:
        _, height, width = fields["input_size"]
        values["image_size"] = min(height, width)
        if height != width:
            open_("input_size", "image_size")
    if fields.get("crop_pct"):
        if 0 < fields["crop_pct"] <= 1:
            values["crop_fraction"] = float(fields["crop_pct"])
        else:
            open_("crop_pct", "crop_fraction")
    mode = fields.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        open_("crop_mode", "resize")
    values["resize"] = "squash" if mode == "squash" else "short_side"
    if fields.get("interpolation") is not None:
        if fields["interpolation"] in FILTERS:
            values["interpolation"] = fields["interpolation"]
        else:
            open_("interpolation", "interpolation")
    for name in ("mean", "std"):
        if fields.get(name):
            found = tuple(map(float, fields[name]))
            found = found * 3 if len(found) == 1 else found
            if len(found) == 3 and (name == "mean" or min(found) > 0):
                values[name] = found
            else:
                open_(name, name)
    return Preprocessing(**values), unsettled
