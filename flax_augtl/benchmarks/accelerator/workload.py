"""The training step of a network at a freeze depth, as training runs it, ready to be compiled and timed."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from flax_augtl.benchmarks.accelerator import flops
from flax_augtl.benchmarks.accelerator.sizes import Sizes
from flax_augtl.config.data_config import DataConfig
from flax_augtl.config.heads import PRESETS
from flax_augtl.data import Examples
from flax_augtl.data.loading.device_dataset import Pool, make_pool, pool_batches
from flax_augtl.data.types import ArraySource
from flax_augtl.models.augmented import AugmentedNetwork, create_network, initial_variables
from flax_augtl.pretrained import Preprocessing
from flax_augtl.training.compiled_steps import pmapped_train_step
from flax_augtl.training.freezing import FreezingPlan, freezing_plan
from flax_augtl.training.optimizer import OptimizerSettings, create_optimizer
from flax_augtl.training.pmapped import PmappedStep, replicate, split_over_devices
from flax_augtl.training.state import create_state
from flax_augtl.training.step import AXIS, StepSettings
from flax_augtl.training.step_inputs import DeviceImages

CLASSES = 100
OPTIMIZER = OptimizerSettings("sgd", 0.9, 5e-4)
RATE = np.float32(0.01)


class Case(NamedTuple):
    """What is measured.

    Attributes:
      network: name of the source network.
      depth: topmost frozen layer group, none or all.
      dtype: of the computation.
      batch: images in a step, over all devices.
      crop: `random` (cut out of a larger image), `resized`, both on the device.
    """

    network: str
    depth: str
    dtype: str
    batch: int
    crop: str = "random"

    def __str__(self) -> str:
        return f"{self.network} {self.depth} {self.dtype} {self.batch}" + f" {self.crop} crop" * (self.crop != "random")


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """A training step with all that it reads.

    Attributes:
      network, plan, preprocessing, settings: what the step is made of.
      variables: at the start.
      step: the pmapped training step.
      pool, examples, data: images on the device, and what draws from them.
      batch_size: over all devices.
    """

    network: AugmentedNetwork
    plan: FreezingPlan
    preprocessing: Preprocessing
    settings: StepSettings
    variables: dict[str, Any]
    step: PmappedStep
    pool: Pool
    examples: Examples
    data: DataConfig
    batch_size: int

    def state(self) -> Any:
        """Return the state before the first step, on the devices."""
        return replicate(create_state(self.variables, create_optimizer(OPTIMIZER, self.plan), self.plan, seed=0))

    def batches(self, steps: int) -> Iterator[dict[str, Any]]:
        """Yield what each step reads besides the images on the device."""
        for batch in pool_batches(self.pool, self.examples, self.data, batch_size=self.batch_size, seed=0, steps=steps):
            yield split_over_devices(batch, jax.local_device_count())

    def on_device(self) -> dict[str, Any]:
        """Return the images, on the devices."""
        return replicate({"images": self.pool.images, "sizes": self.pool.sizes})

    def compile(self, options: dict[str, Any] | None = None) -> Any:
        """Return the step compiled ahead of time, with further options of the compiler."""
        return self.step.pmapped.lower(*self.arguments()).compile(options)

    def arguments(self) -> tuple[Any, ...]:
        """Return what the step reads, on the host."""
        state = create_state(self.variables, create_optimizer(OPTIMIZER, self.plan), self.plan, seed=0)
        return state, next(self.batches(1)), RATE, {"images": self.pool.images, "sizes": self.pool.sizes}

    def flops(self) -> float:
        """Return the operations of one step on each device."""
        return flops.count(self.step.pmapped, *self.arguments())


def stored_examples(sizes: Sizes) -> Examples:
    """Return examples whose images are noise, of all classes in turn."""
    n, side = sizes.stored_images, sizes.stored_size
    images = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)
    labels = (np.arange(n) % CLASSES).astype(np.int32)
    return Examples(ArraySource(images), np.arange(n), labels, tuple(map(str, range(n))))


def build(case: Case, sizes: Sizes) -> Workload:
    """Build the step of a case on random weights: its time does not depend on them."""
    data = DataConfig(crop=case.crop, cache_gb=1e3)
    preprocessing = Preprocessing(image_size=sizes.image_size, crop_fraction=sizes.image_size / sizes.stored_size)
    examples = stored_examples(sizes)
    pool = make_pool(examples, preprocessing, data, image_size=sizes.image_size)
    assert pool is not None, "the budget of a terabyte is larger than the images"
    network = create_network(
        case.network,
        PRESETS["traditional"],
        num_classes=CLASSES,
        dtype=case.dtype,
        axis_name=AXIS,
        variant=sizes.variants.get(case.network),
    )
    plan = freezing_plan(network.groups, case.depth)
    settings = StepSettings(flip="horizontal", inputs=DeviceImages(pool.crop, pool.method))
    return Workload(
        network,
        plan,
        preprocessing,
        settings,
        initial_variables(network, 0, sizes.image_size),
        fresh_step(network, plan, preprocessing, settings),
        pool,
        examples,
        data,
        case.batch,
    )


def fresh_step(
    network: AugmentedNetwork, plan: FreezingPlan, preprocessing: Preprocessing, settings: StepSettings
) -> PmappedStep:
    """Return a pmapped training step that shares no trace with another, so that its layers can be replaced in tracing."""
    return cast(Any, pmapped_train_step).__wrapped__(network, plan, OPTIMIZER, preprocessing, settings)


class Timed(NamedTuple):
    """Seconds of a step.

    Attributes:
      step: with batches that are ready.
      fed: with batches that the host makes on the way, as training does.
      loss: of the last step, to see that it trains.
    """

    step: float
    fed: float
    loss: float


def timed(workload: Workload, compiled: Callable, sizes: Sizes) -> Timed:
    """Time a compiled step."""
    state, pool = workload.state(), workload.on_device()
    ready = list(workload.batches(sizes.steps))
    seconds: dict[str, list[float]] = {"ready": [], "fed": []}
    state, scalars = compiled(state, ready[0], RATE, pool)
    jax.block_until_ready(scalars)
    for _ in range(sizes.repeats):
        for name, batches in (("ready", ready), ("fed", workload.batches(sizes.steps))):
            begun = time.perf_counter()
            before = None
            for batch in batches:
                state, scalars = compiled(state, batch, RATE, pool)
                # The step before is looked at while this one runs, as in training.
                _ = before is None or float(before["loss"])
                before = scalars
            jax.block_until_ready((state, scalars))
            seconds[name].append((time.perf_counter() - begun) / sizes.steps)
    ready_seconds, fed_seconds = (statistics.median(values) for values in seconds.values())
    return Timed(ready_seconds, fed_seconds, float(scalars["loss"]))


def depth_of(network: str, depth: str) -> str:
    """Return what a depth of a ResNet is called in another family."""
    return depth.replace("layer3", "conv4") if network.startswith("vgg") else depth
