"""Familiarity: closed forms of the distances, the rank among validation images, and the file."""

import numpy as np
import pytest

from flax_augtl.errors import UserError
from flax_augtl.predict import as_csv, as_table
from flax_augtl.trust import distances, familiarity
from flax_augtl.trust.familiarity import Familiarity
from flax_augtl.trust.trained import spaced


class Given:
    """A distance that is the first feature."""

    def __call__(self, features, logits):
        return features[:, 0].astype(float)


def two_classes(count=200, size=12, seed=0):
    """Features of two classes far apart, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    means = np.zeros((2, size))
    means[0, 0] = means[1, 1] = 4.0
    spread = np.linspace(0.1, 0.5, size)
    return (means[labels] + spread * rng.normal(size=(count, size))).astype(np.float32), labels


def test_familiarity_is_the_rank_among_the_validation_images():
    found = Familiarity(Given(), np.array([1.0, 2.0, 3.0, 4.0]), 0)
    # (k + 1) / (n + 1), with k of n = 4 validation images that are farther.
    values = found(np.array([[0.5], [1.0], [2.5], [4.0], [9.0], [np.nan]]), np.zeros((6, 2)))
    np.testing.assert_allclose(values, [1.0, 0.8, 0.6, 0.2, 0.2, 0.2])


def test_images_like_the_validation_images_are_rarely_below_the_limit():
    rng = np.random.default_rng(0)
    found = Familiarity(Given(), np.sort(rng.normal(size=999)), 0)
    values = found(rng.normal(size=(20000, 1)), np.zeros((20000, 2)))
    assert np.mean(values < 0.05) == pytest.approx(0.05, abs=0.02)
    assert values.min() >= 1 / 1000 and values.max() <= 1


@pytest.mark.parametrize("rank", [2, 12, 256])
def test_the_mahalanobis_distance_is_that_of_the_shrunk_covariance(rank):
    from sklearn.covariance import ledoit_wolf_shrinkage

    features, labels = two_classes()
    found = distances.fit_mahalanobis(features, labels, rank)
    x = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([x[labels == label].mean(axis=0) for label in (0, 1)])
    np.testing.assert_allclose(found.means, means, atol=1e-6)
    around = x - means[labels]
    shrinkage = ledoit_wolf_shrinkage(around.astype(float), assume_centered=True)
    empirical = around.T @ around / (len(x) - 2)
    values, vectors = np.linalg.eigh((1 - shrinkage) * empirical + shrinkage * np.trace(empirical) / 12 * np.eye(12))
    kept = min(rank, 12)
    if kept < 12:  # Beyond the largest eigenvalues, their mean.
        values[: 12 - kept] = values[: 12 - kept].mean()
    inverse = (vectors / values) @ vectors.T
    others = two_classes(50, seed=1)[0]
    unit = others / np.linalg.norm(others, axis=1, keepdims=True)
    wanted = [min((row - mean) @ inverse @ (row - mean) for mean in means) ** 0.5 for row in unit]
    np.testing.assert_allclose(found(others, np.zeros((50, 2))), wanted, rtol=2e-3)


def test_neighbours_and_energy():
    features = np.eye(4, dtype=np.float32) * 3
    found = distances.fit_neighbours(features, k=2)
    # To the nearest, itself, 0; to the second nearest, another corner of the unit simplex, √2.
    np.testing.assert_allclose(found(features, features), np.sqrt(2), rtol=1e-3)
    logits = np.log(np.array([[1.0, 3.0], [2.0, 6.0]]))
    np.testing.assert_allclose(distances.Energy()(logits, logits), [-np.log(4), -np.log(8)])
    assert distances.unit(np.zeros((1, 3))).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("kind", ["mahalanobis", "neighbours", "energy"])
def test_the_file_gives_the_same_familiarity_for_the_same_weights_only(kind, tmp_path):
    features, labels = two_classes()
    logits = features[:, :2]
    found = familiarity.fit((features, logits), labels, (features[::4], logits[::4]), 7, kind)
    (tmp_path / "familiarity.npz").write_bytes(found.to_bytes())
    again = familiarity.read(tmp_path, 7)
    others = two_classes(seed=3)[0]
    np.testing.assert_array_equal(found(others, others[:, :2]), again(others, others[:, :2]))
    assert familiarity.read(tmp_path, 8) is None and familiarity.read(tmp_path / "no", 7) is None
    # Images of a class that nobody has seen, except for the energy, which looks at logits only.
    if kind != "energy":
        unseen = np.zeros((20, 12), np.float32)
        unseen[:, 7] = 4.0
        assert (again(unseen, unseen[:, :2]) < 0.05).all()


def test_a_damaged_file_is_a_user_error(tmp_path):
    (tmp_path / "familiarity.npz").write_bytes(b"nothing")
    with pytest.raises(UserError, match="familiarity.npz is damaged: .*Remove it: --mode=predict then writes no"):
        familiarity.read(tmp_path, 1)


def test_wide_features_of_many_classes_fit_into_the_limit():
    rng = np.random.default_rng(0)
    some = rng.normal(size=(60, 2000)).astype(np.float32)
    found = distances.fit_mahalanobis(some, np.arange(60) % 30, 16)
    assert found.basis.shape == (2000, 16) and found.means.dtype == np.float32
    with pytest.raises(UserError, match="the means of 6000 classes of 2000 features are too large to keep"):
        distances.fit_mahalanobis(np.zeros((6000, 2000), np.float32), np.arange(6000))


@pytest.mark.parametrize("validation, why", [
    (np.zeros((0, 3), np.float32), "there is no validation image"),
    (np.full((2, 3), np.nan, np.float32), "some features are not finite"),
    (np.zeros((2, 3), np.float32), "the features of all images of a class are the same"),
])  # fmt: skip
def test_what_cannot_be_fitted(validation, why):
    training = np.ones((4, 3), np.float32)
    with pytest.raises(UserError, match=why):
        familiarity.fit((training, training), np.array([0, 0, 1, 1]), (validation, validation), 0)


def test_few_validation_images_are_told():
    few, many = (Familiarity(Given(), np.zeros(count), 0).note for count in (19, 40))
    assert few == "Familiarity goes by 19 validation images: fewer than 40, so it is coarse (steps of 0.050)."
    assert many == "Familiarity goes by 40 validation images."


def test_of_many_training_images_each_class_keeps_its_share():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    assert np.bincount(labels[spaced(labels, 100)]).tolist() == pytest.approx([60, 30, 10], abs=1)
    assert spaced(labels, 1000).tolist() == list(range(1000))


def test_predictions_have_the_columns_and_the_table_a_mark():
    rows = [
        {"path": name, "labels": ["bees"], "probabilities": [0.59], "reason": "",
         "extra": {"familiarity": value, "unknown": mark}}
        for name, value, mark in (("goldfish.jpg", "0.0066", "yes"), ("bee.jpg", "0.7300", "no"))
    ]  # fmt: skip
    assert as_csv(rows).splitlines() == [
        "path,label,probability,familiarity,unknown,reason",
        "goldfish.jpg,bees,0.590000,0.0066,yes,",
        "bee.jpg,bees,0.590000,0.7300,no,",
    ]
    assert as_table(rows).splitlines() == [
        "goldfish.jpg  UNKNOWN? (familiarity 0.0066)  bees 59.0%",
        "bee.jpg       bees 59.0%",
    ]
