"""Inference with batch norm folded into the convolutions against batch norm as it is.

    python -m flax_augtl.benchmarks.folded_norms --weights=resnet18=FILE --weights=resnet50=FILE

A weights argument is NETWORK=FILE, such as resnet18=resnet18.safetensors; a name alone has random weights. A row is one
network, compute dtype and batch size: the median processor time of a call, which other programs change little, in
milliseconds; the median over pairs of calls of the ratio folded / as it is; and the largest differences of the
probabilities of random images under a random classifier: between the two, and of each to float32 as it is.
"""

import argparse
import functools
import time
from collections.abc import Mapping
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import numpy as np

from flax_augtl.config.heads import PRESETS
from flax_augtl.models import resnet
from flax_augtl.models.augmented import HEAD, create_network, initial_variables
from flax_augtl.models.registry import MODELS
from flax_augtl.pretrained import Preprocessing, load_source
from flax_augtl.trust.penultimate import features_and_logits


class Bias(nn.Module):
    """What is left of a batch norm after folding."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Add the bias of each channel."""
        bias: Any = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return x + bias.astype(self.dtype)


def _bias_alone(train: bool, *, epsilon: float, dtype: Any, axis_name: str | None, name: str) -> Bias:
    return Bias(dtype, name=name)


def folded(params: Mapping[str, Any], stats: Mapping[str, Any], epsilon: float) -> dict[str, Any]:
    """Return the parameters of a ResNet without biases whose convolutions have taken the scale of their batch norms."""
    found: dict[str, Any] = {}
    for name, tree in params.items():
        norm = name.replace("conv", "bn")
        if norm != name and "mean" in stats.get(norm, {}):
            one, two = params[norm], stats[norm]
            scale = np.asarray(one["scale"], np.float64) / np.sqrt(np.asarray(two["var"], np.float64) + epsilon)
            found[name] = {"kernel": np.float32(tree["kernel"] * scale)}
            found[norm] = {"bias": np.float32(one["bias"] - two["mean"] * scale)}
        elif "mean" not in stats.get(name, {}):
            found[name] = folded(tree, stats.get(name, {}), epsilon) if isinstance(tree, Mapping) else tree
    return found


def _random(head: Any) -> Any:
    """Return random parameters: a new classifier starts at zero, which would hide every difference."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: np.float32(0.15 * rng.normal(size=leaf.shape)), head)


def rows(name: str, weights: str | None, *, image_size: int, seconds: float, batches: tuple[int, ...]) -> None:
    """Print the rows of one network."""
    preprocessing, source = Preprocessing(image_size=image_size), load_source(name, weights)
    reference: dict[int, np.ndarray] = {}
    for dtype in ("float32", "bfloat16"):
        network = create_network(name, PRESETS["traditional"], num_classes=10, dtype=np.dtype(jax.numpy.dtype(dtype)))
        variables = initial_variables(network, 0, image_size, source.variables)
        head = _random(variables["params"][HEAD])
        params, stats = variables["params"]["source"], variables["batch_stats"]["source"]
        forms = [
            {"params": {"source": params, HEAD: head}, "batch_stats": {"source": stats}},
            {"params": {"source": folded(params, stats, source.model.epsilon), HEAD: head}},
        ]
        for batch in batches:
            images = np.random.default_rng(0).integers(0, 256, (batch, image_size, image_size, 3), np.uint8)
            calls, found = [], []
            for form, norm in zip(forms, (resnet.batch_norm, _bias_alone), strict=True):
                with mock.patch.object(resnet, "batch_norm", norm):
                    step = functools.partial(features_and_logits, network, preprocessing)
                    call = functools.partial(jax.jit(step).lower(form, images).compile(), jax.device_put(form), images)
                calls.append(call)
                found.append(np.asarray(jax.nn.softmax(call()[1])))
            exact = reference.setdefault(batch, found[0])
            used: list[tuple[float, float]] = []
            end = time.perf_counter() + seconds
            while len(used) < 5 or time.perf_counter() < end:
                used.append((_processors(calls[0]), _processors(calls[1])))
            before, after = np.median(used, axis=0)
            ratio = np.median([two / one for one, two in used])
            differences = [np.abs(a - b).max() for a, b in ((*found,), (found[0], exact), (found[1], exact))]
            cells = [name, dtype, batch, f"{1000 * before:.0f}", f"{1000 * after:.0f}", f"{ratio:.3f}"]
            print("| " + " | ".join(map(str, [*cells, *(f"{each:.1e}" for each in differences)])) + " |", flush=True)


def _processors(call: Any) -> float:
    begun = time.process_time()
    jax.block_until_ready(call())
    return time.process_time() - begun


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Batch norm folded into convolutions, at inference.")
    parser.add_argument("--weights", action="append", help="NETWORK or NETWORK=FILE; a ResNet")
    parser.add_argument("--image_size", type=int, help="side of the images")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row")
    parser.add_argument("--batches", default="1,32", help="batch sizes, with commas")
    given = parser.parse_args(arguments)
    columns = ("network", "dtype", "images", "as it is, ms", "folded, ms", "ratio")
    more = ("between them", "as it is to float32", "folded to float32")
    print("| " + " | ".join([*columns, *more]) + " |\n" + "|---" * 9 + "|")
    for text in given.weights or ["resnet18", "resnet50"]:
        name, _, file = text.partition("=")
        size = given.image_size or MODELS[name].image_size
        batches = tuple(int(batch) for batch in given.batches.split(","))
        rows(name, file or None, image_size=size, seconds=given.seconds, batches=batches)


if __name__ == "__main__":
    main()
