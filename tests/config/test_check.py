"""A configuration is checked as a whole, and all of its errors are told at once."""

import pytest

import flax_augtl
from configs import common
from flax_augtl.config.check import problems_of
from flax_augtl.config.convert import as_written, default_config, from_json, to_config_dict, to_json, typed
from flax_augtl.config.networks import NETWORKS
from flax_augtl.config.schema import FIELDS, Config
from flax_augtl.errors import UserError
from flax_augtl.models import create_model


def config(**changes):
    config = common.get_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def test_the_defaults_are_right():
    assert problems_of(as_written(common.get_config())) == []
    assert typed(common.get_config()) == Config()


def test_a_configuration_is_the_same_in_every_form():
    given = typed(config(epochs=3.0, study__depths=("layer3", "all"), data__flip=False, head__new_layers=(8, 4)))
    assert given.data.flip == "none"
    assert from_json(to_json(given)) == given == typed(to_config_dict(given))
    assert to_config_dict(Config()).to_json() == default_config().to_json()


def test_what_an_optional_field_holds_can_be_set_on_the_command_line():
    empty = common.get_config()
    for name, field in FIELDS.items():
        *parents, last = name.split(".")
        place = empty
        for parent in parents:
            place = place[parent]
        assert place.get_type(last) is not type(None), name
        assert field.setting.comment.endswith("."), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": -1.0}, "config.learning_rate=-1.0 must be at least 0."),
        ({"learning_rate": float("nan")}, "config.learning_rate=nan is not a finite number."),
        ({"epochs": float("inf")}, "config.epochs=inf is not a finite number."),
        ({"momentum": 1.0}, "config.momentum=1.0 must be at least 0 and below 1."),
        ({"label_smoothing": -0.5}, "config.label_smoothing=-0.5 must be at least 0 and below 1."),
        ({"data__erase": 2.0}, "config.data.erase=2.0 must be at least 0 and at most 1."),
        ({"head__scale": 0.0}, "config.head.scale=0.0 must be above 0."),
        ({"head__new_layers": (2.7,)}, "config.head.new_layers=(2.7,) must be whole numbers."),
        ({"class_weights": ("a", "b")}, "config.class_weights=('a', 'b') must be finite numbers."),
        (
            {"data__crop_scale": (0.5,)},
            "config.data.crop_scale=(0.5,) must be two shares of the area, the least and the most.",
        ),
        ({"log_every_steps": 0}, "config.log_every_steps=0 must be at least 1."),
        ({"study__selection_seeds": -1}, "config.study.selection_seeds=-1 must be at least 0."),
        ({"study__seeds": (0.5,)}, "config.study.seeds=(0.5,) must be whole numbers."),
        (
            {"data__crop": "resize"},
            "config.data.crop='resize' is not one of resized, random, none. Did you mean 'resized'?",
        ),
        ({"optimizer": "adam"}, "config.optimizer='adam' is not one of sgd, adamw. Did you mean 'adamw'?"),
        ({"steps": 3, "epochs": 2.0}, "Only one of config.steps=3, config.epochs=2.0 can be set; set the others to 0."),
        ({"network": "resnet19"}, "There is no network 'resnet19'. Did you mean resnet18"),
    ],
)
def test_an_error_is_told(changes, message):
    (problem,) = problems_of(as_written(config(**changes)))
    assert problem.startswith(message)


def test_all_errors_are_in_one_message():
    wrong = config(batch_size=-1, freeze="layer9", head__preset="keptdeeper")
    with wrong.unlocked():
        wrong.learning_rat = 1.0
        wrong.data.shot = 3
    with pytest.raises(UserError) as caught:
        typed(wrong)
    first, *lines = str(caught.value).splitlines()
    assert first == "The configuration has 5 errors:"
    assert lines[:3] == [
        "  There is no field config.data.shot. Did you mean config.data.shots?",
        "  There is no field config.learning_rat. Did you mean config.learning_rate?",
        "  config.batch_size=-1 must be at least 1.",
    ]
    assert lines[3].startswith("  config.head.preset='keptdeeper' is unknown. Did you mean 'kept_deeper'?")
    assert lines[4].startswith("  config.freeze='layer9' is not a layer group of this network. Did you mean 'layer4'?")


def test_a_run_is_not_begun(tmp_path):
    with pytest.raises(ValueError, match="config.data.workers=-1 must be at least 0"):
        flax_augtl.train(config(data__workers=-1, data__name="digits"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_names_of_layer_groups_are_those_of_the_networks(name):
    model, entry = create_model(name), NETWORKS[name]
    assert model.groups == entry.groups
    if entry.blocks:
        assert model.clone(by_block=True).groups == ("stem", *entry.blocks, "fc")
