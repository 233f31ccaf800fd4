import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_augtl.data.loading.sampler import epoch_order, stream


@given(n=st.integers(1, 40), seed=st.integers(0, 2**63), epochs=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_every_epoch_has_every_example_once(n, seed, epochs):
    examples, views = stream(0, n * epochs, n, seed)
    for epoch in range(epochs):
        part = slice(epoch * n, (epoch + 1) * n)
        assert sorted(examples[part]) == list(range(n))
        assert (views[part] == epoch).all()


@given(n=st.integers(1, 30), start=st.integers(0, 100), length=st.integers(0, 70), shards=st.integers(1, 5),
       views=st.integers(0, 3))  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_any_part_and_any_strides_are_parts_of_one_stream(n, start, length, shards, views):
    whole_examples, whole_views = stream(0, start + length, n, 7, views=views)
    examples, view = stream(start, start + length, n, 7, views=views)
    np.testing.assert_array_equal(examples, whole_examples[start:])
    np.testing.assert_array_equal(view, whole_views[start:])
    for shard in range(shards):
        ours, ours_views = stream(start + shard, start + length, n, 7, stride=shards, views=views)
        np.testing.assert_array_equal(ours, examples[shard::shards])
        np.testing.assert_array_equal(ours_views, view[shard::shards])


def test_epochs_and_seeds_differ():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_is_pinned():
    """Other figures here mean that a run cannot be resumed after an upgrade, nor on another machine."""
    np.testing.assert_array_equal(epoch_order(8, 0, 0), PINNED)


def test_finite_views_repeat():
    _, views = stream(0, 9 * 4, 4, 0, views=3)
    np.testing.assert_array_equal(views[::4], [0, 1, 2] * 3)


def test_an_order_cannot_be_changed_by_who_reads_it():
    with pytest.raises(ValueError):
        epoch_order(8, 0, 0)[0] = 1


PINNED = [3, 5, 6, 1, 0, 4, 7, 2]
