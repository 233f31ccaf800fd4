import functools

import jax
import numpy as np
import pytest

from flax_augtl.data.images.mixup import mix

B, S, C = 16, 8, 16
COLOURS = np.arange(B) * 10 + 20
IMAGES = np.broadcast_to(COLOURS[:, None, None, None], (B, S, S, 3)).astype(np.uint8)
LABELS = np.eye(B, C, dtype=np.float32)
IDS = np.arange(B, dtype=np.uint32) * 1001
VIEWS = np.zeros(B, np.int32)


@functools.cache
def _compiled(**settings):
    return jax.jit(functools.partial(mix, **settings))


def run(images=IMAGES, labels=LABELS, ids=IDS, views=VIEWS, **settings):
    settings = {"view_seed": 0, "mixup": 0.0, "cutmix": 0.0, **settings}
    mixed, targets = _compiled(**settings)(images, labels, ids, views)
    return np.asarray(mixed), np.asarray(targets)


def test_nothing_asked_for_changes_nothing():
    images, labels = run()
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_the_label_says_what_is_in_the_image(settings):
    images, labels = run(**settings)
    assert images.dtype == np.uint8
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)
    assert ((labels > 0).sum(1) <= 2).all() and (labels < 1).any()
    # Each image has one colour that names its example, so its mean must be the label's mixture of colours.
    np.testing.assert_allclose(images.mean((1, 2, 3)), labels @ COLOURS, atol=0.51)
    kinds = {len(np.unique(image)) for image in images}
    assert kinds <= {1, 2} and (2 in kinds) == ("cutmix" in settings)


def test_every_example_gives_and_takes_once():
    _, labels = run(mixup=0.4)
    partners = [int(np.argmax(np.where(np.arange(C) == i, -1, row))) for i, row in enumerate(labels)]
    assert sorted(partners) == list(range(B))


def test_the_order_in_the_batch_changes_nothing():
    turned = run(IMAGES[::-1], LABELS[::-1], IDS[::-1], VIEWS[::-1], mixup=0.4, cutmix=1.0)
    for left, right in zip(turned, run(mixup=0.4, cutmix=1.0), strict=True):
        np.testing.assert_allclose(left[::-1], right, atol=1e-6)


def test_views_and_view_seeds_differ():
    plain = run(mixup=0.4)[1]
    assert (run(mixup=0.4, view_seed=1)[1] != plain).any()
    assert (run(mixup=0.4, views=VIEWS + 1)[1] != plain).any()


@pytest.mark.parametrize("devices", [4])
def test_a_batch_over_several_devices_is_mixed_as_one(devices):
    """Devices are imitated by a mapped axis; the collectives are the same."""
    parts = [x.reshape(devices, B // devices, *x.shape[1:]) for x in (IMAGES, LABELS, IDS, VIEWS)]
    over_devices = functools.partial(mix, view_seed=0, mixup=0.4, cutmix=1.0, axis_name="d")
    spread = jax.jit(jax.vmap(over_devices, axis_name="d"))(*parts)
    for found, expected in zip(spread, run(mixup=0.4, cutmix=1.0), strict=True):
        np.testing.assert_allclose(np.asarray(found).reshape(expected.shape), expected, atol=1e-6)
