"""The head: all layers on top of the source network, and every control of them, as one module."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_augtl.config.heads import HeadSettings
from flax_augtl.models.layers import bias_in_float32

ROOT_EPSILON = 1e-5


class L2Normalise(nn.Module):
    """Compute gamma * x / max(||x||_2, epsilon) over the last axis, with a learned gamma per channel, in float32."""

    scale: float = 10.0
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise `x`."""
        x = x.astype(jnp.float32)
        gamma = self.param("scale", nn.initializers.constant(self.scale), (x.shape[-1],))
        # Clip the squared norm: the gradient of a norm at zero would be NaN.
        squared = jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), self.epsilon**2)
        return gamma * (x * jax.lax.rsqrt(squared))


def signed_root(x: jax.Array, epsilon: float = ROOT_EPSILON) -> jax.Array:
    """Return sign(x) · sqrt(|x|) in float32; near zero x / sqrt(epsilon), so that the gradient is finite."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.abs(x) + epsilon)


def normalise(settings: HeadSettings, x: jax.Array, *, train: bool, name: str, axis_name: str | None) -> jax.Array:
    """Apply the head's normalisation to inputs of a new layer, [N, C]; call it within a compact method."""
    match settings.norm:
        case "l2":
            return L2Normalise(settings.scale, name=name)(x)
        case "power":
            return L2Normalise(settings.scale, name=name)(signed_root(x))
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
    """Map the outputs of the source network, float [N, C], to logits of the target task, float32 [N, num_classes]."""

    settings: HeadSettings
    num_classes: int
    dtype: jnp.dtype = jnp.float32
    axis_name: str | None = None

    def _normalise(self, x, train, name):
        return normalise(self.settings, x, train=train, name=name, axis_name=self.axis_name).astype(self.dtype)

    def _join(self, blocks: Mapping[str, jax.Array], train: bool, layer: str) -> jax.Array:
        """Return the inputs of a new layer: all blocks, each normalised on its own, side by side."""
        return jnp.concatenate(
            [self._normalise(block, train, f"{layer}_norm{suffix}") for suffix, block in blocks.items()], axis=-1
        )

    def _dense(self, width, kernel_init, name):
        return nn.Dense(width, dtype=self.dtype, kernel_init=kernel_init, promote_dtype=bias_in_float32, name=name)

    @nn.compact
    def __call__(self, top: jax.Array, below: jax.Array | None = None, train: bool = False) -> jax.Array:
        """Apply the head.

        Args:
          top: [N, C] outputs of the topmost layer that is kept of the source network.
          below: [N, C'] inputs of that layer, averaged over space; only `widen` needs it.
          train: use batch statistics and dropout (needs the rng `dropout` where `settings.dropout` > 0).
        """
        settings = self.settings
        drop = nn.Dropout(settings.dropout, deterministic=not train)
        # Each block is normalised on its own before they are joined, as in "Growing a Brain".
        blocks = {"": top}
        if settings.widen:
            assert below is not None, "a head that widens the topmost layer needs the inputs of that layer"
            wide = self._normalise(below, train, "wide_norm")
            wide = self._dense(settings.widen, nn.initializers.he_normal(), "wide")(wide)
            blocks["_wide"] = nn.relu(wide)
        for index, width in enumerate(settings.new_layers, start=1):
            name = f"layer{index}"
            x = self._join(blocks, train, name)
            x = self._dense(width, nn.initializers.he_normal(), name)(x)
            blocks = {"": drop(nn.relu(x))}
        x = drop(self._join(blocks, train, "classifier"))
        # Zero: at the start every class is equally likely and no gradient disturbs the pretrained layers, whatever the
        # norm of the inputs is.
        return self._dense(self.num_classes, nn.initializers.zeros, "classifier")(x).astype(jnp.float32)


def normalised(settings: HeadSettings, x: np.ndarray) -> np.ndarray:
    """Return the inputs of a new layer, float32 [n, C], as they are before any training; all of them are one batch."""
    norm = _Norm(settings)
    return np.asarray(norm.init_with_output(jax.random.key(0), jnp.asarray(x, jnp.float32))[0])


class _Norm(nn.Module):
    """The normalisation of a head alone."""

    settings: HeadSettings

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return normalise(self.settings, x, train=True, name="norm", axis_name=None)
