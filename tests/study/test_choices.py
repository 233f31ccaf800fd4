"""Reports about choices on few validation images, and about ties."""

import pytest
from scipy import stats

from flax_augtl.study import choices
from tests.study.test_selection import row

WHERE = "top-1 accuracy on 48 validation images"


def test_tied_heads_are_reported_with_accuracy_images_and_reason():
    rows = [
        row(0.1, 0, 39 / 48, head="traditional", loss=0.7),
        row(0.1, 0, 39 / 48, head="kept", loss=0.6),
        row(0.1, 0, 0.5, head="deeper"),
    ]
    assert choices.tied(rows, "kept", WHERE) == [
        "Both heads (traditional and kept) had 81.2 % top-1 accuracy on 48 validation images; the lower loss decided for "
        "kept."
    ]


def test_equal_losses_are_reported_too():
    rows = [row(0.1, 0, 0.5, head=head) for head in ("a", "b", "c")]
    assert choices.tied(rows, "a", WHERE) == [
        "All 3 heads (a, b and c) had 50.0 % top-1 accuracy on 48 validation images; their losses were equal too (a, b and "
        "c), so a, the first of them, was chosen."
    ]


def test_ties_of_the_best_head_are_detailed_and_those_of_others_named():
    rows = [
        row(0.1, 0, 0.9, depth="none", loss=0.4),
        row(0.1, 0, 0.9, depth="fc", loss=0.3),
        row(0.2, 0, 0.9, depth="fc", loss=0.5),
        row(0.1, 0, 0.8, head="b"),
        row(0.2, 0, 0.8, head="b"),
    ]
    assert choices.tied(rows, "a", WHERE) == [
        "Of a, both depths (none and fc) had 90.0 % top-1 accuracy on 48 validation images; the lower loss decided for fc.",
        "Of a, both learning rates (0.1 and 0.2) had 90.0 % top-1 accuracy on 48 validation images; the lower loss decided "
        "for 0.1.",
        "Ties between depths or learning rates of b were decided by the loss, too.",
    ]


def test_without_ties_nothing_is_reported():
    assert choices.tied([row(0.1, 0, 0.9), row(0.2, 0, 0.8), row(0.1, 0, 0.8, head="b")], "a", WHERE) == []


@pytest.mark.parametrize("settings", [2, 3, 40])
def test_the_least_lead_is_that_of_the_exact_mcnemar_test(settings):
    lead = choices.least_lead(settings)
    assert stats.binomtest(lead, lead).pvalue * (settings - 1) <= 0.05
    assert stats.binomtest(lead - 1, lead - 1).pvalue * (settings - 1) > 0.05


def test_a_warning_about_a_small_split_has_its_numbers():
    said = choices.too_few(48, 40)
    assert said.startswith(
        "Warning: 48 validation images are too few to choose between 40 settings (heads × depths × "
        "learning rates). One image is 2.1 points, and only a lead of at least 11 images (22.9 points) "
        "is significant (exact McNemar test at 5 %, corrected for 39 comparisons). "
        "Expect ties and choices by chance. "
        "With 220 images a lead of 5 points would be significant. Use more validation images"
    )
    assert "no lead can be significant, because that takes 11 images" in choices.too_few(10, 40)


@pytest.mark.parametrize(("images", "settings"), [(220, 40), (120, 2), (5, 1)])
def test_enough_images_give_no_warning(images, settings):
    assert choices.too_few(images, settings) is None
    assert settings == 1 or choices.too_few(images - 1, settings)
