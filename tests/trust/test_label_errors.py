"""Wrong labels: confident learning on a planted set, and out-of-fold predictions against fits of each fold."""

import numpy as np
import pytest

from flax_augtl.trust import copies, inspection, linear_head, typicality
from flax_augtl.trust.label_errors import estimated_errors, label_errors


def clusters(per_class=20, classes=4, width=16, seed=0):
    """Features around one direction for each class, and the true labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    centres = np.linalg.qr(rng.normal(size=(width, width)))[0][:classes]
    return centres[labels] + 0.08 * rng.normal(size=(len(labels), width)), labels


def test_planted_labels_come_first_with_the_true_label_as_suggestion():
    features, true = clusters()
    planted = np.array([3, 25, 44, 61, 70])
    labels = true.copy()
    labels[planted] = (true[planted] + 1) % 4
    _, found, _ = inspection.inspect_features(features, labels, 4)
    assert np.flatnonzero(found.suspected).tolist() == planted.tolist()
    assert sorted(found.ranking()[:5].tolist()) == planted.tolist()
    assert found.suggestion[planted].tolist() == true[planted].tolist()


def test_as_many_labels_are_suspected_as_are_estimated_to_be_wrong_in_the_order_of_their_probability():
    probabilities = np.array(
        [[0.90, 0.10], [0.80, 0.20], [0.45, 0.55], [0.05, 0.95], [0.30, 0.70], [0.10, 0.90], [0.80, 0.20]]
    )
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    # Class 0 is confident from 0.55 and class 1 from 0.6. So images 0, 1, 3 and 4, 5, 6 count, and of each three one is
    # off the diagonal: 1/3 of 4 labels and 1/3 of 3 labels are wrong, which is 2.3.
    assert estimated_errors(probabilities, labels) == 2
    found = label_errors(probabilities, labels)
    assert found.suspected.tolist() == [False, False, False, True, False, False, True]
    assert found.suggestion.tolist() == [0, 0, 0, 1, 1, 1, 0]
    assert found.ranking().tolist() == [3, 6, 2, 4, 1, 0, 5]
    np.testing.assert_allclose(found.score, [0.1, 0.2, 0.55, 0.95, 0.3, 0.1, 0.8], rtol=1e-6)


def test_a_label_that_is_the_likeliest_class_is_not_suspected(monkeypatch):
    monkeypatch.setattr("flax_augtl.trust.label_errors.estimated_errors", lambda *_: 2)
    probabilities = np.array([[0.34, 0.33, 0.33], [0.9, 0.1, 0.0], [0.56, 0.4, 0.04], [0.0, 0.1, 0.9]])
    assert label_errors(probabilities, np.array([0, 0, 1, 2])).suspected.tolist() == [False, False, True, False]


def test_classes_without_images_do_not_count():
    probabilities = np.array([[0.2, 0.1, 0.7], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1]])
    assert estimated_errors(probabilities, np.array([0, 0, 1, 1])) == 0


def test_predictions_out_of_fold_are_those_of_heads_fitted_on_the_other_folds():
    from sklearn.linear_model import Ridge

    features, labels = clusters(per_class=8, width=6)
    fold = np.arange(len(labels)) % 3
    found = linear_head.out_of_fold(features, labels, 4, fold)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    penalty = linear_head._penalty(centred, np.eye(4)[labels])
    scores = np.zeros_like(found)
    for number in range(3):
        held = fold == number
        scores[held] = Ridge(penalty).fit(unit[~held], np.eye(4)[labels[~held]]).predict(unit[held])
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    # The softmax adds a number to each row and multiplies all by one.
    logits = np.log(found) - np.log(found).mean(1, keepdims=True)
    wanted = scores - scores.mean(1, keepdims=True)
    slope = (logits * wanted).sum() / (wanted * wanted).sum()
    np.testing.assert_allclose(logits, slope * wanted, atol=2e-4 * slope)


def test_fewer_images_than_features_give_the_same_predictions_as_a_rotation_of_them():
    features, labels = clusters(per_class=4, width=40)
    fold = np.arange(16) % 4
    once = linear_head.out_of_fold(features, labels, 4, fold)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0]
    np.testing.assert_allclose(linear_head.out_of_fold(features @ rotation, labels, 4, fold), once, atol=1e-5)


def test_folds_spread_classes_evenly_and_keep_groups_together():
    labels = np.repeat(np.arange(3), 10)
    groups = np.arange(30)
    groups[5] = 4
    fold = linear_head.folds_of(labels, groups, 5)
    assert fold[4] == fold[5]
    counts = [np.bincount(fold[labels == label], minlength=5) for label in range(3)]
    assert np.max(counts) <= 3 and np.min(counts) >= 1
    assert fold.tolist() == linear_head.folds_of(labels, groups, 5).tolist()


def test_two_copies_with_the_same_wrong_label_do_not_confirm_each_other():
    features, true = clusters(per_class=10)
    labels = true.copy()
    labels[[0, 1]] = 2
    features[1] = features[0]
    pair = copies.CopyPair(0, 1, 0, False, True)
    _, found, _ = inspection.inspect_features(features, labels, 4, [pair])
    assert np.flatnonzero(found.suspected).tolist() == [0, 1]


def test_groups_are_the_connected_pairs():
    pairs = [copies.CopyPair(0, 2, 1, False, False), copies.CopyPair(2, 5, 1, False, False)]
    groups = copies.groups_of(pairs, 6)
    assert groups[0] == groups[2] == groups[5] and len({*groups.tolist()}) == 4
    assert len({*copies.groups_of([], 3).tolist()}) == 3


def test_an_image_far_from_its_class_is_unlike_it():
    features, labels = clusters(per_class=20)
    odd = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0][9]
    features[7] = odd
    found = typicality.typicality(features, labels)
    assert found.argmin() == 7 and found[7] < typicality.UNLIKE
    assert np.count_nonzero(found < typicality.UNLIKE) < 4
    np.testing.assert_allclose([np.median(found[labels == label]) for label in range(4)], 0, atol=1e-4)


@pytest.mark.parametrize("labels", [[0, 1, 1, 1], [0, 1, 2, 3]])
def test_an_image_alone_in_its_class_is_neither_typical_nor_not(labels):
    assert typicality.typicality(np.eye(4) + 0.1, np.array(labels))[0] == 0
