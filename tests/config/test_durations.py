"""Lengths in steps, epochs and examples."""

import pytest

from flax_augtl.config.durations import in_steps
from flax_augtl.config.schema import Config, ScheduleConfig


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"steps": 7}, 7),
        ({"epochs": 3.0}, 30),  # 3 epochs of 100 / 30 steps: 300 examples in 10 batches.
        ({"epochs": 0.5}, 5),
        ({"examples": 31}, 4),
        ({"steps": 0}, None),
        ({}, None),
        ({"steps": 5, "epochs": 0.0}, 5),
    ],
)
def test_every_unit_is_counted_in_steps(given, expected):
    batch_size = 30 if given == {"epochs": 3.0} else 10
    expected = 10 if given == {"epochs": 3.0} else expected
    assert in_steps(Config(**given), "", examples=100, batch_size=batch_size) == expected


def test_several_lengths_at_once():
    config = ScheduleConfig(boundaries_epochs=(1, 2.5))
    assert in_steps(config, "boundaries", examples=100, batch_size=10) == (10, 25)


def test_two_units_are_one_too_many():
    with pytest.raises(
        ValueError, match=r"Only one of config.steps=5, config.epochs=2 can be set; set the others to 0"
    ):
        in_steps(Config(steps=5, epochs=2), "", examples=100, batch_size=10)


def test_a_negative_length_is_an_error():
    with pytest.raises(ValueError, match="config.schedule.warmup_steps=-1 is negative"):
        in_steps(ScheduleConfig(warmup_steps=-1), "warmup", examples=100, batch_size=10)
