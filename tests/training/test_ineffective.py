"""Settings without effect are told."""

import pytest

from flax_augtl.config.schema import Config, ScheduleConfig
from flax_augtl.training.ineffective import ineffective_settings


def config(early_stopping=0, **schedule):
    return Config(schedule=ScheduleConfig(**{"name": "step", **schedule}), early_stopping=early_stopping, batch_size=10)


def told(config, has_validation=True):
    return ineffective_settings(config, total_steps=40, evaluate_every=10, examples=100, has_validation=has_validation)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"boundaries_epochs": (1, 4, 5)},
            "2 of 3 boundaries in config.schedule.boundaries_epochs have no effect: they come at "
            "step 40, 50, and the run ends after step 40.",
        ),
        (
            {"name": "cosine", "boundaries_steps": (3,)},
            "config.schedule.boundaries_steps=(3,) has no effect: only step reads it, and config.schedule.name is 'cosine'.",
        ),
        ({"early_stopping": 4}, "config.early_stopping=4 has no effect: the run has only 4 evaluations."),
    ],
)
def test_a_setting_without_effect_is_told(fields, sentence):
    assert told(config(**fields)) == [sentence]


def test_early_stopping_needs_validation():
    assert told(config(early_stopping=2), has_validation=False) == [
        "config.early_stopping has no effect: there is no validation split to stop by."
    ]


def test_nothing_is_told_of_settings_that_are_used():
    assert told(config(early_stopping=3, boundaries_epochs=(1, 3.9))) == []
    assert told(config(name="cosine")) == []
