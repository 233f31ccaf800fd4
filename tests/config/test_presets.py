"""What a study preset decides, and what a field that is given beside it does."""

import pytest

from configs import caltech101, common, digits
from flax_augtl.config import presets
from flax_augtl.config.convert import typed
from flax_augtl.config.presets import as_begun, resolved
from flax_augtl.config.study_config import StudyConfig


def study_of(config=None, **fields):
    config = config or common.get_config()
    config.study.update(fields)
    return resolved(typed(config).study)


def test_quick_has_one_seed_and_ten_minutes():
    study = study_of()
    assert (study.seeds, study.selection_seeds, study.minutes, study.search) == ((0,), 0, 10.0, "budget")
    assert (study.learning_rates, study.finals, study.views) == ((0.0003, 0.001, 0.003, 0.01, 0.03), "winners", 4)


@pytest.mark.parametrize("preset", ["", "paper", "controls", "full"])
def test_the_others_have_six_seeds_and_no_time_budget(preset):
    study = study_of(preset=preset)
    assert (study.seeds, study.minutes, study.search) == ((0, 1, 2, 3, 4, 5), 0.0, "grid")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"seeds": (0, 1)}, {"seeds": (0, 1), "minutes": 10.0}),
        ({"seeds": [3]}, {"seeds": (3,)}),
        ({"selection_seeds": 2}, {"seeds": (0, 1), "selection_seeds": 2}),
        ({"learning_rates": (0.1,)}, {"learning_rates": (0.1,)}),
        ({"depths": ("layer2", "all")}, {"depths": ("layer2", "all"), "search": "budget"}),
        ({"finals": "depths"}, {"finals": "depths"}),
        ({"heads": ("kept",)}, {"heads": ("kept",)}),
        ({"views": 2}, {"views": 2}),
        ({"minutes": 3}, {"minutes": 3.0, "search": "budget"}),
        ({"minutes": 0}, {"minutes": 0.0, "search": "grid"}),
        ({"search": "halving"}, {"minutes": 0.0, "search": "halving"}),
        ({"search": "grid"}, {"minutes": 0.0, "search": "grid"}),
        ({"search": "budget"}, {"minutes": 10.0, "search": "budget"}),
    ],
)
def test_a_field_that_is_given_beside_quick_is_used(given, found):
    study = study_of(**given)
    assert {name: getattr(study, name) for name in found} == found


def test_any_preset_can_have_a_time_budget():
    study = study_of(preset="paper", minutes=60)
    assert (study.minutes, study.search, len(study.seeds)) == (60.0, "budget", 6)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"search": "grid", "minutes": 5},
            r"config.study.search='grid' keeps no time budget, but config.study.minutes=5. Set "
            "one of the two only.",
        ),
        ({"search": "halving", "minutes": 5}, "config.study.search='halving' keeps no time budget"),
        (
            {"search": "budget", "minutes": 0},
            "config.study.search='budget' needs a time budget: set config.study.minutes",
        ),
        ({"search": "budget", "preset": "paper"}, "config.study.search='budget' needs a time budget"),
        (
            {"seeds": (0, 1), "selection_seeds": 3},
            r"config.study.selection_seeds=3 is above the number of config.study.seeds="
            r"\(0, 1\). Give more seeds, or lower it.",
        ),
        ({"search": "random"}, "config.study.search='random' is not one of grid, halving, budget."),
        ({"finals": "all"}, "config.study.finals='all' is not one of winners, depths."),
        ({"preset": "papers"}, "config.study.preset='papers' is not one of quick, paper, controls, full."),
    ],
)
def test_fields_that_exclude_each_other_are_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        study_of(**given)


def test_what_is_resolved_stays_so_and_the_given_configuration_is_not_changed():
    study = StudyConfig()
    once = resolved(study)
    assert study.seeds is None and resolved(once) == once


def test_the_configurations_that_come_along_mean_what_they_meant():
    study = study_of(digits.get_config())
    assert (study.heads, study.depths, study.selection_seeds, study.minutes) == (
        ("scratch",),
        ("none", "layer2", "all"),
        2,
        0.0,
    )
    assert study.learning_rates == (0.003, 0.01, 0.03) and study.seeds == (0, 1, 2, 3, 4, 5)
    study = study_of(caltech101.get_config())
    assert (study.heads, study.depths, study.finals) == (("kept_deeper2",), ("layer4", "all"), "depths")


@pytest.mark.parametrize(
    ("fields", "seeds", "selecting"),
    [
        ({"preset": "quick"}, (0,), None),
        ({"preset": "paper"}, (0, 1, 2, 3, 4, 5), None),
        ({"preset": "quick", "selection_seeds": 2}, (0,), 1),
        ({"seeds": (0, 1)}, (0, 1), None),
    ],
)
def test_a_study_of_an_earlier_version_keeps_its_seeds(fields, seeds, selecting):
    study = as_begun(StudyConfig(**fields), {"study": {"preset": "quick"}})
    assert (study.seeds, study.selection_seeds) == (seeds, selecting)


def test_a_study_with_a_budget_is_no_earlier_version():
    assert as_begun(StudyConfig(), {"study": {"minutes": 10.0}}).seeds is None
    assert set(presets.STUDIES) == {"quick", "paper", "controls", "full", "rivals"}
