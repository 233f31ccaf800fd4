"""preprocessor_config.json of Hugging Face transformers → `Preprocessing`.

The fields mean what they mean to the image processors of transformers 5; a missing one has the processor's default.
"""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.errors import UserError
from flax_augtl.pretrained.unsettled import Unsettled

_HALF = (0.5, 0.5, 0.5)
_CLIP = {
    "size": {"shortest_edge": 224}, "square": False, "do_center_crop": True, "crop_size": 224, "resample": 3,
    "image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711),
}  # fmt: skip
_MOBILE = {"size": {"shortest_edge": 256}, "square": False, "do_center_crop": True, "crop_size": 224, "resample": 2}
# `square`: a size that is one number means both sides, not the short one.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "ConvNext": {"size": {"shortest_edge": 384}, "square": False, "resample": 3, "crop_pct": 224 / 256},
    "ViT": {"size": 224, "square": True, "resample": 2},
    "DeiT": {"size": 256, "square": True, "do_center_crop": True, "crop_size": 224, "resample": 3},
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "MobileNetV1": _MOBILE,
    "MobileNetV2": _MOBILE,
    "EfficientNet": {"size": 346, "square": True, "crop_size": 289, "resample": 3, "include_top": True},
}
_COMMON = {
    "do_resize": True, "do_center_crop": False, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": _HALF, "image_std": _HALF,
}  # fmt: skip
_WARPED_FROM = 384  # From this size on, ResNet's processor squashes images.
# Steps that are supported, or that change nothing for labelled RGB images.
_KNOWN_STEPS = {*_COMMON, "do_convert_rgb", "do_reduce_labels", "do_flip_channel_order"}


def read(fields: Mapping[str, Any]) -> tuple[Preprocessing, list[Unsettled]]:
    """Return the preprocessing that the fields describe, and the fields that are not supported.

    Raises:
      ValueError: a value is out of range.
      TypeError: a value has the wrong type.
    """
    processor = _processor(fields)
    given = {name: value for name, value in fields.items() if value is not None}
    fields = {**_COMMON, **_DEFAULTS.get(processor, _DEFAULTS["ViT"]), **given}
    unsettled = []
    if processor not in _DEFAULTS:
        unsettled.append(Unsettled(f"image_processor_type={processor}", ("resize",)))
    if "auto_map" in fields:
        unsettled.append(Unsettled("auto_map (code of its own)", ("resize",)))
    unsettled += [
        Unsettled(f"{name}={value}", ("resize",))
        for name, value in sorted(fields.items())
        if name.startswith("do_") and value and name not in _KNOWN_STEPS
    ]
    geometry = (
        _warped(fields, unsettled) if processor == "ConvNext" and fields["do_resize"] else _geometry(fields, unsettled)
    )
    geometry |= {"crop_rounding": "down", **_interpolation(fields, unsettled)}
    return Preprocessing(**geometry, **_values(processor, fields, unsettled)), unsettled


def _processor(fields: Mapping[str, Any]) -> str:
    # Without a name, transformers takes the processor of a ResNet.
    name = str(fields.get("image_processor_type") or fields.get("feature_extractor_type") or "ConvNextImageProcessor")
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(ending)
    return name


def _size(fields: Mapping[str, Any], name: str, square: bool) -> tuple[str, int] | None:
    """Return ("squash" or "short_side", pixels); None if the size describes no square."""
    size = fields.get(name)
    if size is None:
        return None
    if isinstance(size, (list, tuple)):
        size = dict(zip(("height", "width"), size, strict=True))
    if not isinstance(size, Mapping):
        return None if "max_size" in fields else ("squash" if square else "short_side", _pixels(size))
    size = {key: value for key, value in size.items() if value is not None}
    if set(size) == {"shortest_edge"}:
        return "short_side", _pixels(size["shortest_edge"])
    if set(size) == {"height", "width"} and size["height"] == size["width"]:
        return "squash", _pixels(size["height"])
    return None


def _pixels(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise UserError(f"a size must be a whole number of pixels above 0, got {value!r}")
    return int(value)


def _shown(name: str, fields: Mapping[str, Any]) -> str:
    return f"{name}={fields.get(name)!r}"


def _any_side(fields: Mapping[str, Any]) -> int:
    """Return the input size that is nearest to a size which describes no square."""
    for name in ("crop_size", "size"):
        size = fields.get(name)
        sides = size.values() if isinstance(size, Mapping) else size if isinstance(size, (list, tuple)) else (size,)
        if sides := [side for side in sides if side is not None]:
            return _pixels(min(sides))
    raise UserError("it has no size")


def _warped(fields: Mapping[str, Any], unsettled: list[Unsettled]) -> dict[str, Any]:
    """Return the geometry of ResNet's processor: below 384 pixels resize and crop the centre, from there on squash."""
    found = _size(fields, "size", square=False)
    crop = _size(fields, "crop_size", square=True) if fields["do_center_crop"] else found
    if found is None or crop is None:
        unsettled.append(Unsettled(_shown("size" if found is None else "crop_size", fields), ("resize",)))
        return {"image_size": _any_side(fields), "crop_fraction": 1.0}
    way, size = found
    if way == "squash" or size >= _WARPED_FROM:
        way, resized = "squash", size
    else:
        resized = int(size / float(fields["crop_pct"]))
    return {"resize": way, "image_size": crop[1], "crop_fraction": _fraction(crop[1], resized, unsettled, fields)}


def _geometry(fields: Mapping[str, Any], unsettled: list[Unsettled]) -> dict[str, Any]:
    crop = _size(fields, "crop_size", square=True) if fields["do_center_crop"] else None
    if fields["do_center_crop"] and crop is None:
        unsettled.append(Unsettled(_shown("crop_size", fields), ("resize",)))
        return {"image_size": _any_side(fields), "crop_fraction": 1.0}
    if not fields["do_resize"]:
        if crop is not None:
            return {"resize": "none", "image_size": crop[1], "crop_fraction": 1.0}
        unsettled.append(Unsettled("do_resize=False", ("resize",)))
        return {"image_size": _any_side(fields), "crop_fraction": 1.0}
    found = _size(fields, "size", fields["square"])
    if found is None:
        unsettled.append(Unsettled(_shown("size", fields), ("resize",)))
        return {"image_size": _any_side(fields), "crop_fraction": 1.0}
    way, resized = found
    if crop is None and way == "short_side":
        unsettled.append(Unsettled(f"do_center_crop=False with {_shown('size', fields)}", ("crop_fraction", "resize")))
    side = resized if crop is None else crop[1]
    return {"resize": way, "image_size": side, "crop_fraction": _fraction(side, resized, unsettled, fields)}


def _fraction(side: int, resized: int, unsettled: list[Unsettled], fields: Mapping[str, Any]) -> float:
    if side > resized:
        said = f"{_shown('crop_size', fields)} with {_shown('size', fields)}"
        unsettled.append(Unsettled(said, ("crop_fraction", "resize")))
    return min(1.0, side / resized)


def _interpolation(fields: Mapping[str, Any], unsettled: list[Unsettled]) -> dict[str, Any]:
    names = {str(each.value): each.name.lower() for each in Image.Resampling}
    found = str(fields["resample"]).lower()
    if found not in (*names, *names.values()):
        unsettled.append(Unsettled(_shown("resample", fields), ("interpolation",)))
        return {}
    return {"interpolation": names.get(found, found)}


def _values(processor: str, fields: Mapping[str, Any], unsettled: list[Unsettled]) -> dict[str, Any]:
    """Return the fields of `Preprocessing` that turn pixel values into the network's inputs."""
    values: dict[str, Any] = {"value_range": 255.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    if fields["do_rescale"]:
        # 255 times a factor with 17 digits is not quite a whole number.
        values["value_range"] = round(255 * float(fields["rescale_factor"]), 6)
        if not values["value_range"] > 0:
            unsettled.append(Unsettled(_shown("rescale_factor", fields), ("value_range",)))
            values["value_range"] = 1.0
    mean, std = _three(fields, "image_mean", unsettled), _three(fields, "image_std", unsettled)
    if fields["do_normalize"]:
        values |= {"mean": mean, "std": std}
    if fields["do_rescale"] and (fields.get("rescale_offset") or fields.get("offset")):
        values["mean"] = tuple(m + 1 for m in values["mean"])
    if processor == "EfficientNet" and fields["include_top"]:
        # A second normalisation, without a mean.
        values["std"] = tuple(a * b for a, b in zip(values["std"], std, strict=True))
    if fields.get("do_flip_channel_order"):
        values["channel_order"] = "BGR"
        if fields["do_normalize"]:
            unsettled.append(Unsettled("do_flip_channel_order=True with do_normalize=True", ("channel_order",)))
    return values


def _three(fields: Mapping[str, Any], name: str, unsettled: list[Unsettled]) -> tuple[float, ...]:
    value = fields[name]
    value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    value = tuple(map(float, value * 3 if len(value) == 1 else value))
    if len(value) == 3 and (name == "image_mean" or min(value) > 0):
        return value
    unsettled.append(Unsettled(_shown(name, fields), (name.removeprefix("image_"),)))
    return (0.0,) * 3 if name == "image_mean" else (1.0,) * 3
