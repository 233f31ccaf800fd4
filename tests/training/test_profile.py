"""A trace of some steps of a run."""

import gzip
import json

import jax
import pytest

import flax_augtl
from flax_augtl.training.profile import Profile
from tests import small


@pytest.mark.slow
def test_a_trace_of_the_steps_is_written_for_the_profiler(tmp_path):
    config = small.digits_config(weights="embedded:glyphs", freeze="all", steps=4)
    flax_augtl.train(config, tmp_path / "run", quiet=True, profile=True)
    (plain,) = (tmp_path / "run" / "profile").rglob("*.trace.json.gz")
    assert next(plain.parent.glob("*.xplane.pb")).stat().st_size > 1000
    events = json.loads(gzip.decompress(plain.read_bytes()))["traceEvents"]
    assert any(event.get("name") == "train" for event in events)  # Large traces are cut in this format.


def test_the_trace_leaves_out_the_first_steps_where_it_can(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda where: calls.append(("start", done[-1:])))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append(("stop", done[-1:])))
    for total, first, last in ((100, [10], [15]), (8, [3], [8]), (3, [], [3])):
        done = []
        for step in Profile(tmp_path, 0, total).over(range(1, total + 1)):
            done.append(step)
        assert calls == [("start", first), ("stop", last)] and len(done) == total
        calls.clear()


def test_a_run_that_breaks_off_ends_the_trace(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda where: calls.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: calls.append("stop"))
    batches = Profile(tmp_path, 0, 3).over(range(3))
    next(batches)
    batches.close()
    assert calls == ["start", "stop"]


def test_a_trace_that_cannot_be_written_is_told_and_ends_nothing(tmp_path, monkeypatch):
    """On a full disk JAX's error is of the kind that a device without memory raises."""

    def full():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: host.xplane.pb; No space left on device")

    monkeypatch.setattr("jax.profiler.start_trace", lambda where: None)
    monkeypatch.setattr("jax.profiler.stop_trace", full)
    said = []
    assert list(Profile(tmp_path, 0, 3, said.append).over(range(3))) == [0, 1, 2]
    batches = Profile(tmp_path, 0, 3, said.append).over(range(3))
    next(batches)
    batches.close()
    assert said == 2 * [
        f"The trace in {tmp_path} cannot be written: RESOURCE_EXHAUSTED: host.xplane.pb; No space left on device."
    ]
