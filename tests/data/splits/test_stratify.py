import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flax_augtl.data.errors import DataError
from flax_augtl.data.splits import stratify
from flax_augtl.data.types import ArraySource, Examples


def examples(counts):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    source = ArraySource(np.zeros((len(labels), 1, 1, 3), np.uint8))
    return Examples(source, np.arange(len(labels)), labels, tuple(f"e{i}" for i in range(len(labels))))


def carve(*arguments, **more):
    """Carve a part that is not empty."""
    rest, part = stratify.carve(*arguments, **more)
    assert part is not None
    return rest, part


def names(counts):
    return tuple(f"class{i}" for i in range(len(counts)))


counts_of_classes = st.lists(st.integers(1, 30), min_size=2, max_size=8)


@given(counts=counts_of_classes, share=st.floats(0.05, 0.9), seed=st.integers(0, 2**40))
@settings(max_examples=100, deadline=None)
def test_a_carved_part_is_stratified_and_nothing_is_lost(counts, share, seed):
    n = sum(counts)
    most = n - len(counts)
    total = int(np.floor(share * n + 0.5))
    assume(0 < total <= most)
    rest, part = carve(examples(counts), share, seed, names(counts))
    assert sorted(rest.ids + part.ids) == sorted(examples(counts).ids)
    assert len(part) == total
    given_by = np.bincount(part.labels, minlength=len(counts))
    assert (np.bincount(rest.labels, minlength=len(counts)) >= 1).all()
    if min(counts) * (1 - share) >= 1:  # No class was held back, so each gives its share to the nearest example.
        assert (np.abs(given_by - np.array(counts) * total / n) < 1).all()


@given(counts=counts_of_classes, amount=st.integers(1, 200), seed=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_a_count_is_exact_or_refused(counts, amount, seed):
    most = sum(counts) - len(counts)
    if amount <= most:
        rest, part = carve(examples(counts), amount, seed, names(counts))
        assert len(part) == amount
        assert (np.bincount(rest.labels, minlength=len(counts)) >= 1).all()
    else:
        with pytest.raises(DataError, match=f"{amount} asks for more than there is"):
            carve(examples(counts), amount, seed, names(counts))


@given(counts=counts_of_classes, k=st.integers(1, 12), seed=st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_shots_are_k_of_every_class_or_refused(counts, k, seed):
    if min(counts) < k:
        few = names(counts)[counts.index(min(counts))]
        with pytest.raises(DataError, match=few):
            stratify.shots(examples(counts), k, seed, names(counts))
        return
    chosen, rest = stratify.shots(examples(counts), k, seed, names(counts))
    assert (np.bincount(chosen.labels, minlength=len(counts)) == k).all()
    assert sorted(chosen.ids + rest.ids) == sorted(examples(counts).ids)


@given(counts=counts_of_classes, seed=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_sampling_rates_are_nested_and_leave_no_class_empty(counts, seed):
    kept = [set(stratify.sample(examples(counts), rate, seed, names(counts)).ids) for rate in (0.15, 0.3, 0.5, 1.0)]
    for smaller, larger in zip(kept, kept[1:], strict=False):
        assert smaller <= larger
    assert len(kept[-1]) == sum(counts)
    sampled = stratify.sample(examples(counts), 0.15, seed, names(counts))
    expected = np.maximum(1, np.floor(np.array(counts) * 0.15 + 0.5))
    np.testing.assert_array_equal(np.bincount(sampled.labels, minlength=len(counts)), expected)


def test_a_seed_decides_and_only_it():
    several = {carve(examples([20, 20]), 0.2, seed, names([1, 1]))[1].ids for seed in range(6)}
    assert len(several) == 6
    again = carve(examples([20, 20]), 0.2, 0, names([1, 1]))[1].ids
    assert again == carve(examples([20, 20]), 0.2, 0, names([1, 1]))[1].ids


def test_the_choice_is_pinned():
    """Other figures here mean that studies made before cannot be paired with new ones."""
    assert carve(examples([10, 10]), 0.2, 0, names([1, 1]))[1].ids == PINNED


def test_validation_and_test_of_one_seed_are_drawn_independently():
    whole = examples([100, 100])
    _, test = carve(whole, 0.2, 0, names([1, 1]), what="test")
    _, val = carve(whole, 0.2, 0, names([1, 1]), what="validation")
    assert set(test.ids) != set(val.ids)


@pytest.mark.parametrize("amount", [-0.1, 1.5, float("nan"), -3])
def test_an_amount_that_makes_no_sense_is_refused(amount):
    with pytest.raises(DataError, match="neither a share"):
        carve(examples([5, 5]), amount, 0, names([1, 1]))


@pytest.mark.parametrize("counts, share", [([2, 2], 0.05), ([1, 1], 0.5)])
def test_an_empty_validation_split_is_an_error(counts, share):
    with pytest.raises(DataError, match="validation split would be empty.*set it to 0"):
        carve(examples(counts), share, 0, names(counts))


def test_no_validation_split_is_a_choice():
    rest, part = stratify.carve(examples([3, 3]), 0, 0, names([1, 1]))
    assert part is None and len(rest) == 6


PINNED = ("e2", "e6", "e12", "e19")
