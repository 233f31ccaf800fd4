"""TPUs that are not here, for libtpu's compiler."""

import os

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, PartitionSpec

from flax_augtl.training.step import AXIS

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
