"""Preprocess images for a pretrained network."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from flax_augtl.data.images.strips import without_ends
from flax_augtl.errors import UserError

if TYPE_CHECKING:
    import jax

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LARGEST_SIDE = 4096  # In pixels; larger images have more float32 values than any of the networks can process.

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
RESIZES = ("short_side", "squash", "none")
CROP_ROUNDINGS = {"nearest": round, "down": int}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform of a set of weights; by default that of torchvision for ImageNet.

    Attributes:
      image_size: side of the square input of the network, in pixels.
      crop_fraction: `image_size` as a share of the short side of the resized image, in (0, 1].
      interpolation: a filter of Pillow, which antialiases: "nearest", "bilinear", "bicubic", "lanczos", "box" or
        "hamming".
      channel_order: "RGB" or "BGR"; mean and std have this order.
      value_range: value of the brightest pixel before normalization, 1 or 255.
      mean: subtracted from each channel.
      std: divides each channel after that.
      resize: resizing before the crop. "short_side" keeps the aspect ratio, "squash" makes a square, "none" does not
        resize, and pads images that are smaller than the crop with black.
      crop_rounding: rounding of half pixels if an odd number of pixels is cut off: to the "nearest" even number, like
        torchvision, or "down", like transformers.
    """

    image_size: int = 224
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    channel_order: str = "RGB"
    value_range: float = 1.0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: str = "short_side"
    crop_rounding: str = "nearest"

    def __post_init__(self):
        # JSON and configs give lists; tuples make the object hashable, which the jit cache needs.
        for field in ("mean", "std"):
            value = getattr(self, field)
            if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
                raise UserError(f"preprocessing: {field} must be three numbers, got {value!r}")
            object.__setattr__(self, field, tuple(float(v) for v in value))
        problems = []
        if isinstance(self.image_size, bool) or not isinstance(self.image_size, int) or self.image_size < 1:
            problems.append(f"image_size must be a whole number of pixels above 0, got {self.image_size!r}")
        if not 0 < self.crop_fraction <= 1:
            problems.append(f"crop_fraction must be above 0 and at most 1, got {self.crop_fraction!r}")
        elif isinstance(self.image_size, int) and self.image_size / self.crop_fraction > 2 * LARGEST_SIDE:
            problems.append(
                f"crop_fraction={self.crop_fraction!r} of images of {self.image_size} pixels would have them "
                f"resized to {self.image_size / self.crop_fraction:.0f}, above {2 * LARGEST_SIDE}"
            )
        if self.interpolation not in FILTERS:
            problems.append(f"interpolation must be one of {', '.join(FILTERS)}, got {self.interpolation!r}")
        if self.channel_order not in ("RGB", "BGR"):
            problems.append(f"channel_order must be RGB or BGR, got {self.channel_order!r}")
        if not self.value_range > 0:
            problems.append(f"value_range must be above 0, got {self.value_range!r}")
        if len(self.mean) != 3 or not all(map(math.isfinite, self.mean)):
            problems.append(f"mean must be three numbers, got {self.mean!r}")
        if len(self.std) != 3 or not all(0 < s < math.inf for s in self.std):
            problems.append(f"std must be three numbers above 0, got {self.std!r}")
        if self.resize not in RESIZES:
            problems.append(f"resize must be one of {', '.join(RESIZES)}, got {self.resize!r}")
        if self.crop_rounding not in CROP_ROUNDINGS:
            problems.append(f"crop_rounding must be one of {', '.join(CROP_ROUNDINGS)}, got {self.crop_rounding!r}")
        if problems:
            raise UserError("preprocessing: " + "; ".join(problems))

    @property
    def resize_size(self) -> int:
        """The short side before the crop, in pixels; both sides if the image is squashed."""
        # The small term makes 224 / (224 / 232) 232; floating point gives 231.99….
        return math.floor(self.image_size / self.crop_fraction + 1e-6)

    def replace(self, **changes) -> "Preprocessing":
        """Return a copy with some fields changed.

        Raises:
          UserError: a field is unknown, or a value is out of range.
        """
        _check_fields(changes)
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict that `json` can write and `from_json` reads."""
        fields = {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}
        if self.crop_rounding == "nearest":
            del fields["crop_rounding"]  # Keeps caches and runs of versions without this field valid.
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """Return the object that `to_json` was called on.

        Raises:
          UserError: a field is unknown, or a value is out of range.
        """
        _check_fields(fields)
        return cls(**fields)

    def resized(self, image: Image.Image) -> Image.Image:
        """Resize an RGB image, without the crop."""
        if self.resize == "none":
            return image
        side = self.resize_size
        if self.resize == "squash":
            size = side, side
        else:
            image = without_ends(image)
            width, height = image.size
            size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
        return image if size == image.size else image.resize(size, FILTERS[self.interpolation])

    def resize_and_crop(self, image: Image.Image) -> np.ndarray:
        """Resize an image and crop its centre, as torchvision does with a Pillow image.

        Args:
          image: an image of mode RGB and any size.

        Returns:
          uint8 [image_size, image_size, 3], RGB.

        Raises:
          UserError: the image has another mode.
        """
        if image.mode != "RGB":
            raise UserError(f"expected an RGB image, got one of mode {image.mode}")
        image = self.resized(image)
        # Pillow fills with black where the image is smaller than the crop.
        left, top = (CROP_ROUNDINGS[self.crop_rounding]((extent - self.image_size) / 2) for extent in image.size)
        return np.asarray(image.crop((left, top, left + self.image_size, top + self.image_size)))

    def normalise(self, images) -> "jax.Array":
        """Convert pixels to the network's input: channel order, value range, mean and standard deviation.

        This is a pure function, which can run inside `jit`.

        Args:
          images: uint8 [..., 3], RGB.

        Returns:
          float32 [..., 3], channels in `channel_order`.

        Raises:
          UserError: the array is not uint8, or its last axis is not 3.
        """
        if images.dtype != np.uint8 or images.shape[-1:] != (3,):
            raise UserError(f"expected uint8 pixels [..., 3], got {images.dtype} {list(images.shape)}")
        import jax.numpy as jnp  # Here, because worker processes resize images but do not need JAX.

        x = jnp.asarray(images).astype(jnp.float32) / (255 / self.value_range)
        if self.channel_order == "BGR":
            x = x[..., ::-1]
        return (x - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)

    def __call__(self, images: Sequence[np.ndarray]) -> "jax.Array":
        """Preprocess images of any sizes.

        Args:
          images: uint8 [H, W, 3] arrays, RGB.

        Returns:
          float32 [N, image_size, image_size, 3].

        Raises:
          UserError: the list is empty, or an array is not uint8 [H, W, 3].
        """
        if len(images) == 0:
            raise UserError("there is no image to preprocess: the list is empty")
        crops = []
        for i, image in enumerate(images):
            image = np.asarray(image)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
                raise UserError(f"image {i}: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
            crops.append(self.resize_and_crop(Image.fromarray(image)))
        return self.normalise(np.stack(crops))


def _check_fields(fields: Mapping[str, Any]):
    known = [field.name for field in dataclasses.fields(Preprocessing)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise UserError(f"preprocessing has no field {', '.join(unknown)}; its fields are {', '.join(known)}")
