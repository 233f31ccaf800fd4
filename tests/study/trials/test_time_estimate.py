"""The expected time of trials: measurements correct the timing of trials with about the same cost."""

import types

import numpy as np
import pytest

from flax_augtl.study.grid import Trial
from flax_augtl.study.trials.cost import Timing
from flax_augtl.study.trials.time_estimate import TimeEstimate

# Seconds of a training with 100 steps by the timing; with everything frozen a step takes almost no time.
TIMED = {"all": 0.02, "layer3": 200.0, "layer2": 400.0}


@pytest.fixture
def times():
    context = types.SimpleNamespace(
        schedule=lambda trial: (np.zeros(trial.steps or 100), 16), grid=types.SimpleNamespace(rates=(0.01,), seeds=(0,))
    )
    names = {f"{head} {depth} pretrained": seconds for depth, seconds in TIMED.items() for head in ("a", "b")}
    timed = Timing(0.1, names, {name: 1.0 if " all " in name else 20.0 for name in names}, dict.fromkeys(names, 1))
    return TimeEstimate(context, timed)


def trial(depth, head="a", steps=10):
    return Trial("select", head, depth, "pretrained", 0.01, 0, steps)


def expected(times, *trials, **more):
    return pytest.approx(times.expected(trials, **more), rel=1e-6)


def test_without_measurements_the_timing_counts(times):
    assert expected(times, trial("layer3"), compilation=False) == 20.0
    assert expected(times, trial("layer3")) == 40.0


def test_slow_cheap_steps_do_not_multiply_the_time_of_costly_ones(times):
    times.measured[trial("all").group] = 0.02  # 100 times the timing: the fixed costs of a step.
    times.compiled[trial("all").group] = 11.0
    assert expected(times, trial("layer3"), compilation=False) == 10 * (2.0 + 0.02 - 0.0002)
    assert expected(times, trial("layer3")) == 10 * (2.0 + 0.02 - 0.0002) + 20.0 + 10.0
    times.slowness = 3.0
    assert expected(times, trial("layer3"), compilation=False) == 10 * (6.0 + 0.02 - 0.0006)


def test_costly_steps_correct_others_of_about_the_same_cost(times):
    times.measured |= {trial("all").group: 0.02, trial("layer3").group: 5.0}
    assert expected(times, trial("layer2"), compilation=False) == 10 * 4.0 * 2.5
    assert expected(times, trial("layer3", head="b"), compilation=False) == 50.0
    assert expected(times, trial("layer3"), trial("layer3", steps=30), compilation=False) == 200.0
