"""Auto-RGN: the rate of each pretrained tensor is proportional to its relative gradient norm.

Lee, Chen, Tajwar, Kumar, Yao, Liang, Finn, "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", ICLR 2023
(arXiv 2210.11466).
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class RelativeGradient:
    """Multiply the update of each tensor by (r / max r) ^ `power`, where r is ‖gradient‖ / ‖weight‖.

    The maximum is over the pretrained tensors that train. New layers have no part in it: a classifier that starts from 0
    would have a ratio of infinity, and every other rate would be 0.
    """

    power: float

    def around(self, rule: optax.GradientTransformation) -> optax.GradientTransformation:
        """Return another rule."""

        def update(updates, state, params=None):
            assert params is not None, "the ratio depends on the parameters"
            ratios = jax.tree.map(
                lambda gradient, leaf: jnp.linalg.norm(gradient) / jnp.maximum(jnp.linalg.norm(leaf), _TINY),
                updates,
                params,
            )
            leaves = jax.tree.leaves(ratios)
            # A tensor of zeros, such as a new bias, has no relative gradient.
            known = [
                jnp.where(jnp.linalg.norm(leaf) > _TINY, ratio, 0.0)
                for ratio, leaf in zip(leaves, jax.tree.leaves(params), strict=True)
            ]
            most = jnp.maximum(jnp.max(jnp.stack(known)), _TINY) if known else jnp.float32(1.0)
            inner, state = rule.update(updates, state, params)
            return jax.tree.map(
                lambda one, ratio: one * jnp.minimum(ratio / most, 1.0) ** self.power, inner, ratios
            ), state

        return optax.GradientTransformation(rule.init, update)
