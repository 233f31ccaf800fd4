"""The grid of a configuration, and the names of its trials."""

import pytest
from ml_collections import ConfigDict

from configs import common
from flax_augtl.config.convert import typed
from flax_augtl.config.heads import PRESETS
from flax_augtl.errors import UserError
from flax_augtl.study.grid import Trial, make_grid

RESNET = ("stem", "layer1", "layer2", "layer3", "layer4", "fc")


def grid(groups=RESNET, *, pretrained=True, classifier=True, **study):
    config = common.get_config()
    with config.unlocked():
        for name, value in study.items():
            config.study[name] = ConfigDict(value) if isinstance(value, dict) else value
    return make_grid(typed(config), groups, pretrained=pretrained, classifier=classifier)


def test_names_of_trials_are_stable():
    assert Trial("select", "kept", "layer4", "pretrained", 0.003, 5).name == "select-kept-layer4-0.003-5"
    assert (
        Trial("final", "random_deeper", "none", "new", 1e-4, 0, 70).name == "final-random_deeper-none-new-0.0001-0-70"
    )


def test_quick_has_two_heads_every_depth_one_seed():
    found = grid(preset="quick")
    assert found.heads.keys() == {"traditional", "kept_deeper"} and found.seeds == (0,)
    assert found.depths["traditional"] == ("none", *RESNET[:-1]) and found.depths["kept_deeper"] == ("none", *RESNET)
    assert found.axis == ("none", *RESNET[:-1], "all")


def test_quick_without_a_time_budget_has_four_depths_as_in_earlier_versions():
    found = grid(preset="quick", minutes=0.0)
    assert found.depths["traditional"] == ("none", "layer1", "layer2", "layer4")
    assert found.depths["kept_deeper"] == ("none", "layer1", "layer2", "fc")
    assert found.axis == ("none", "layer1", "layer2", "all")


def test_paper_has_its_four_networks_at_every_depth():
    found = grid(preset="paper")
    assert list(found.heads) == ["traditional", "kept", "kept_deeper", "kept_deeper2"]
    assert found.depths["traditional"] == ("none", *RESNET[:-1]) and found.depths["kept"] == ("none", *RESNET)
    assert len(found.groups()) == 6 + 3 * 7 and len(found.seeds) == 6


def test_controls_are_tried_at_both_rates_where_their_layer_learns():
    groups = grid(preset="controls", depths=("layer4", "all")).groups()
    assert [group[1:] for group in groups if group[0] == "random_deeper"] == [
        ("layer4", "pretrained"),
        ("layer4", "new"),
        ("fc", "pretrained"),
    ]
    assert [group[1:] for group in groups if group[0] == "kept"] == [("layer4", "pretrained"), ("fc", "pretrained")]


def test_norms_and_scales_give_heads_of_their_own():
    found = grid(
        preset="", heads=("traditional", "kept", "scratch"), norms=("none", "l2", "batch", "power"), scales=(5, 10.0)
    )
    assert list(found.heads) == [
        "traditional", "kept", "scratch",
        "traditional.l2.5", "traditional.l2.10", "traditional.batch", "traditional.power.5", "traditional.power.10",
        "kept.none", "kept.l2.5", "kept.batch", "kept.power.5", "kept.power.10",
    ]  # fmt: skip
    assert (found.heads["kept.power.5"].norm, found.heads["kept.power.5"].scale) == ("power", 5.0)
    assert (
        found.heads["traditional.l2.10"] == PRESETS["traditional_l2"]
        and found.heads["kept.none"] == PRESETS["kept_plain"]
    )
    # Settings that another head has are not trained twice; scales alone keep each head's norm.
    assert "traditional.l2.10" not in grid(preset="", heads=("traditional", "traditional_l2"), norms=("l2",)).heads
    assert list(grid(preset="", heads=("traditional", "kept"), scales=(40,)).heads) == [
        "traditional",
        "kept",
        "kept.l2.40",
    ]


def test_a_norm_that_does_not_exist_and_a_scale_of_zero_are_errors():
    with pytest.raises(UserError, match="config.study.norms: 'l3' is unknown. Choices: none, l2, batch, layer, power."):
        grid(norms=("l3",))
    with pytest.raises(UserError, match=r"config.study.scales=\(0\.0, 5\.0\): 0 is not above 0."):
        grid(scales=(0.0, 5.0))


def test_all_is_the_topmost_group_that_a_head_has():
    found = grid(preset="", heads=("traditional", "kept"), depths=("layer4", "all"))
    assert found.depths == {"traditional": ("layer4",), "kept": ("layer4", "fc")}
    assert found.axis == ("layer4", "all")


def test_two_requested_depths_stay_two():
    found = grid(preset="", heads=("traditional", "kept"), depths=("layer3", "all"))
    assert found.axis == ("layer3", "all")
    assert found.depths == {"traditional": ("layer3", "layer4"), "kept": ("layer3", "fc")}


def test_all_is_the_name_of_the_depth_at_which_only_new_layers_train():
    found = grid(preset="", heads=("traditional", "kept", "scratch"))
    assert [found.label("traditional", depth) for depth in found.depths["traditional"]] == [
        "none",
        "stem",
        "layer1",
        "layer2",
        "layer3",
        "all",
    ]
    assert [found.label("kept", depth) for depth in found.depths["kept"]] == ["none", *RESNET[:-1], "all"]
    assert found.same_depths() == {"traditional": {"layer4": "all"}, "kept": {}, "scratch": {}}
    assert found.title(("traditional", "layer4", "pretrained")) == "traditional all"
    assert grid(preset="controls").title(("random_deeper", "none", "new")) == "random_deeper none (at new rate)"


def test_a_depth_keeps_its_requested_name():
    found = grid(preset="", heads=("traditional", "kept"), depths=("layer3", "layer4"))
    assert found.axis == ("layer3", "layer4") and found.label("traditional", "layer4") == "layer4"
    found = grid(preset="", heads=("kept",), depths=("fc", "all", "none"))
    assert found.axis == ("none", "fc", "all") and found.label("kept", "fc") == "all"


def test_heads_without_the_kept_layer_have_no_depth_twice():
    assert grid(preset="", heads=("traditional", "wider")).axis == ("none", *RESNET[:-2], "all")


def test_scratch_adds_the_one_depth_that_it_has():
    assert grid(preset="", heads=("scratch", "kept"), depths=("layer4", "all")).axis == ("none", "layer4", "all")


def test_own_heads_are_settings():
    found = grid(preset="", own_heads={"mine": {"preset": "kept", "scale": 3.0}}, depths=("all",))
    assert found.heads["mine"].scale == 3.0 and found.heads["mine"].keep_classifier


def test_scratch_has_nothing_to_freeze():
    assert grid(preset="", heads=("scratch", "kept")).depths["scratch"] == ("none",)


@pytest.mark.parametrize(
    ("study", "sentence"),
    [
        ({"preset": "papers"}, "config.study.preset='papers' is not one of quick, paper, controls, full"),
        ({"preset": ""}, "There is nothing to compare"),
        ({"preset": "", "heads": ("kep",)}, "config.study.heads: 'kep' is unknown. Did you mean 'kept'.*, scratch"),
        ({"depths": ("layer9",)}, "'layer9' is not a layer group of this network. Choices: none, stem"),
        ({"learning_rates": ()}, "must not be empty"),
        ({"preset": "", "own_heads": {"a/b": {}}}, "may have letters, digits"),
        ({"preset": "", "own_heads": {"a": {"widht": 1}}}, "config.head has no field widht"),
        ({"preset": "", "heads": ("traditional",), "depths": ("fc",)}, "The head traditional has none of the depths"),
    ],
)
def test_errors_are_reported(study, sentence):
    with pytest.raises(ValueError, match=sentence):
        grid(**study)


def test_without_a_classification_layer_heads_that_keep_it_are_left_out():
    assert list(grid(RESNET[:-1], preset="quick", classifier=False).heads) == ["traditional"]
    with pytest.raises(ValueError, match="no classification layer"):
        grid(RESNET[:-1], preset="", heads=("kept",), classifier=False)
    with pytest.raises(ValueError, match="config.weights is None"):
        grid(pretrained=False)
