"""StochNorm: in training, each channel of batch norm takes its running or its batch statistics by a coin.

Kou, You, Long, Wang, "Stochastic Normalization", NeurIPS 2020.
"""

import contextlib
import dataclasses
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class StochasticNorm:
    """A channel of a batch norm of the source network takes its running statistics with `probability`.

    The running statistics are those before the step; they are updated with the batch's in any case.
    """

    probability: float

    def during(self, key: jax.Array) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which networks are run."""

        def intercept(call, args, kwargs, context):
            norm = context.module
            if not isinstance(norm, nn.BatchNorm) or context.method_name != "__call__" or norm.use_running_average:
                return call(*args, **kwargs)
            if norm.path[0] != "source":
                return call(*args, **kwargs)  # A new layer has no statistics of before.
            (x, *_), statistics = args, dict(norm.variables["batch_stats"])  # The call replaces them.
            of_batch, own = call(*args, **kwargs), norm.variables["params"]
            of_past = with_statistics(x, statistics, own, norm.epsilon).astype(of_batch.dtype)
            coin = jax.random.fold_in(key, zlib.crc32("/".join(norm.path).encode()))
            return jnp.where(jax.random.bernoulli(coin, self.probability, x.shape[-1:]), of_past, of_batch)

        return nn.intercept_methods(intercept)


def with_statistics(x: jax.Array, statistics: Any, params: Any, epsilon: float) -> jax.Array:
    """Return γ (x − mean) / sqrt(var + ε) + β in float32."""
    x = x.astype(jnp.float32)
    return (x - statistics["mean"]) * (jax.lax.rsqrt(statistics["var"] + epsilon) * params["scale"]) + params["bias"]
