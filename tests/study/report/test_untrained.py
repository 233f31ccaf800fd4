"""The scores without training of a report, and their rank correlations."""

import dataclasses

import pytest

from flax_augtl.study.report import queries
from flax_augtl.study.report.page import page
from flax_augtl.study.report.untrained import accuracies, rank_correlation, untrained_section
from tests.study import pretended


@pytest.fixture(scope="module")
def result():
    made = pretended.study()
    frozen = list(accuracies(made, "traditional"))
    return dataclasses.replace(
        made, untrained={depth: {"logme": float(i), "h_score": 2.0} for i, depth in enumerate(frozen[1:])}
    )


def test_the_accuracies_are_those_of_the_best_rate_at_each_depth(result):
    found = accuracies(result, "kept")
    for depth in queries.depths(result, "kept"):
        rows = queries.selected(result, "kept", depth).values()
        if rows:
            frozen = next(iter(rows)).get("frozen", depth)
            assert found[frozen] == pytest.approx(sum(row["val"][row["metric"]] for row in rows) / len(rows))


@pytest.mark.slow
def test_the_table_has_a_row_for_each_depth_with_a_score(result):
    text = str(untrained_section(result))
    assert text in str(page(result)) and "Scores without training" in str(page(result))
    for depth, scores in result.untrained.items():
        assert f"{scores['logme']:.3f}" in text and depth in text
    scores, measured = list(result.untrained), accuracies(result, "traditional")
    expected = rank_correlation(range(len(scores)), [measured[depth] for depth in scores])
    assert expected is not None and f"{expected:+.2f}".replace("-", "−") in text


def test_rank_correlation_is_of_ranks_and_needs_three_depths():
    assert rank_correlation([1, 10, 100], [0.1, 0.2, 0.9]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2], [1, 2]) is None and rank_correlation([1, 1, 1], [1, 2, 3]) is None


def test_without_kept_activations_there_is_no_section():
    assert str(untrained_section(pretended.study())) == ""
