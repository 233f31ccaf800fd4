"""Supervised contrast within a batch: features of one class attract each other, and repel those of other classes.

Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan, "Supervised Contrastive Learning", NeurIPS 2020 (arXiv
2004.11362), the loss L_out; on penultimate features, in place of the two contrastive terms of Bi-Tuning (Zhong, Wang, Kou,
Wang, Long, arXiv 2011.06182).
"""

import dataclasses

import jax
import jax.numpy as jnp

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class ClassContrast:
    """`strength` times the contrastive loss of the global batch's features, at a `temperature`."""

    strength: float
    temperature: float

    def loss(self, features: jax.Array, labels: jax.Array, axis_name: str) -> jax.Array:
        """Return the term for the whole batch, the same on every device."""
        # The pairs within a part of the batch would depend on the number of devices.
        features, labels = jax.lax.all_gather((features, labels), axis_name, tiled=True)
        return self.strength * contrast(features, labels, self.temperature)


def contrast(features: jax.Array, labels: jax.Array, temperature: float) -> jax.Array:
    """Return the mean loss of the examples that share their class with another one; 0 if none does.

    Args:
      features: [B, D]; their lengths do not matter.
      labels: int [B].
      temperature: divides the cosines.
    """
    x = features.astype(jnp.float32)
    # Clip the squared norm: the gradient of a norm at zero would be NaN.
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=1, keepdims=True), _TINY))
    same = jnp.eye(len(x), dtype=bool)
    logits = jnp.where(same, -1e9, x @ x.T / temperature)
    log_shares = jnp.where(same, 0.0, jax.nn.log_softmax(logits, axis=1))
    positive = (labels[:, None] == labels[None, :]) & ~same
    count = positive.sum(axis=1)
    losses = -jnp.sum(jnp.where(positive, log_shares, 0.0), axis=1) / jnp.maximum(count, 1)
    return jnp.sum(losses) / jnp.maximum(jnp.sum(count > 0), 1)
