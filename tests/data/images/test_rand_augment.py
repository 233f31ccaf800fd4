import numpy as np
import pytest
from PIL import Image

from flax_augtl.config.schema import FIELDS
from flax_augtl.data import keyed_random
from flax_augtl.data.images.rand_augment import DRAWS, POLICIES, _rand_ranges, _trivial_ranges, apply
from flax_augtl.data.images.transforms import random_box

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
    (64, 48), Image.Resampling.BICUBIC
)


@pytest.mark.parametrize("name", ["rand", "trivial"])
def test_a_policy_is_a_function_of_its_draws(name):
    results = []
    for view in range(40):
        uniform = keyed_random.example_uniforms(DRAWS, 0, 1, view)
        result = POLICIES[name](IMAGE, uniform)
        assert result.size == IMAGE.size and result.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(result), np.asarray(POLICIES[name](IMAGE, uniform)))
        results.append(np.asarray(result).tobytes())
    assert len(set(results)) > 25


def test_the_configuration_has_the_policies_of_the_table():
    assert FIELDS["data.policy"].setting.choices == tuple(POLICIES)


def test_every_operation_is_drawn():
    seen = set()
    for view in range(600):
        which = keyed_random.example_uniforms(DRAWS, 0, 2, view)[0]
        seen.add(list(_trivial_ranges())[int(which * 14)])
    assert seen == set(_trivial_ranges()) == set(_rand_ranges((64, 48)))


@pytest.mark.parity
def test_every_operation_is_torchvisions(torch):
    from torchvision.transforms import InterpolationMode, autoaugment

    theirs = autoaugment.TrivialAugmentWide()._augmentation_space(31)
    rand = autoaugment.RandAugment()._augmentation_space(31, (48, 64))
    for reference, ours in ((theirs, _trivial_ranges()), (rand, _rand_ranges((64, 48)))):
        assert set(reference) == set(ours)
        for operation, (strengths, signed) in reference.items():
            assert signed == ours[operation][1]
            if strengths.ndim:
                np.testing.assert_allclose(ours[operation][0], strengths.numpy(), rtol=1e-6)
            for level in (0, 9, 30):
                strength = float(strengths[level]) if strengths.ndim else 0.0
                for sign in (1, -1) if signed else (1,):
                    expected = autoaugment._apply_op(IMAGE, operation, sign * strength, InterpolationMode.NEAREST, None)
                    found = apply(IMAGE, operation, sign * strength)
                    different = (np.asarray(found) != np.asarray(expected)).any(-1).mean()
                    assert different < 0.02, (operation, level, sign)  # A half pixel may round either way.


def test_a_random_box_is_within_the_image_and_of_the_area_asked_for():
    for view in range(300):
        left, top, right, bottom = random_box((300, 200), keyed_random.example_uniforms(22, 0, 0, view), (0.25, 1.0))
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200
        assert 0.24 <= (right - left) * (bottom - top) / 60_000 <= 1.01
        assert 0.73 <= (right - left) / (bottom - top) <= 1.36


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (20_000, 3)])
def test_a_random_box_of_an_odd_image(size):
    for view in range(20):
        left, top, right, bottom = random_box(size, keyed_random.example_uniforms(22, 0, 0, view), (0.08, 1.0))
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
