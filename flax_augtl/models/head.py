"""The head: everything that is stacked on the source network, and every control of it, as settings of one module.

The four networks of Shermin et al. (arXiv 1903.10150), the two of "Growing a Brain" (Wang et al., arXiv 1907.07844) and
the controls of an honest comparison differ in these settings only. Widths, activation, the value of gamma and the zero
initialisation of the target classifier are this project's decisions; the paper's text does not fix them.
"""

import dataclasses
import difflib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

NORMS = ("none", "l2", "batch", "layer")
CLASSIFIER_INITS = ("pretrained", "random", "shuffled")
CLASSIFIER_RATES = ("pretrained", "new")
CLASSIFIER_STARTS = ("zero", "leep")


@dataclasses.dataclass(frozen=True)
class HeadSettings:
    """Settings of the head.

    Attributes:
      keep_classifier: keep the pretrained classification layer; the head then reads its outputs, otherwise the
        penultimate features.
      new_layers: widths of the new layers between what the head reads and the target classifier (depth augmentation).
      widen: number of new units in parallel to the topmost layer that is kept of the source network, reading what that
        layer reads (width augmentation); 0 for none.
      norm: what normalises the input of every new layer, the target classifier included: one of `NORMS`.
      scale: initial gamma of the `l2` norm.
      classifier_init: weights of the kept classification layer: one of `CLASSIFIER_INITS`. `random` and `shuffled` are
        controls.
      classifier_rate: whether the kept classification layer trains at the rate of the pretrained or of the new layers.
      classifier_init_from: where the target classifier starts: `zero`, or `leep`, the predictor that needs no training
        (`flax_augtl.models.leep`), for a head whose target classifier reads the kept layer.
      dropout: probability with which an input of the target classifier, and an output of a new layer, is dropped.
    """

    keep_classifier: bool = True
    new_layers: tuple[int, ...] = ()
    widen: int = 0
    norm: str = "l2"
    scale: float = 10.0
    classifier_init: str = "pretrained"
    classifier_rate: str = "pretrained"
    classifier_init_from: str = "zero"
    dropout: float = 0.0

    def __post_init__(self):
        for field, choices in (
            ("norm", NORMS),
            ("classifier_init", CLASSIFIER_INITS),
            ("classifier_rate", CLASSIFIER_RATES),
            ("classifier_init_from", CLASSIFIER_STARTS),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(f"config.head.{field}={getattr(self, field)!r} is not one of {', '.join(choices)}.")
        if self.widen < 0 or any(width < 1 for width in self.new_layers):
            raise ValueError(
                f"Widths of the head must be positive: config.head.new_layers={self.new_layers}, "
                f"config.head.widen={self.widen}."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"config.head.dropout={self.dropout} is not in [0, 1).")
        reads_kept = (
            self.keep_classifier and not self.new_layers and not self.widen and self.classifier_init == "pretrained"
        )
        if self.classifier_init_from == "leep" and not reads_kept:
            raise ValueError(
                "config.head.classifier_init_from='leep' needs a target classifier that reads the pretrained "
                "classification layer: keep_classifier=True, new_layers=(), widen=0, "
                "classifier_init='pretrained', as in the presets kept and kept_plain."
            )
        if not self.keep_classifier and self.classifier_init != "pretrained":
            raise ValueError(
                f"config.head.classifier_init={self.classifier_init!r} needs a kept classification layer, "
                "but config.head.keep_classifier is False."
            )


PRESETS: Mapping[str, HeadSettings] = {
    "traditional": HeadSettings(keep_classifier=False, norm="none"),
    "traditional_l2": HeadSettings(keep_classifier=False),
    "kept_plain": HeadSettings(norm="none"),
    "kept": HeadSettings(),
    "kept_deeper": HeadSettings(new_layers=(1024,)),
    "kept_deeper_batch": HeadSettings(new_layers=(1024,), norm="batch"),
    "kept_deeper2": HeadSettings(new_layers=(2048, 1024)),
    "deeper": HeadSettings(keep_classifier=False, new_layers=(1024,)),
    "wider": HeadSettings(keep_classifier=False, widen=1024),
    "random_deeper": HeadSettings(new_layers=(1024,), classifier_init="random"),
    "shuffled_deeper": HeadSettings(new_layers=(1024,), classifier_init="shuffled"),
}


def head_settings(preset: str, overrides: Mapping[str, object] | None = None) -> HeadSettings:
    """Return the settings of a preset, with those of `overrides` that are not None in their place.

    Raises:
      ValueError: the preset, an overriding field or a value is unknown.
    """
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, 1)
        raise ValueError(
            f"config.head.preset={preset!r} is unknown{f'; did you mean {near[0]!r}?' if near else '.'} "
            f"Choices: {', '.join(PRESETS)}."
        )
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    known = {field.name for field in dataclasses.fields(HeadSettings)}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"config.head has no field {', '.join(unknown)}. Fields: preset, {', '.join(sorted(known))}.")
    if "new_layers" in given:
        given["new_layers"] = tuple(int(width) for width in given["new_layers"])
    return dataclasses.replace(PRESETS[preset], **given)


class L2Normalise(nn.Module):
    """Compute gamma * x / max(||x||_2, epsilon) over the last axis, with a learned gamma per channel, in float32."""

    scale: float = 10.0
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        gamma = self.param("scale", nn.initializers.constant(self.scale), (x.shape[-1],))
        # The maximum is taken of the squared norm: the gradient of a norm at zero would be NaN.
        squared = jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), self.epsilon**2)
        return gamma * (x * jax.lax.rsqrt(squared))


def normalise(settings: HeadSettings, x: jax.Array, *, train: bool, name: str, axis_name: str | None) -> jax.Array:
    """Apply the head's normalisation to inputs of a new layer, [N, C]; to be called within a compact method."""
    match settings.norm:
        case "l2":
            return L2Normalise(settings.scale, name=name)(x)
        case "batch":
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                use_fast_variance=False,
                axis_name=axis_name,
                name=name,
            )(x)
        case "layer":
            return nn.LayerNorm(use_fast_variance=False, name=name)(x)
    return x


class Head(nn.Module):
    """Map what the source network gives, float [N, C], to logits of the target task, float32 [N, num_classes]."""

    settings: HeadSettings
    num_classes: int
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def _normalise(self, x, train, name):
        return normalise(self.settings, x, train=train, name=name, axis_name=self.axis_name).astype(self.dtype)

    @nn.compact
    def __call__(self, top: jax.Array, below: jax.Array | None = None, train: bool = False) -> jax.Array:
        """Apply the head.

        Args:
          top: [N, C] outputs of the topmost layer that is kept of the source network.
          below: [N, C'] what that layer reads, averaged over space; needed by `widen` only.
          train: use batch statistics and dropout (needs the rng `dropout` where `settings.dropout` > 0).
        """
        settings = self.settings
        drop = nn.Dropout(settings.dropout, deterministic=not train)
        # Each block is normalised on its own before they are joined, as in "Growing a Brain".
        blocks = {"": top}
        if settings.widen:
            wide = self._normalise(below, train, "wide_norm")
            wide = nn.Dense(settings.widen, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name="wide")(
                wide
            )
            blocks["_wide"] = nn.relu(wide)
        for index, width in enumerate((*settings.new_layers, self.num_classes), start=1):
            last = index > len(settings.new_layers)
            name = "classifier" if last else f"layer{index}"
            x = jnp.concatenate(
                [self._normalise(block, train, f"{name}_norm{suffix}") for suffix, block in blocks.items()], axis=-1
            )
            if last:
                # Zero: at the start every class is equally likely and no gradient disturbs the pretrained layers,
                # whatever the norm of the inputs is.
                logits = nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.zeros, name=name)(drop(x))
                return logits.astype(jnp.float32)
            x = nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name=name)(x)
            blocks = {"": drop(nn.relu(x))}


def normalised(settings: HeadSettings, x: np.ndarray) -> np.ndarray:
    """Return inputs of a new layer, float32 [n, C], as it reads them before any training; all of them are one batch."""
    norm = _Norm(settings)
    return np.asarray(norm.init_with_output(jax.random.key(0), jnp.asarray(x, jnp.float32))[0])


class _Norm(nn.Module):
    """The normalisation of a head alone."""

    settings: HeadSettings

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return normalise(self.settings, x, train=True, name="norm", axis_name=None)
