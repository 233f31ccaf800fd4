"""How many trials are timed, and then trained, together."""

from types import SimpleNamespace

import numpy as np
import pytest

from flax_augtl.study.grid import Trial
from flax_augtl.study.trials.cost import TOGETHER_ON_CPU, _most_together

TRIAL = Trial("select", "kept", "conv5", "pretrained", 0.01, 0)


def together(*, gigabytes, shared, asked=0):
    params = {"fc6": {"kernel": np.zeros((100, 100), np.float32)}, "fc7": {"kernel": np.zeros((50, 100), np.float32)}}
    context = SimpleNamespace(
        study=SimpleNamespace(together=asked, device_gb=gigabytes),
        grid=SimpleNamespace(rates=(0.1, 0.01, 0.001), selection_seeds=(0, 1, 2, 3, 4, 5)),
        source=SimpleNamespace(groups=("conv5", "fc6", "fc7"), variables={"params": params}),
        shared=lambda trial: shared,
    )
    return _most_together(context, TRIAL)


@pytest.mark.parametrize(
    ("gigabytes", "shared", "expected"),
    # Each trial keeps four times 60 kB with fc6 and fc7 trained, 20 kB with fc7 alone, and nothing above them.
    [(1e-3, 1, 4), (1e-3, 2, 12), (1e-4, 2, 1), (1e-9, 1, 1), (1e-9, 3, TOGETHER_ON_CPU)],
)
def test_large_dense_layers_are_trained_by_few_trials_at_a_time(gigabytes, shared, expected):
    assert together(gigabytes=gigabytes, shared=shared) == expected


def test_a_given_number_is_kept():
    assert together(gigabytes=1e-9, shared=1, asked=7) == 7
