"""TPUs that are not here, for libtpu's compiler, and what it makes of the training step of ResNet-50."""

import functools
import os

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, PartitionSpec

from flax_augtl.training import memory
from flax_augtl.training.experiment import prepare
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.step import AXIS, train_step
from tests import small

# Of one host with four devices, and slices of two hosts with eight.
SLICES = {
    "v4-8": {"topology_name": "v4:2x2x1", "chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)},
    "v4-16": {"topology_name": "v4:2x2x2", "chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)},
    "v5e-2x4": {"topology_name": "v5e:2x4"},
}


def devices(name):
    """Return the devices of a slice, which can be compiled for and not run on."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # Else libtpu asks a TPU VM's metadata server, which is not here either.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # No device is taken, so that others may do the same.
    return topologies.get_topology_desc(platform="tpu", **SLICES[name]).devices


def over(slice_devices, step, in_specs, **options):
    """Return a step over all devices of a slice, as pmap makes it: shard_map under jit."""
    mesh = Mesh(np.array(slice_devices), (AXIS,))
    return jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=in_specs, out_specs=PartitionSpec(), check_vma=False), **options
    )


def compiled_train_step(experiment, slice_devices):
    """Compile the training step of an experiment for a slice of as many devices as JAX has here."""
    state, batch, pool = memory.shapes(experiment)
    batch = {
        name: jax.ShapeDtypeStruct((leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), leaf.dtype)
        for name, leaf in batch.items()
    }
    step = functools.partial(
        train_step,
        network=experiment.network,
        plan=experiment.plan,
        optimizer=create_optimizer(experiment.optimizer, experiment.plan),
        preprocessing=experiment.preprocessing,
        settings=experiment.step,
        axis_name=AXIS,
    )
    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    step = over(slice_devices, step, (whole, split, whole, whole), donate_argnums=(0,))
    traced = step.trace(state, batch, jax.ShapeDtypeStruct((), np.float32), pool)
    return traced.lower(lowering_platforms=("tpu",)).compile()


def main():
    """Print, for settings of ResNet-50 at 224 pixels, the estimate of memory beside what the compiler allocates."""
    for changes in (
        {},
        {"compute_dtype": "bfloat16"},
        {"compute_dtype": "bfloat16", "accumulate": 4},
        {"compute_dtype": "bfloat16", "remat": True},
    ):
        experiment = prepare(small.typed_config(network="resnet50", image_size=224, batch_size=1024, **changes))
        estimate = memory.estimate(experiment, platform="tpu").total
        compiled = compiled_train_step(experiment, devices("v4-8"))
        found = compiled.memory_analysis()
        total = (
            found.argument_size_in_bytes
            + found.output_size_in_bytes
            - found.alias_size_in_bytes
            + found.temp_size_in_bytes
        )
        print(
            f"{changes or 'float32'}: estimate {estimate / 1e9:.2f} GB, compiled {total / 1e9:.2f} GB, "
            f"{estimate / total - 1:+.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
