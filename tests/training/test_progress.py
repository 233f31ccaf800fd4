"""What a checkpoint says of how far a run is, read as anybody's."""

import dataclasses
import json
import math

import pytest

from flax_augtl.training.progress import Progress, from_json


def test_what_was_written_is_read():
    for progress in (Progress(), Progress(7, 9, 4, 0.5, math.inf, 2, 1.5, True, 1)):
        assert from_json(json.loads(json.dumps(dataclasses.asdict(progress))), "it") == progress


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": "x"}, "step must be a whole number, not 'x'"),
        ({"position": None}, "position must be a whole number, not"),
        ({"position": -3}, "position must be at least 0"),
        ({"best_loss": "x"}, "best_loss must be a number or null"),
        ({"seconds": math.nan}, "seconds must be a number"),
        ({"evaluation_due": 1}, "evaluation_due must be a true or false"),
    ],
)
def test_a_value_of_another_kind_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        from_json({**dataclasses.asdict(Progress()), **changes}, "it")


@pytest.mark.parametrize("values", [None, [], {}, {"step": 3}])
def test_what_is_no_progress_is_a_sentence(values):
    with pytest.raises(
        ValueError, match="it must be an object in braces|it cannot be used:\n  (step|position) is missing"
    ):
        from_json(values, "it")
