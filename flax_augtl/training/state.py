"""The state of training."""

from typing import Any

import flax.struct
import jax
import numpy as np
import optax

from flax_augtl.training.freezing import FreezingPlan


class TrainState(flax.struct.PyTreeNode):
    """State of training; the same on every device after every step.

    Attributes:
      step: int32, number of steps done.
      params: parameters of the whole network, float32.
      batch_stats: running statistics of batch norm, float32; {} without batch norm.
      opt_state: state of the optimizer for the trainable partition.
      rng: uint32 [2], key data from which the key of each step is folded.
    """

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    rng: Any


def create_state(variables: Any, optimizer: optax.GradientTransformation, plan: FreezingPlan, seed: int) -> TrainState:
    """Return the state before the first step, as NumPy arrays that every device can copy."""
    trainable, _ = plan.partition(variables["params"])
    state = TrainState(
        step=np.int32(0),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(trainable),
        rng=jax.random.key_data(jax.random.key(seed)),
    )
    return jax.tree.map(np.asarray, state)
