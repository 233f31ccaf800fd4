import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_augtl.data.augment import augment

IMAGES = np.random.default_rng(0).integers(1, 256, (64, 8, 8, 3), dtype=np.uint8)
IDS = np.arange(64, dtype=np.uint32) * 67_108_864  # Up to the top of uint32: an int32 cast would make two alike.
VIEWS = np.zeros(64, np.int32)


@functools.cache
def _compiled(**settings):
    return jax.jit(functools.partial(augment, **settings))


def run(images=IMAGES, ids=IDS, views=VIEWS, **settings):
    settings = {"view_seed": 0, "flip": True, "shift": 2, **settings}
    return np.asarray(_compiled(**settings)(images, ids, views))


def test_nothing_asked_for_changes_nothing():
    np.testing.assert_array_equal(run(flip=False, shift=0), IMAGES)


def test_about_half_are_flipped_and_the_rest_are_left():
    flipped = run(shift=0)
    same = (flipped == IMAGES).all((1, 2, 3))
    mirrored = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all() and 16 < same.sum() < 48


def test_a_shift_moves_by_at_most_so_many_pixels_and_brings_in_black():
    moves = set()
    for before, after in zip(IMAGES, run(flip=False), strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)))
        found = [(r, c) for r in range(5) for c in range(5) if (padded[r : r + 8, c : c + 8] == after).all()]
        assert len(found) == 1
        moves.add(found[0])
    assert len(moves) > 15  # Of 25.


def test_a_draw_depends_on_view_seed_example_and_view_only():
    whole = run()
    turned = run(IMAGES[::-1], IDS[::-1], VIEWS[::-1])
    np.testing.assert_array_equal(turned[::-1], whole)
    np.testing.assert_array_equal(run(IMAGES[:5], IDS[:5], VIEWS[:5]), whole[:5])
    np.testing.assert_array_equal(run(), whole)
    for other in (run(view_seed=1), run(views=VIEWS + 1), run(ids=IDS + 1)):
        assert (other != whole).any()


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_ids_of_either_sign_are_the_same_ids(dtype):
    np.testing.assert_array_equal(run(ids=IDS.astype(dtype)), run())


def test_the_result_is_uint8():
    assert augment(jnp.asarray(IMAGES), IDS, VIEWS, view_seed=0, flip=True, shift=1).dtype == jnp.uint8


def test_jitter_changes_colours_evenly_and_by_no_more_than_asked():
    plain = np.tile(np.array([60, 100, 140], np.uint8), (64, 8, 8, 1))
    jittered = run(plain, flip=False, shift=0, jitter=0.2).astype(int)
    assert (jittered == jittered[:, :1, :1]).all()  # A plain picture stays plain.
    assert len(np.unique(jittered[:, 0, 0], axis=0)) > 40
    mean = jittered.mean((1, 2, 3))
    assert 0.79 * 100 <= mean.min() < 90 and 110 < mean.max() < 1.21 * 100
    assert (np.ptp(jittered[:, 0, 0], axis=1) <= 80 * 1.2**3 + 1).all()


def test_erasing_covers_a_rectangle_with_the_mean_colour():
    before, after = IMAGES, run(flip=False, shift=0, erase=0.5)
    changed = (before != after).any(-1)
    assert 16 < changed.any((1, 2)).sum() < 48
    for image, erased, mask in zip(before, after, changed, strict=True):
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            part = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3)
            np.testing.assert_allclose(part, np.broadcast_to(image.reshape(-1, 3).mean(0), part.shape), atol=0.51)
            assert len(part) <= 0.45 * 64  # A third of the area, and what rounding to pixels adds.


def test_one_kind_of_change_does_not_change_the_draws_of_another():
    np.testing.assert_array_equal((run(erase=0.01) == run()).mean() > 0.95, True)
