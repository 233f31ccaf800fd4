"""Residual blocks as layer groups."""

import jax
import numpy as np
import pytest

from flax_augtl.config.convert import typed
from flax_augtl.models import create_model
from flax_augtl.models.blocks import by_block, by_stage
from flax_augtl.training.experiment import prepare
from tests import small

SMALL = dict(stage_sizes=(2, 1, 2), widths=(4, 6, 8), num_classes=5)


def test_groups_are_the_blocks():
    assert create_model("resnet20", by_block=True, **SMALL).groups == (
        "stem",
        "layer1.0",
        "layer1.1",
        "layer2.0",
        "layer3.0",
        "layer3.1",
        "fc",
    )


def test_the_network_by_block_computes_what_the_network_by_stage_computes():
    whole, blocks = create_model("resnet20", **SMALL), create_model("resnet20", by_block=True, **SMALL)
    x = small.images(2, 8)
    variables = whole.init(jax.random.key(0), x)
    split = {collection: by_block(tree) for collection, tree in variables.items()}
    expected = whole.apply(variables, x)
    np.testing.assert_array_equal(blocks.apply(split, x), expected)
    for cut in range(1, len(blocks.groups)):
        np.testing.assert_array_equal(blocks.apply(split, blocks.apply(split, x, 0, cut), cut), expected)
    joined = {collection: by_stage(tree) for collection, tree in split.items()}
    jax.tree.map(np.testing.assert_array_equal, joined, dict(variables))
    assert by_stage(joined["params"]).keys() == joined["params"].keys()


def test_a_run_can_be_frozen_in_the_middle_of_a_stage():
    experiment = prepare(small.typed_config(weights="embedded:glyphs", freeze="layer3.0"))
    assert experiment.plan.groups[experiment.plan.depth] == "layer3.1"
    assert (
        experiment.plan.label_tree(experiment.variables["params"])["source"]["layer3.0"]["conv1"]["kernel"] == "frozen"
    )


def test_freezing_at_a_block_is_refused_for_a_network_without_blocks():
    config = small.digits_config(network="vgg11", freeze="conv1.0", image_size=32)
    with pytest.raises(ValueError, match="config.freeze='conv1.0' is not a layer group of this network"):
        prepare(typed(config))
    config = small.digits_config(weights="embedded:glyphs", freeze="layer3.7")
    with pytest.raises(ValueError, match="Did you mean 'layer3.[0-2]'"):
        prepare(typed(config))
