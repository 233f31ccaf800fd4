"""Numbers of a configuration that would train on, and towards nothing, are refused before anything is written."""

import pytest
from flax_augtl.config.ranges import RANGES, check_ranges

import flax_augtl
from configs import common


def config(**changes):
    config = common.get_config()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def test_the_defaults_are_in_range():
    check_ranges(common.get_config())


def test_every_range_is_of_a_field():
    flat = common.get_config()
    for field in RANGES:
        part = flat
        for name in field.split(".")[:-1]:
            part = part[name]
        assert field.rpartition(".")[2] in part.keys(), field


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
        ({"head__new_layers": (2.7,)}, r"config.head.new_layers=\(2.7,\) must be whole numbers."),
        ({"class_weights": ("a", "b")}, r"config.class_weights=\('a', 'b'\) must be finite numbers."),
        ({"data__crop_scale": (0.5,)}, r"config.data.crop_scale=\(0.5,\) must be two shares of the area"),
        ({"log_every_steps": 0}, "config.log_every_steps=0 must be at least 1."),
        ({"study__selection_seeds": -1}, "config.study.selection_seeds=-1 must be at least 0."),
        ({"study__seeds": (0.5,)}, r"config.study.seeds=\(0.5,\) must be whole numbers."),
    ],
)
def test_a_value_out_of_range_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check_ranges(config(**changes))


def test_a_run_is_not_begun(tmp_path):
    with pytest.raises(ValueError, match="config.data.workers=-1 must be at least 0"):
        flax_augtl.train(config(data__workers=-1, data__name="digits"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
