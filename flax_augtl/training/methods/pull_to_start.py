"""L2-SP: pull the pretrained kernels to their initial values instead of to 0.

Li, Grandvalet, Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", ICML 2018 (arXiv
1802.01483). As in the authors' code, only kernels are pulled: a pull of batch norm would be another method.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class _Start(NamedTuple):
    """The state of the transform.

    Attributes:
      params: the initial parameters, in the state so that a resumed run and each of several trials has its own.
    """

    params: Any


@dataclasses.dataclass(frozen=True)
class PullToStart:
    """Add `strength` · (w − w⁰) to the gradient of each kernel, the gradient of `strength` / 2 · ‖w − w⁰‖²."""

    strength: float

    def transform(self) -> optax.GradientTransformation:
        """Return the transform."""

        def init(params):
            # Copy kernels: the step donates both the parameters and this state. Checkpoints hold no empty arrays.
            return _Start(jax.tree.map(lambda leaf: jnp.array(leaf if leaf.ndim > 1 else 0.0, leaf.dtype), params))

        def update(updates, state, params=None):
            assert params is not None, "the pull depends on the parameters"

            def pulled(update, leaf, start):
                return update + self.strength * (leaf - start) if leaf.ndim > 1 else update

            return jax.tree.map(pulled, updates, params, state.params), state

        return optax.GradientTransformation(init, update)
