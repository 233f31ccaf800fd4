import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_augtl.data.augment import augment

IMAGES = np.random.default_rng(0).integers(1, 256, (64, 8, 8, 3), dtype=np.uint8)
IDS = np.arange(64, dtype=np.uint32) * 67_108_864  # Up to the top of uint32: an int32 cast would make two alike.
VIEWS = np.zeros(64, np.int32)


def run(images=IMAGES, ids=IDS, views=VIEWS, **settings):
    settings = {"view_seed": 0, "flip": True, "shift": 2, **settings}
    return np.asarray(jax.jit(lambda *a: augment(*a, **settings))(images, ids, views))


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
