"""The memory estimate against what XLA allocates, and what is said when there is too little."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_augtl
from flax_augtl.config.convert import typed
from flax_augtl.data import ArraySource, dataset_from_arrays
from flax_augtl.training import liveness, memory
from flax_augtl.training.experiment import prepare
from flax_augtl.training.step import pmapped_train_step
from tests import small


def config(**changes):
    return small.digits_config(
        **{"weights": "embedded:glyphs", "image_size": 24, "batch_size": 256, "head": {"preset": "kept"}, **changes}
    )


def measured(experiment):
    """Bytes that the compiled step allocates on a device: arguments, results that are not in their place, and the rest."""
    state, batch, pool = memory.shapes(experiment)
    step = pmapped_train_step(
        experiment.network, experiment.plan, experiment.optimizer, experiment.preprocessing, experiment.step
    )
    found = step.lower(state, batch, jax.ShapeDtypeStruct((), np.float32), pool).compile().memory_analysis()
    return (
        found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes
    )


@pytest.mark.parametrize(
    "changes", [{}, {"freeze": "layer2", "optimizer": "adamw"}, {"compute_dtype": "bfloat16"}], ids=str
)
def test_the_estimate_is_within_30_percent_of_what_xla_allocates(changes):
    experiment = prepare(typed(config(**changes)))
    estimate = memory.estimate(experiment)
    assert estimate.total == pytest.approx(measured(experiment), rel=0.3)
    assert estimate.parameters == sum(leaf.nbytes for leaf in jax.tree.leaves(experiment.variables))
    assert f"about {estimate.total / 1e6:.1f} MB: parameters" in str(estimate)


def test_what_saves_memory_is_seen_to_save_it():
    def activations(**changes):
        return memory.estimate(prepare(typed(config(**changes)))).activations

    whole = activations()
    assert activations(remat=True) < 0.6 * whole
    assert activations(accumulate=4) < 0.4 * whole
    assert activations(freeze="layer2") < 0.8 * whole
    assert activations(batch_size=128) == pytest.approx(whole / 2, rel=0.1)


def test_a_value_lives_until_it_was_needed_last_and_chains_take_nothing():
    def three(x, w):
        y = jnp.tanh(x @ w) @ w  # Two products, and what the second one reads.
        return jnp.sum(jnp.exp(y) * 2)

    jaxpr = jax.make_jaxpr(three)(np.zeros((10, 10), np.float32), np.zeros((10, 10), np.float32)).jaxpr
    assert liveness.peak(jaxpr) == 3 * 400 - 400 + 0
    half = jax.make_jaxpr(three)(jnp.zeros((10, 10), jnp.bfloat16), jnp.zeros((10, 10), jnp.bfloat16)).jaxpr
    assert liveness.peak(half) == 400 and liveness.peak(half, platform="cpu") == 800


def test_the_most_that_was_in_use_is_told_where_devices_count_it(monkeypatch):
    class Device:
        def __init__(self, **stats):
            self.memory_stats = lambda: stats or None

    assert memory.most_in_use() == ""  # Of CPUs.
    monkeypatch.setattr(
        jax,
        "local_devices",
        lambda: [
            Device(peak_bytes_in_use=2 * 10**9, bytes_limit=80 * 10**9),
            Device(peak_bytes_in_use=3 * 10**9),
            Device(),
        ],
    )
    assert memory.most_in_use() == "Peak memory of a device: 3.00 GB."
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(peak_bytes_in_use=2 * 10**9, bytes_limit=80 * 10**9)])
    assert memory.most_in_use() == "Peak memory of a device: 2.00 GB of 80.00 GB."


class Absurd(ArraySource):
    """Images that need 140 TB of the device."""

    def __getitem__(self, index):
        return np.asarray(jnp.zeros(2**45))


def test_out_of_memory_is_answered_with_what_would_help(tmp_path):
    images = np.arange(10, dtype=np.uint8).repeat(8 * 8 * 3).reshape(10, 8, 8, 3)
    dataset = dataset_from_arrays(images[:8], [0, 1] * 4, test=(images[8:], [0, 1]), data={"validation": 0})
    train = dataclasses.replace(dataset.train, source=Absurd(images[:8]))
    dataset = dataclasses.replace(dataset, train=train)
    data = {**config().data.to_dict(), "cache": "device"}
    with pytest.raises(
        memory.OutOfMemory,
        match=r"There is not enough memory \(RESOURCE_EXHAUSTED: Out of memory .*\)\. "
        r"What would help, .*config.accumulate=2 .*config.remat=True .*config.compute_dtype=bfloat16 .*"
        r"a deeper config.freeze than none .*config.batch_size below 256; a smaller config.image_size; "
        r"config.data.cache=auto",
    ):
        flax_augtl.train(config(data=data), tmp_path / "run", dataset=dataset, quiet=True)


def test_what_is_set_already_is_not_advised_and_other_errors_pass(tmp_path):
    with (
        pytest.raises(memory.OutOfMemory) as caught,
        memory.explain_out_of_memory(typed(config(remat=True, compute_dtype="bfloat16", freeze="all"))),
    ):
        jnp.zeros(2**45).block_until_ready()
    assert (
        "remat" not in str(caught.value) and "bfloat16" not in str(caught.value) and "freeze" not in str(caught.value)
    )
    with (
        pytest.raises(memory.OutOfMemory, match="The host has not enough memory \\(Unable to allocate .*file or none"),
        memory.explain_out_of_memory(typed(config())),
    ):
        np.zeros(2**60, np.uint8)
    with pytest.raises(jax.errors.JaxRuntimeError, match="boom"), memory.explain_out_of_memory(typed(config())):
        raise jax.errors.JaxRuntimeError("INTERNAL: boom")


def test_the_branch_that_the_platform_takes_counts():
    def either(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x @ x @ x, default=lambda x: x @ x)

    jaxpr = jax.make_jaxpr(lambda x: either(x) @ x)(np.zeros((10, 10), np.float32)).jaxpr
    assert liveness.peak(jaxpr, platform="cpu") == 2 * 400
    assert liveness.peak(jaxpr, platform="tpu") == 400 + 400
