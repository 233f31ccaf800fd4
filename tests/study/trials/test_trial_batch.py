"""Trials on kept activations equal an ordinary run, alone or together, kept or not, interrupted or not."""

import dataclasses

import jax
import numpy as np
import pytest

from flax_augtl.config.convert import typed
from flax_augtl.features.activations import cut_names, open_activations, outputs
from flax_augtl.features.views import EVALUATION, test_rows, training_rows
from flax_augtl.models.augmented import AugmentedNetwork, Head
from flax_augtl.pretrained import Preprocessing
from flax_augtl.study.caches import needed
from flax_augtl.study.context import gather
from flax_augtl.study.grid import Trial
from flax_augtl.study.trials.batches import source_logits
from flax_augtl.study.trials.rows import read_row, write_row
from flax_augtl.study.trials.trial_batch import TrialBatch
from flax_augtl.study.trials.trial_checkpoint import Partial
from flax_augtl.training.experiment import prepare
from flax_augtl.training.loop import fit
from flax_augtl.training.optimizer import create_optimizer
from flax_augtl.training.progress import Progress
from flax_augtl.training.state import create_state
from tests import small

test_rows.__test__ = False  # It is no test, in spite of its name.


def study_config(**changes):
    config = small.digits_config(weights="embedded:glyphs", **changes)
    config.data.views = 2
    config.study.update(
        {
            "preset": "",
            "heads": ("kept", "kept_deeper", "wider", "random_deeper"),
            "seeds": (0, 1),
            "learning_rates": (0.01, 0.05),
        }
    )
    return config


@pytest.fixture(scope="module")
def context():
    return gather(typed(study_config()))


def kept(context, rows, place="memory", budget=1e9, device=1e9):
    activations = open_activations(
        rows,
        context.source.model,
        context.source.variables,
        context.preprocessing,
        needed(context),
        place=place,
        budget=budget,
        device_bytes=device,
        dtype="float32",
        key="",
        folder=None,
    )
    activations.fill()
    return activations


@pytest.fixture(scope="module")
def rows(context):
    return training_rows(list(context.datasets.values()), context.preprocessing, context.config.data)


@pytest.fixture(scope="module")
def activations(context, rows):
    return kept(context, rows)


@pytest.fixture(scope="module")
def recomputed(context, rows):
    return kept(context, rows, place="none")


def trained(context, activations, trials, test=None):
    batch = TrialBatch(context, activations, trials, test=test)
    while not batch.done:
        batch.advance()
    batch.close()
    return batch


def trial(head, depth, rate=0.05, seed=1, **more):
    return Trial("select", head, depth, "pretrained", rate, seed, **more)


def largest_difference(one, other):
    return max(
        jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)), one, other))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "depth", "start"),
    [("kept_deeper", "none", 0), ("kept", "layer3", 4), ("wider", "layer3", 4), ("random_deeper", "fc", 4)],
)
def test_a_trial_on_kept_activations_is_the_ordinary_run(context, activations, head, depth, start):
    batch = trained(context, activations, [trial(head, depth)])
    config = dataclasses.replace(
        context.config,
        seed=1,
        learning_rate=0.05,
        freeze=depth,
        head=dataclasses.replace(context.config.head, preset=head),
    )
    experiment = prepare(config)
    state = create_state(
        experiment.variables, create_optimizer(experiment.optimizer, experiment.plan), experiment.plan, 1
    )
    state, progress = fit(experiment, state, Progress())
    assert batch.signature.start == start and progress.step == batch.step == 4
    params = batch.variables(0)["params"]
    whole = jax.tree.map(np.asarray, state.params)
    expected = {
        "head": whole["head"],
        **({"source": {group: whole["source"][group] for group in params["source"]}} if "source" in params else {}),
    }
    assert largest_difference(params, expected) < 1e-5
    (row,) = batch.results()
    assert row["val"]["top1"] == progress.best_value and row["best_step"] == progress.best_step


@pytest.mark.slow
def test_kept_and_recomputed_activations_give_the_same_training(context, activations, recomputed):
    one, other = (trained(context, each, [trial("kept", "layer3")]) for each in (activations, recomputed))
    assert (one.signature.start, other.signature.start) == (4, 0)
    assert largest_difference(one.variables(0)["params"]["head"], other.variables(0)["params"]["head"]) < 1e-4
    assert one.results()[0]["val"]["top1"] == other.results()[0]["val"]["top1"]


@pytest.mark.slow
def test_activations_kept_in_bfloat16_give_nearly_the_same(context, rows, activations):
    short = open_activations(
        rows,
        context.source.model,
        context.source.variables,
        context.preprocessing,
        needed(context),
        place="memory",
        budget=1e9,
        device_bytes=1e9,
        dtype="bfloat16",
        key="",
        folder=None,
    )
    short.fill()
    assert short.store.bytes < 0.7 * activations.store.bytes and short.store.arrays["pictures"].dtype == np.uint8
    one, other = (trained(context, each, [trial("kept", "fc")]) for each in (activations, short))
    difference = largest_difference(one.variables(0), other.variables(0))
    assert 0 < difference < 0.05


def test_trials_together_equal_one_by_one(context, activations):
    trials = [trial("kept", "fc", rate, seed) for rate in (0.01, 0.05) for seed in (0, 1)]
    together = trained(context, activations, trials)
    assert together.steps_per_call == 2  # The steps between two evaluations are one call.
    for index, each in enumerate(trials):
        alone = trained(context, activations, [each])
        assert largest_difference(together.variables(index), alone.variables(0)) < 1e-5
        assert together.results()[index]["val"]["top1"] == alone.results()[0]["val"]["top1"]


def test_activations_from_the_host_equal_those_on_the_device(context, rows, activations):
    host = dataclasses.replace(activations, device_bytes=0)
    one, other = (trained(context, each, [trial("kept", "fc")]) for each in (activations, host))
    assert one.feed.on_device and not other.feed.on_device and other.steps_per_call == 1
    assert largest_difference(one.variables(0), other.variables(0)) < 1e-6


def test_a_batch_resumes_in_the_middle_with_the_same_bits(context, activations, tmp_path):
    whole = trained(context, activations, [trial("kept", "fc")])
    first = TrialBatch(context, activations, [trial("kept", "fc")])
    first.advance()
    Partial(tmp_path, first).save()
    second = TrialBatch(context, activations, [trial("kept", "fc")])
    partial = Partial(tmp_path, second)
    assert partial.restore() and second.step == 2
    second.advance()
    assert second.done and largest_difference(second.variables(0), whole.variables(0)) == 0
    partial.remove()
    assert not list(tmp_path.iterdir())
    for batch in (first, second):
        batch.close()


def test_a_batch_that_pauses_between_evaluations_resumes_with_the_same_bits(context, activations, tmp_path):
    host = dataclasses.replace(activations, device_bytes=0)  # Each call takes one step.
    whole = trained(context, host, [trial("kept", "fc")])
    for step in range(1, 5):
        batch = TrialBatch(context, host, [trial("kept", "fc")])
        assert Partial(tmp_path, batch).restore() == (step > 1)
        batch.advance(lambda: True)
        assert batch.step == step and len(batch.history[0]) == step // 2
        Partial(tmp_path, batch).save()
        batch.close()
    assert largest_difference(batch.variables(0), whole.variables(0)) == 0
    assert [{**row, "seconds": 0} for row in batch.history[0]] == [{**row, "seconds": 0} for row in whole.history[0]]


def test_a_damaged_checkpoint_of_a_trial_is_ignored(context, activations, tmp_path, capsys):
    batch = TrialBatch(context, activations, [trial("kept", "fc")])
    batch.advance()
    Partial(tmp_path, batch).save()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    other = TrialBatch(context, activations, [trial("kept", "fc")])
    assert not Partial(tmp_path, other).restore() and other.step == 0
    for each in (batch, other):
        each.close()


def test_a_diverging_trial_does_not_affect_the_others(context, activations):
    batch = trained(context, activations, [trial("kept", "fc", 1e30), trial("kept", "fc", 0.05)])
    bad, good = batch.results()
    assert bad["diverged"] and bad["val"] is None and bad["learning_rate"] == 1e30
    alone = trained(context, activations, [trial("kept", "fc", 0.05)])
    assert not good["diverged"] and good["val"]["top1"] == alone.results()[0]["val"]["top1"]


@pytest.mark.slow
def test_a_final_trial_trains_on_both_splits_and_is_tested(context, activations):
    tests = kept(context, test_rows(list(context.datasets.values()), context.preprocessing, context.config.data))
    final = Trial("final", "kept", "fc", "pretrained", 0.05, 1, 3)
    dataset = context.datasets[1]
    assert set(context.examples(final)[0]) == {*dataset.train.ids, *dataset.val.ids}
    (row,) = trained(context, activations, [final], test=tests).results()
    assert row["val"] is None and row["steps"] == 3 and row["test"]["n"] == len(dataset.test)
    assert row["change"] == dict.fromkeys(context.source.groups, 0.0)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("depth", ["layer2", "fc"])
def test_the_steps_of_a_batch_lower_for_accelerators(context, activations, depth, platform):
    batch = TrialBatch(context, activations, [trial("kept", depth, rate) for rate in (0.01, 0.05)])
    rates = np.zeros((batch.steps_per_call, 2), np.float32)
    arguments = (
        batch.states,
        batch.batches(0, batch.steps_per_call),
        rates,
        batch.feed.pool,
        np.int32(1),
    )
    text = jax.jit(batch.step_function.pmapped).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    batch.close()
    assert "stablehlo.all_reduce" in text and ("stablehlo.while" in text) == (depth == "fc")


def test_only_trained_layers_change(context, activations):
    (row,) = trained(context, activations, [trial("kept", "layer3")]).results()
    assert [group for group, change in row["change"].items() if change == 0] == list(context.source.groups[:-1])
    assert 0 < row["change"]["fc"] < 0.5


@pytest.mark.parametrize("value, diverged", [(np.nan, True), (np.inf, True), (1e30, False)])
def test_parameters_of_any_size_give_a_row_that_can_be_read(context, activations, tmp_path, value, diverged):
    """A row with a number that JSON does not have would be trained again for ever."""
    batch = trained(context, activations, [trial("kept", "layer3")])
    params = jax.tree.map(lambda leaf: jax.numpy.full_like(leaf, value), batch.states.params)
    batch.states = dataclasses.replace(batch.states, params=params)
    (row,) = batch.results()
    assert row["diverged"] == diverged and (row["val"] is None) == diverged
    write_row(tmp_path / "row.json", row)
    assert read_row(tmp_path / "row.json", batch.trials[0])["change"] == row["change"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_row(tmp_path / "other.json", {**row, "seconds": float("nan")})
    assert not (tmp_path / "other.json").exists()


def test_leep_starts_a_trial_above_chance(context, activations):
    heads = {
        **context.grid.heads,
        "leep": dataclasses.replace(context.grid.heads["kept"], classifier_init_from="leep"),
    }
    with_leep = dataclasses.replace(context, grid=dataclasses.replace(context.grid, heads=heads))
    batch = TrialBatch(with_leep, activations, [trial("leep", "fc")])
    top1 = batch.evaluate(jax.tree.map(np.asarray, batch.states))[0]["top1"]
    assert top1 > 0.25
    batch.close()


def test_the_logits_of_the_source_are_those_of_the_source(context, activations, recomputed):
    ids = context.datasets[0].train.ids[:5]
    logits = source_logits(context, activations, ids)
    np.testing.assert_allclose(source_logits(context, recomputed, ids), logits, rtol=1e-4, atol=1e-4)
    source = context.datasets[0].train
    expected = context.source.model.apply(
        context.source.variables,
        context.source.preprocess.replace(image_size=8, crop_fraction=1.0)(
            [source.source[int(i)] for i in source.indices[:5]]
        ),
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_rows_of_views(context, rows):
    dataset = context.datasets[0]
    n = len(rows.ids)
    assert len(rows) == 3 * n
    first = rows.of(dataset.train.ids[:1], EVALUATION)
    assert rows.of(dataset.train.ids[:1], 0) == first + n and rows.of(dataset.train.ids[:1], 3) == first + 2 * n


@pytest.mark.slow
@pytest.mark.parametrize("family", small.NETWORKS)
def test_every_head_computes_the_same_at_every_cut(family):
    """For each head and depth, the upper groups on kept outputs equal the whole network, batch statistics included."""
    size = small.NETWORKS[family][2]
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    preprocessing = Preprocessing(image_size=size)
    kept_net = small.network("kept", family)
    source = small.variables(kept_net, size)
    source = {collection: tree.get("source", {}) for collection, tree in source.items()}
    for preset in small.PRESETS:
        net = small.network(preset, family)
        net = AugmentedNetwork(net.source, Head(net.head.settings, 3))
        values = small.variables(net, size)
        for collection, tree in values.items():
            if "source" in tree:
                tree["source"] = {group: source[collection][group] for group in tree["source"]}
        x = preprocessing.normalise(images)
        for depth in range(1, len(net.source.groups) + 1):
            names = jax.tree.leaves(cut_names(net, depth))
            found = outputs(kept_net.source, source, images, names, preprocessing)
            inputs = jax.tree.map(found.__getitem__, cut_names(net, depth))
            whole, changed = net.apply(values, x, train_from=depth, mutable=["batch_stats"])
            above, also = net.apply(values, inputs, depth, train_from=depth, mutable=["batch_stats"])
            np.testing.assert_allclose(above, whole, rtol=1e-5, atol=1e-5, err_msg=f"{preset} {depth}")
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), dict(also), dict(changed))
