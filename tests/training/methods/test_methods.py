"""What all methods have in common: nothing at strength 0 and at depth `all`, frozen layers, devices, and resuming."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import serialization

import flax_augtl
from flax_augtl.config.convert import typed
from flax_augtl.config.methods import METHODS, MethodSettings, method_settings
from flax_augtl.config.schema import Config
from flax_augtl.errors import UserError
from flax_augtl.training.experiment import check_mixed, check_norms, prepare
from flax_augtl.training.freezing import freezing_plan
from flax_augtl.training.methods import Places, places_of
from flax_augtl.training.optimizer import create_optimizer, optimizer_of
from flax_augtl.training.progress import Progress
from flax_augtl.training.start_log import log_start
from flax_augtl.training.state import create_state
from flax_augtl.training.step import AXIS, StepSettings
from tests import small
from tests.training.test_step import assert_close, batch_of, steps

# Every number at once.
EVERYTHING = MethodSettings(
    layer_decay=0.5, l2_sp=0.1, bss=0.01, bss_values=2, contrast=0.1, relative_gradient=0.5, stoch_norm=0.5
)
CONFIG = Config(weight_decay=0.01)


def trained(settings, freeze, batches, devices=1, *, places=None, state=None, preset="traditional"):
    """Return the first and the last state of some steps of a small network, and the last step's values."""
    net = small.network(preset, axis_name=AXIS)
    places = places_of(settings) if places is None else places
    plan = freezing_plan(net.groups, freeze, subset=places.subset)
    optimizer = optimizer_of(CONFIG, places)
    first = create_state(small.variables(net), create_optimizer(optimizer, plan), plan, seed=0)
    how = StepSettings(losses=places.losses, normalisation=places.normalisation)
    last, values = steps(net, plan, first if state is None else state, batches, devices, how, optimizer)
    return plan, first, jax.tree.map(np.asarray, last), values


@pytest.fixture(scope="module")
def batches():
    return [batch_of(8, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def one_device(batches):
    return trained(EVERYTHING, "layer2", batches)


def test_a_strength_of_zero_leaves_every_method_out():
    assert places_of(MethodSettings()) == places_of(METHODS["plain"]) == Places()
    zero = {
        "layer_decay": 1.0,
        "trains": "all",
        "l2_sp": 0.0,
        "bss": 0.0,
        "contrast": 0.0,
        "relative_gradient": 0.0,
        "stoch_norm": 0.0,
    }
    for preset in METHODS:
        assert places_of(method_settings(preset, zero)) == Places(), preset
        assert preset == "plain" or places_of(METHODS[preset]) != Places(), preset
    assert optimizer_of(CONFIG, Places()) == optimizer_of(CONFIG)


@pytest.mark.parametrize("preset", METHODS)
def test_at_depth_all_nothing_is_plugged_in(preset):
    groups = small.network("traditional").groups
    places = places_of(METHODS[preset])
    assert places.on(freezing_plan(groups, "all", subset=places.subset)) == Places()
    assert places.on(freezing_plan(groups, "layer2", subset=places.subset)) == places


def test_at_depth_all_even_what_is_plugged_in_gives_the_bits_of_traditional(batches):
    *_, plain, values = trained(MethodSettings(), "all", batches)
    *_, other, others = trained(EVERYTHING, "all", batches)
    jax.tree.map(np.testing.assert_array_equal, (plain.params, plain.batch_stats), (other.params, other.batch_stats))
    assert others["gradient_norm"] == values["gradient_norm"]


def test_frozen_layers_stay_frozen_and_the_others_move(one_device):
    plan, first, last, _ = one_device
    assert plan.frozen == ("stem", "layer1", "layer2")
    for group in plan.groups[:-1]:
        same = [
            np.array_equal(one, other)
            for one, other in zip(
                *(
                    jax.tree.leaves((state.params["source"][group], state.batch_stats["source"][group]))
                    for state in (first, last)
                ),
                strict=True,
            )
        ]
        assert all(same) if group in plan.frozen else not any(same), group


def test_one_device_equals_four(batches, one_device):
    *_, one, values = one_device
    *_, four, others = trained(EVERYTHING, "layer2", batches, devices=4)
    assert_close((one.params, one.batch_stats), (four.params, four.batch_stats), rtol=2e-4, atol=2e-5)
    assert_close(values, others, rtol=1e-4, atol=1e-4)


def test_a_resumed_training_has_the_bits_of_one_that_was_not_interrupted(batches, one_device):
    *_, whole, _ = one_device
    _, first, half, _ = trained(EVERYTHING, "layer2", batches[:1])
    # As a checkpoint has it.
    restored = serialization.from_state_dict(first, serialization.to_state_dict(half))
    *_, resumed, _ = trained(EVERYTHING, "layer2", batches[1:], state=restored)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits_from_its_own_initial_weights(tmp_path, monkeypatch):
    def train(workdir):
        made = small.digits_config(weights="embedded:glyphs", freeze="layer2", steps=4, learning_rate=0.1)
        made.method.preset = "l2_sp"
        made.method.layer_decay = 0.5
        return flax_augtl.train(made, workdir, quiet=True)

    def die():
        raise RuntimeError("killed")

    whole = train(tmp_path / "whole")
    small.at_step(3, die, monkeypatch)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "killed")
    resumed = train(tmp_path / "killed")
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, whole.variables)
    loaded = flax_augtl.load_run(tmp_path / "killed")
    assert loaded.config.method.preset == "l2_sp"


def config(preset, **changes):
    made = small.digits_config(**{"weights": "embedded:glyphs", **changes})
    made.method.preset = preset
    return typed(made)


@pytest.mark.parametrize(
    ("field", "preset"), [("layer_decay", "discriminative"), ("trains", "norm_only"), ("l2_sp", "l2_sp")]
)
def test_methods_of_pretrained_layers_need_pretrained_weights(field, preset):
    with pytest.raises(UserError, match=f"config.method.{field}=.*, but config.weights is None"):
        prepare(config(preset, weights=None))


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(UserError, match="config.method.preset='l2sp' is unknown. Did you mean 'l2_sp'"):
        config("l2sp")


def test_contrast_needs_images_of_one_class():
    made = small.typed_config()
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, cutmix=1.0))
    with pytest.raises(
        UserError, match="config.method.contrast=1 compares images by their class, but config.data.cutmix"
    ):
        check_mixed(METHODS["contrast"], made)
    check_mixed(METHODS["bss"], made)


def test_methods_of_batch_norm_need_one():
    for preset, field in (("stoch_norm", "stoch_norm=0.5"), ("norm_only", "trains=norm")):
        with pytest.raises(UserError, match=f"config.method.{field} is about batch norm"):
            check_norms(METHODS[preset], {"params": {}})


def test_an_experiment_has_what_its_config_asks_for():
    experiment = prepare(config("l2_sp", freeze="layer2"))
    assert experiment.optimizer.places == places_of(METHODS["l2_sp"])
    experiment = prepare(config("bss", freeze="layer2"))
    assert experiment.step.losses == places_of(METHODS["bss"]).losses and experiment.optimizer.places == Places()
    frozen = prepare(config("bss", freeze="all"))
    assert frozen.step.losses == ()


@pytest.mark.parametrize(
    "freeze, said", [("layer2", ["Method of fine-tuning: layer_decay=0.8, l2_sp=0.1."]), ("all", [])]
)
def test_the_log_names_the_method_where_it_has_an_effect(freeze, said):
    class Log:
        def __init__(self):
            self.lines = []

        def say(self, text):
            self.lines.append(text)

    config = small.digits_config(weights="embedded:glyphs", freeze=freeze, head={"preset": "traditional"})
    config.method.preset, config.method.layer_decay = "l2_sp", 0.8
    log = Log()
    log_start(log, prepare(typed(config)), Progress())
    assert [line for line in log.lines if line.startswith("Method")] == said
