"""The network of source and head: cutting, freezing points, and initial variables."""

import jax
import numpy as np
import pytest

from flax_augtl.models.augmented import initial_variables, shuffle_classifier
from tests import small


@pytest.mark.parametrize(
    ("preset", "family"),
    [
        ("kept_deeper", "resnet"),
        ("wider", "resnet"),
        ("random_deeper", "vgg"),
        ("wider", "vgg"),
        ("traditional", "vgg"),
        ("wider", "alexnet"),
    ],
)
def test_running_the_groups_one_by_one_equals_the_whole(preset, family):
    net = small.network(preset, family)
    size = small.NETWORKS[family][2]

    def both(variables, x):
        cut = x
        for group in range(len(net.groups)):
            cut = net.apply(variables, cut, group, group + 1)
        return cut, net.apply(variables, x)

    cut, whole = jax.jit(both)(small.variables(net, size), small.images(2, size))
    np.testing.assert_allclose(cut, whole, rtol=1e-5, atol=1e-6)


def test_groups_are_those_of_the_source_and_the_head():
    assert small.network("kept").groups == ("stem", "layer1", "layer2", "layer3", "fc", "head")
    assert small.network("traditional").groups == ("stem", "layer1", "layer2", "layer3", "head")


@pytest.mark.parametrize(("preset", "width"), [("kept", 7), ("traditional_l2", 8), ("wider", 8)])
def test_the_head_reads_the_kept_layer_or_the_penultimate_features(preset, width):
    net = small.network(preset)
    assert small.variables(net)["params"]["head"]["classifier_norm"]["scale"].shape == (width,)


@pytest.mark.parametrize(("preset", "width"), [("wider", 6), ("kept", 8)])
def test_wide_units_read_what_the_topmost_kept_layer_reads(preset, width):
    net = small.network(preset, widen=5)
    assert small.variables(net)["params"]["head"]["wide"]["kernel"].shape == (width, 5)


def test_only_groups_from_train_from_on_change_their_statistics():
    net = small.network("kept_deeper_batch")
    variables, x = small.variables(net), small.images(4)
    firsts = range(len(net.groups))
    run = jax.jit(
        lambda variables: [
            net.apply(variables, x, 0, None, first, mutable=["batch_stats"])[1]["batch_stats"] for first in firsts
        ]
    )
    for first, changed in zip(firsts, run(variables), strict=True):
        for index, group in enumerate(net.groups):
            old, new = (
                (tree["head"] if group == "head" else tree["source"].get(group))
                for tree in (variables["batch_stats"], changed)
            )
            same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)]
            if index < first:
                assert all(same), (first, group)
            elif group != "fc":
                assert same and not any(same), (first, group)


def test_groups_below_train_from_get_no_gradient():
    net = small.network("kept")
    variables, x = small.variables(net), small.images(4)

    def loss(params, first):
        logits, _ = net.apply({**variables, "params": params}, x, 0, None, first, mutable=["batch_stats"])
        return (logits**2).sum()

    run = jax.jit(lambda params: [jax.grad(loss)(params, first) for first in range(len(net.groups))])
    for first, gradient in enumerate(run(variables["params"])):
        for index, group in enumerate(net.groups):
            tree = gradient["head"] if group == "head" else gradient["source"][group]
            zero = all((leaf == 0).all() for leaf in jax.tree.leaves(tree))
            assert zero == (index < first), (first, group)


def test_pretrained_variables_are_kept_and_the_head_is_drawn_from_the_seed():
    net = small.network("kept_deeper")
    source = small.variables(net, seed=3)
    pretrained = {collection: tree["source"] for collection, tree in source.items()}
    first, again, other = (initial_variables(net, seed, 8, pretrained) for seed in (0, 0, 1))
    for collection in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, first[collection]["source"], source[collection]["source"])
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["params"]["head"]["layer1"]["kernel"], other["params"]["head"]["layer1"]["kernel"])


def test_a_classification_layer_that_is_not_kept_is_left_out():
    kept = small.variables(small.network("kept"))
    pretrained = {collection: tree["source"] for collection, tree in kept.items()}
    net = small.network("traditional")
    assert "fc" not in initial_variables(net, 0, 8, pretrained)["params"]["source"]


@pytest.mark.parametrize("control", ["random_deeper", "shuffled_deeper"])
def test_controls_replace_the_weights_of_the_classification_layer_only(control):
    net = small.network(control)
    source = small.variables(net, seed=3)
    pretrained = {collection: tree["source"] for collection, tree in source.items()}
    made = initial_variables(net, 0, 8, pretrained)
    old, new = (tree["params"]["source"] for tree in (source, made))
    assert not np.array_equal(old["fc"]["kernel"], new["fc"]["kernel"])
    for group in ("stem", "layer1", "layer2", "layer3"):
        jax.tree.map(np.testing.assert_array_equal, old[group], new[group])


def test_shuffling_permutes_the_features_and_keeps_the_spectrum():
    rng = np.random.default_rng(0)
    layer = {"kernel": rng.normal(size=(8, 5)), "bias": rng.normal(size=5)}
    made = shuffle_classifier(layer, 0)
    old = layer["kernel"].astype(np.float32)
    assert sorted(map(tuple, made["kernel"])) == sorted(map(tuple, old))
    assert not np.array_equal(made["kernel"], old)
    np.testing.assert_array_equal(made["bias"], layer["bias"].astype(np.float32))
    np.testing.assert_allclose(np.linalg.svd(made["kernel"])[1], np.linalg.svd(old)[1], rtol=1e-5)
