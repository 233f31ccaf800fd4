"""The freezing plan: labels, partition, errors."""

import jax
import numpy as np
import pytest

from flax_augtl.training.freezing import FreezingPlan, freezing_plan, merge, table
from tests import small

GROUPS = ("stem", "layer1", "layer2", "fc", "head")


@pytest.mark.parametrize(
    ("freeze", "labels"),
    [
        ("none", "pretrained pretrained pretrained pretrained new"),
        ("stem", "frozen pretrained pretrained pretrained new"),
        ("layer2", "frozen frozen frozen pretrained new"),
        ("fc", "frozen frozen frozen frozen new"),
        ("all", "frozen frozen frozen frozen new"),
    ],
)
def test_everything_up_to_the_named_group_is_frozen(freeze, labels):
    plan = freezing_plan(GROUPS, freeze)
    assert plan.labels == tuple(labels.split()) and plan.depth == labels.split().count("frozen")


def test_without_pretrained_weights_everything_is_new():
    assert freezing_plan(GROUPS, "none", pretrained=False).labels == ("new",) * 5


def test_a_control_can_learn_at_the_rate_of_new_layers_but_not_when_it_is_frozen():
    assert freezing_plan(GROUPS, "stem", classifier_rate="new").labels == ("frozen", *["pretrained"] * 2, "new", "new")
    assert freezing_plan(GROUPS, "all", classifier_rate="new").labels == ("frozen",) * 4 + ("new",)


def test_partition_and_merge_are_inverse_and_cover_every_parameter():
    net = small.network("kept_deeper")
    params = small.variables(net)["params"]
    total = len(jax.tree.leaves(params))
    for freeze in ("none", *net.groups[:-1], "all"):
        trainable, frozen = freezing_plan(net.groups, freeze).partition(params)
        assert len(jax.tree.leaves(trainable)) + len(jax.tree.leaves(frozen)) == total
        jax.tree.map(np.testing.assert_array_equal, merge(trainable, frozen), params)


def test_a_parameter_without_a_label_is_an_error():
    plan = freezing_plan(GROUPS, "none")
    with pytest.raises(ValueError, match="source/layer9/kernel belongs to no layer group. Groups: stem, layer1"):
        plan.label_tree({"source": {"layer9": {"kernel": np.zeros(1)}}})


def test_an_unknown_group_is_an_error_with_the_choices():
    with pytest.raises(
        ValueError, match=r"config.freeze='layer_2' is not .* Did you mean 'layer2'\? Choices: none, stem"
    ):
        freezing_plan(GROUPS, "layer_2")


def test_random_weights_cannot_be_frozen():
    with pytest.raises(ValueError, match="would freeze layers with random weights, because config.weights is None"):
        freezing_plan(GROUPS, "stem", pretrained=False)


def test_the_table_counts_parameters_and_rates():
    plan = FreezingPlan(("stem", "fc", "head"), ("frozen", "pretrained", "new"))
    params = {"source": {"stem": np.zeros(5), "fc": np.zeros((2, 3))}, "head": {"classifier": np.zeros(1000)}}
    lines = table(plan, params, 0.01, 10.0).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["stem", "5", "frozen", "0"],
        ["fc", "6", "pretrained", "0.01"],
        ["head", "1,000", "new", "0.1"],
        ["total", "1,011", "trainable:", "1,006"],
    ]
