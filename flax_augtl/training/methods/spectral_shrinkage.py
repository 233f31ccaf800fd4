"""Batch spectral shrinkage: penalise the smallest singular values of a batch's features.

Chen, Wang, Fu, Long, Wang, "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer
Learning", NeurIPS 2019.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class SpectralShrinkage:
    """`strength` times the sum of the `values` smallest squared singular values of the global batch's features."""

    strength: float
    values: int

    def loss(self, features: jax.Array, labels: jax.Array, axis_name: str) -> jax.Array:
        """Return the term for the whole batch, the same on every device."""
        # The spectrum of a part of the batch would depend on the number of devices.
        return self.strength * smallest(jax.lax.all_gather(features, axis_name, tiled=True), self.values)


def smallest(features: jax.Array, count: int) -> jax.Array:
    """Return the sum of the `count` smallest squared singular values of features [B, D], of which there are min(B, D)."""
    features = features.astype(jnp.float32)
    tall = features.shape[0] >= features.shape[1]
    gram = features.T @ features if tall else features @ features.T
    # With fixed vectors the gradient is the same, and finite where singular values are equal.
    vectors = jax.lax.stop_gradient(jnp.linalg.eigh(gram)[1][:, :count])
    return jnp.sum(jnp.square(features @ vectors if tall else features.T @ vectors))
