import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from flax_augtl.config.convert import typed_data
from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import DataError
from flax_augtl.data.images.augment import augment, augmentations

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
    np.testing.assert_array_equal(run(flip="none", shift=0), IMAGES)


def test_about_half_are_flipped_and_the_rest_are_left():
    flipped = run(shift=0)
    same = (flipped == IMAGES).all((1, 2, 3))
    mirrored = (flipped == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all() and 16 < same.sum() < 48


def test_a_shift_moves_by_at_most_so_many_pixels_and_brings_in_black():
    moves = set()
    for before, after in zip(IMAGES, run(flip="none"), strict=True):
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
    arrays = map(jnp.asarray, (IMAGES, IDS, VIEWS))
    assert augment(*arrays, view_seed=0, flip="horizontal", shift=1).dtype == jnp.uint8


def test_jitter_changes_colours_evenly_and_by_no_more_than_asked():
    plain = np.tile(np.array([60, 100, 140], np.uint8), (64, 8, 8, 1))
    jittered = run(plain, flip="none", shift=0, jitter=0.2).astype(int)
    assert (jittered == jittered[:, :1, :1]).all()  # A plain image stays plain.
    assert len(np.unique(jittered[:, 0, 0], axis=0)) > 40
    mean = jittered.mean((1, 2, 3))
    assert 0.79 * 100 <= mean.min() < 90 and 110 < mean.max() < 1.21 * 100
    assert (np.ptp(jittered[:, 0, 0], axis=1) <= 80 * 1.2**3 + 1).all()


def test_erasing_covers_a_rectangle_with_the_mean_colour():
    before, after = IMAGES, run(flip="none", shift=0, erase=0.5)
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


def kinds_of(images, results):
    """How often each of `images`, {name: a batch}, is what became of an image; every result must be one of them."""
    counts = dict.fromkeys(images, 0)
    for index, result in enumerate(results):
        found = [name for name, batch in images.items() if (batch[index] == result).all()]
        assert len(found) == 1
        counts[found[0]] += 1
    return counts


def test_both_flips_are_drawn_apart_and_the_horizontal_one_is_the_same():
    once, both = run(shift=0), run(flip="both", shift=0)
    kinds = {"none": IMAGES, "across": IMAGES[:, :, ::-1], "down": IMAGES[:, ::-1], "both": IMAGES[:, ::-1, ::-1]}
    assert min(kinds_of(kinds, both).values()) > 6
    assert all((x == y).all() or (x == y[::-1]).all() for x, y in zip(both, once, strict=True))


def test_right_angles():
    turned = run(flip="none", shift=0, rotate="right_angles")
    assert min(kinds_of({k: np.rot90(IMAGES, k, (1, 2)) for k in range(4)}, turned).values()) > 6


def test_an_angle_is_within_its_range_and_the_edge_is_mirrored():
    size = 33
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    ramp = np.rint(128 + 5 * columns * (np.hypot(rows, columns) < 14)).astype(np.uint8)  # Its slope tells the angle.
    images = np.repeat(np.tile(ramp[None, :, :, None], (64, 1, 1, 1)), 3, -1)
    turned = run(images, flip="none", shift=0, rotate=30.0)[..., 0].astype(float)
    middle = turned[:, 11:22, 11:22]
    angles = np.degrees(np.arctan2(np.diff(middle, axis=1).mean((1, 2)), np.diff(middle, axis=2).mean((1, 2))))
    assert (
        np.abs(angles).max() <= 30.5
        and angles.min() < -20
        and angles.max() > 20
        and len(np.unique(angles.round(1))) > 40
    )
    assert (run(np.full_like(images, 200), flip="none", shift=0, rotate=45.0) == 200).all()  # No black corners.


def test_a_blur_keeps_the_mean_and_is_gaussian():
    images = np.zeros((64, 33, 33, 3), np.uint8)
    images[:, 16, 16] = 255
    blurred = run(images, flip="none", shift=0, blur=2.0)[..., 0].astype(float)
    deviation = 1 / np.sqrt(2 * np.pi * blurred.max((1, 2)) / 255)
    assert deviation.max() <= 2.05 and deviation.max() > 1.5 and (blurred.max((1, 2)) == 255).any()
    distance = np.arange(33) - 16
    wide = blurred[np.argmax(deviation)]
    expected = np.exp(-0.5 * (distance[:, None] ** 2 + distance**2) / deviation.max() ** 2)
    np.testing.assert_allclose(wide, 255 * expected / expected.sum(), atol=0.8)
    assert (run(np.full_like(images, 90), flip="none", shift=0, blur=5.0) == 90).all()  # At the edges too.


@pytest.mark.parametrize("more", [{"flip": "both"}, {"rotate": "right_angles"}, {"rotate": 20.0}, {"blur": 1.0}])
def test_new_kinds_are_functions_of_view_seed_example_and_view(more):
    whole = run(**more)
    np.testing.assert_array_equal(run(IMAGES[:5][::-1], IDS[:5][::-1], VIEWS[:5], **more), whole[:5][::-1])
    for other in (run(view_seed=1, **more), run(views=VIEWS + 1, **more)):
        assert (other != whole).any()


@pytest.mark.parametrize("rotate", [-1, 181, True, "left", None])
def test_angles_out_of_range_are_named(rotate):
    with pytest.raises(
        DataError, match=f"config.data.rotate={rotate!r} must be an angle of 0 to 180 degrees, or right_"
    ):
        augmentations(DataConfig(flip="none", rotate=rotate))


def test_the_fields_of_the_configuration_are_the_arguments():
    config = common.get_config()
    assert augmentations(typed_data(config.data)) == {
        "flip": "horizontal", "rotate": 0.0, "shift": 0, "blur": 0.0, "jitter": 0.0, "erase": 0.0}  # fmt: skip
    config.data.rotate, config.data.flip = 15, False
    assert (
        augmentations(typed_data(config.data))["rotate"] == 15.0
        and augmentations(typed_data(config.data))["flip"] == "none"
    )
    config.data.rotate = "right_angles"
    assert augmentations(typed_data(config.data))["rotate"] == "right_angles"
