"""The tables, the verdict and the spreadsheet of a made-up study."""

import csv
import dataclasses
import io
import math
import re

import numpy as np
import pytest
from scipy import stats

from flax_augtl.config.heads import PRESETS
from flax_augtl.study.overlap import leakage
from flax_augtl.study.report import convergence, formatting, queries, spreadsheet, tables, terminal_table, verdict
from flax_augtl.study.report.page import page
from flax_augtl.study.trials import predictions
from flax_augtl.training.intervals import image_interval
from flax_augtl.training.statistics import bca_interval, holm, sign_flip_p
from tests.study import pretended


@pytest.fixture(scope="module")
def result():
    return pretended.study()


def finals(result, head, depth):
    return [
        row["test"]["mean_per_class"]
        for row in result.rows
        if (row["stage"], row["head"], row["depth"]) == ("final", head, depth)
    ]


def test_a_line_of_the_summary_is_the_winner_tested_and_compared_over_paired_seeds(result):
    lines = {line.head: line for line in tables.summary(result)}
    assert [*lines] == [*result.winners, tables.LEEP]
    line, depth = lines["kept"], result.winners["kept"]["depth"]
    values, base = finals(result, "kept", depth), finals(result, "traditional", result.winners["traditional"]["depth"])
    pairs = np.subtract(values, base)
    assert (line.test.mean, line.test.low, line.test.high) == bca_interval(values) and line.test.seeds == 6
    assert (line.difference.mean, line.difference.low, line.difference.high) == bca_interval(pairs)
    assert line.difference.p == sign_flip_p(pairs)
    assert [one.difference.adjusted for one in lines.values() if one.difference] == holm(
        [one.difference.p for one in lines.values() if one.difference]
    )
    assert line.top1.mean == pytest.approx(line.test.mean + 0.01) and (line.role, line.steps) == ("(b)", 100)
    assert lines["traditional"].difference is None and lines[tables.LEEP].difference.mean < -0.2


def test_ninety_percent_of_its_own_best_is_read_from_the_history(result):
    row = next(row for row in result.rows if row["stage"] == "select")
    row = row | {
        "history": [
            {"step": step, "examples": 80 * step, "seconds": 2.0 * step, "loss": 1.0, "val": val, "val_loss": 1.0}
            for step, val in ((0, 0.1), (10, 0.5), (20, 0.72), (30, 0.8), (40, 0.7))
        ]
    }
    assert queries.reached(result, row) == (80 * 20 / 800, 40.0)
    assert queries.reached(result, row | {"history": []}) is None


def test_the_best_rate_of_a_depth_is_chosen_by_validation_and_not_by_one_that_diverged():
    def choose(**changes):
        rows = [
            pretended.trial("select", "kept", "stem", rate, seed, value) | (changes if (rate, seed) == (0.1, 1) else {})
            for rate, value in ((0.1, 0.9), (0.01, 0.8))
            for seed in (0, 1)
        ]
        study = dataclasses.replace(pretended.study(("kept",)), rows=rows)
        return {row["learning_rate"] for row in queries.selected(study, "kept", "stem").values()}

    assert choose() == {0.1} and choose(diverged=True, val=None) == {0.01} == choose(error="stopped", val=None)


def test_two_settings_of_one_head_at_one_rate_are_not_mixed():
    rows = [
        pretended.trial("select", "random_deeper", "stem", 0.1, seed, value) for value in (0.7, 0.9) for seed in (0, 1)
    ]
    for row in rows[2:]:
        row["settings"]["classifier_rate"] = "new"
    study = dataclasses.replace(pretended.study(("random_deeper",)), rows=rows)
    found = queries.selected(study, "random_deeper", "stem")
    assert [row["val"]["mean_per_class"] for row in found.values()] == [0.9, 0.9]


def test_a_depth_that_is_all_for_a_head_has_one_name_and_is_found_by_both():
    study = pretended.study(("traditional", "kept"), ("none", "layer4", "all"), seeds=2)
    rows = [row for row in study.rows if (row["head"], row["depth"]) != ("traditional", "layer4")]
    study = dataclasses.replace(
        study,
        rows=rows,
        same_depths={"traditional": {"layer4": "all"}},
        winners={head: {**winner, "depth": "all"} for head, winner in study.winners.items()},
    )
    assert queries.depths(study, "traditional") == ("none", "all") and queries.depths(study, "kept") == study.depths
    assert queries.finals(study, "traditional", "layer4") == queries.finals(study, "traditional", "all") != {}
    lines = {(line.head, line.depth): line for line in tables.by_depth(study)}
    assert [*lines] == [
        ("traditional", "none"),
        ("traditional", "all"),
        ("kept", "none"),
        ("kept", "layer4"),
        ("kept", "all"),
    ]
    # At layer4, the kept head is compared with the traditional head that is frozen up to layer4.
    assert lines["kept", "layer4"].difference.seeds == 2
    assert verdict(study)[0].startswith(
        "Validation chose the head kept, with everything below the new layers frozen (all)"
    )


def test_depths_are_compared_after_trainings_of_one_length():
    """With 360 steps at one depth and 30 at another, only their common length compares the depths."""

    def trial(depth, steps, value):
        return pretended.trial("select", "kept", depth, 0.01, 0, value, steps=steps)

    rows = [trial("layer3", 30, 0.6), trial("layer3", 360, 0.9), trial("none", 30, 0.5)]
    study = dataclasses.replace(
        pretended.study(("kept",), seeds=1),
        rows=rows,
        best="kept",
        leep=None,
        winners={"kept": {"depth": "layer3", "learning_rate": 0.01, "steps": 360}},
    )
    said = " ".join(verdict(study))
    assert "kept at depth layer3 is at +10.0 points compared with the worst depth (none), both after 30 steps. " in said
    assert [row["steps"] for row in queries.selected(study, "kept", "layer3").values()] == [360]
    apart = dataclasses.replace(study, rows=rows[1:])
    assert "kept was not trained equally long at layer3 and at none, so these depths are not compared." in verdict(
        apart
    )


def test_the_rate_of_new_layers_stands_beside_that_of_pretrained_ones():
    study = pretended.study(("traditional", "kept"), ("none", "stem"), 1)
    study = dataclasses.replace(study, config={**study.config, "new_layer_multiplier": 10.0})
    assert "(learning rate 0.003, of new layers 0.03, 100 steps)" in verdict(study)[0]
    assert "0.003, new 0.03" in page(study) and re.search(r"stem +0\.003/0\.03 +100", terminal_table(study))
    row = next(csv.DictReader(io.StringIO(spreadsheet.study_csv(study))))
    assert (float(row["learning_rate"]), float(row["new_layers_learning_rate"])) == (0.003, 0.03)


def test_a_training_that_was_still_improving_is_reported(result):
    assert not [sentence for sentence in verdict(result) if sentence.startswith("Validation was still")]
    study = pretended.study(("traditional", "kept"), ("none", "stem"), 2)
    for row in study.rows:
        for index, point in enumerate(row["history"]):
            if row["stage"] == "select" and row["head"] == "kept" and row["depth"] == "none":
                point["val_loss"] = 2.0 - 0.15 * index
    said = " ".join(verdict(study))
    assert "Validation was still improving when the training ended: kept at none (100 steps). Longer trainings" in said
    assert "raise config.epochs or config.steps." in said
    rows = csv.DictReader(io.StringIO(spreadsheet.study_csv(study)))
    assert {(row["head"], row["depth"]) for row in rows if row["still_rising"] == "True"} == {("kept", "none")}


@pytest.mark.slow
def test_what_the_budget_left_out_and_was_spent_on_is_in_the_report(result):
    left_out = ("No time was left for the depth none.",)
    study = dataclasses.replace(result, left_out=left_out, account={"final trainings": 75.0})
    assert "No time was left for the depth none." in verdict(study)
    assert re.search(r"time budget: final trainings</th><td[^>]*>1:15<", page(study))


@pytest.mark.slow
def test_fewer_than_six_seeds_show_no_significance():
    few, enough = (pretended.study(("traditional", "kept"), ("none", "stem"), seeds) for seeds in (5, 6))
    for text in (terminal_table(few), " ".join(verdict(few)), page(few)):
        assert ("so no difference can be significant" in text or "too few for a significant result" in text) and (
            "cannot be below 0.062" in text
        )
    for text in (terminal_table(enough), " ".join(verdict(enough)), page(enough)):
        assert "no significance" not in text
    assert "p = 0.031 with 6 seeds" in " ".join(verdict(enough))


def mcnemar(study, head, other, seed=0):
    """Return (better, worse): the number of images that only one head, or only the other, classifies correctly."""
    labels = np.array(study.tests[seed]["label"])
    right = [
        predictions.read(
            next(
                row
                for row in study.rows
                if (row["stage"], row["head"], row["seed"], row["depth"])
                == ("final", name, seed, study.winners[name]["depth"])
            )
        )
        == labels
        for name in (head, other)
    ]
    return int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())


def test_one_seed_has_an_interval_over_images_and_the_exact_mcnemar_test():
    study = dataclasses.replace(pretended.study(("traditional", "kept"), seeds=1), metric="top1")
    line = tables.summary(study)[1]
    better, worse = mcnemar(study, "kept", "traditional")
    assert line.difference.images.p == pytest.approx(stats.binomtest(better, better + worse).pvalue)
    assert line.difference.images.adjusted == line.difference.images.p  # LEEP's predictor has no p here.
    right = predictions.read(next(iter(queries.finals(study, "kept", line.depth).values()))) == study.tests[0]["label"]
    assert (line.test.images.low, line.test.images.high) == image_interval(right, np.ones(500))[1:]
    assert math.isnan(line.test.low) and line.test.images.images == 500
    said = verdict(study)
    ends = formatting.over_images(line.test)
    assert (
        f"(one seed, so how much another seed would differ is not known; 95 % interval over the 500 test images {ends})"
        in said[0]
    )
    assert f"Over the 500 test images, for these networks: {formatting.over_images(line.difference)}, p = " in said[1]
    assert "(exact McNemar test)" in said[1]


def test_below_six_seeds_each_value_is_shown():
    few, enough = (pretended.study(("traditional", "kept"), seeds=seeds) for seeds in (2, 6))
    line = tables.summary(few)[1]
    values = ", ".join(f"{100 * value:.1f}" for value in finals(few, "kept", line.depth))
    assert math.isnan(line.test.low) and math.isnan(line.difference.low) and formatting.over_seeds(line.test) == values
    assert f"(2 seeds: {values}, too few for an interval over seeds; 95 % interval over the 500 test" in verdict(few)[0]
    assert f"points (by seed: {formatting.over_seeds(line.difference)}) compared with traditional" in verdict(few)[1]
    assert values in terminal_table(few) and "With 2 seeds it is not known which differences" in " ".join(verdict(few))
    assert "95 % interval over 6 seeds [" in verdict(enough)[0]


def test_the_mean_over_classes_has_the_interval_of_its_classes(result):
    line = tables.summary(result)[0]
    labels = np.array(result.tests[0]["label"])
    right = sum(
        (predictions.read(row) == labels).astype(int)
        for row in queries.finals(result, "traditional", line.depth).values()
    )
    assert (line.test.images.low, line.test.images.high) == image_interval(right, np.full(500, 6), labels)[1:]


def test_seeds_with_other_test_images_are_joined_by_image():
    """Two seeds have half of their test images in common: 750 images in all."""
    study = pretended.study(("traditional", "kept"), seeds=2)
    study.tests[1]["id"][:250] = [f"others/{i}.jpg" for i in range(250)]
    line = tables.summary(study)[1]
    assert line.test.images.images == line.difference.images.images == 750


@pytest.mark.parametrize("change", [{"predicted": None}, {"predicted": "0 1 2"}])
def test_without_predictions_the_report_says_that_there_is_no_interval_over_images(change):
    study = pretended.study(("traditional", "kept"), seeds=2)
    for row in study.rows:
        row.update(change)
    absent = "no interval over test images, because an earlier version did not save the predictions"
    assert tables.summary(study)[1].test.images is None and absent in verdict(study)[0] and absent in page(study)
    assert absent[1:] in terminal_table(study)


def test_ties_and_few_validation_images_are_in_the_verdict(result):
    assert verdict(dataclasses.replace(result, choices=("Both heads had 81.2 %.",)))[1] == "Both heads had 81.2 %."


def test_the_verdict_names_depth_head_size_and_uncertainty(result):
    said = verdict(result)
    line = {line.head: line for line in tables.summary(result)}["kept_deeper2"]
    assert said[0].startswith(
        "Validation chose the head kept_deeper2, frozen up to and including layer2 (learning rate"
    )
    assert f"reaches {100 * line.test.mean:.1f} % mean per-class accuracy" in said[0]
    assert said[1].startswith(f"On the test split, {line.head} is at +{100 * line.difference.mean:.1f} points [")
    equal = pretended.study(("traditional", "kept"), seeds=6)
    for row in equal.rows:
        row.update({split: pretended.metrics(0.8 + 0.01 * row["seed"]) for split in ("val", "test") if row[split]})
    assert "not significant with 6 seeds (p = 1.000)" in " ".join(verdict(equal))
    assert "Within one standard error of it: none, stem, layer1" in " ".join(verdict(equal))
    assert "freezing up to fc takes the least computing time" in " ".join(verdict(equal))


def test_if_traditional_wins_the_verdict_says_by_how_much(result):
    said = " ".join(verdict(dataclasses.replace(result, best="traditional")))
    assert "The best of the other heads on the test split is kept_deeper2, at +" in said
    assert "suggestive, not significant" in said


def test_a_head_that_was_not_tested_is_no_comparison(result):
    rows = [row for row in result.rows if row["stage"] == "select" or row["head"] == "traditional"]
    said = verdict(dataclasses.replace(result, rows=rows, best="traditional", leep=None))
    assert "No other head was tested." in said


def test_the_questions_compare_the_heads_that_answer_them(result):
    asked = {(head, other): difference for _, head, other, difference in tables.questions(result)}
    assert set(asked) == {("kept", "traditional"), ("kept_deeper", "kept"), ("kept_deeper2", "kept_deeper")}
    lines = {line.head: line for line in tables.summary(result)}
    assert asked["kept", "traditional"].mean == pytest.approx(lines["kept"].difference.mean)


def test_heads_are_recognized_by_their_settings_too(result):
    rows = [pretended.trial("select", "mine", "stem", 0.1, 0, 0.5)]
    rows[0]["settings"] = {
        **dataclasses.asdict(PRESETS["random_deeper"]),
        "new_layers": [1024],
        "classifier_rate": "new",
    }
    study = dataclasses.replace(result, rows=rows)
    assert tables.role(study, "mine") == "control" and tables.role(result, "kept_deeper2") == "(d)"
    rows[0]["settings"]["scale"] = 20.0
    assert tables.role(study, "mine") == ""
    assert tables.role(result, "scratch") == "control"
    assert set(tables.ROLES) - {"scratch"} <= set(PRESETS)


def test_the_spreadsheet_has_a_row_for_each_trial_and_every_number(result):
    rows = list(csv.DictReader(io.StringIO(spreadsheet.study_csv(result))))
    assert [row["cell"] for row in rows] == [row["cell"] for row in result.rows]
    for row, trial in zip(rows, result.rows, strict=True):
        split, other = ("val", "test") if trial["stage"] == "select" else ("test", "val")
        assert float(row[f"{split}_mean_per_class"]) == trial[split]["mean_per_class"] and row[f"{other}_top1"] == ""
        assert (row["seed"], row["keep_classifier"]) == (str(trial["seed"]), str(trial["settings"]["keep_classifier"]))
        assert int(row["trainable_parameters"]) == trial["trainable"] and int(row["examples_seen"]) == 3200
        assert row["test_precision"] == ("" if trial["stage"] == "select" else str(trial["test"]["precision"]))
        assert bool(row["epochs_to_90_percent"]) == bool(row["seconds_to_90_percent"]) == (trial["stage"] == "select")
    assert {row["new_layers"] for row in rows} == {"", "1024", "2048 1024"}


def test_the_terminal_table_fits(result):
    many = pretended.study((*PRESETS, "a head of my own with a very long name"), seeds=3)
    for text in (terminal_table(result), terminal_table(many)):
        assert max(map(len, text.splitlines())) <= 126
    table = terminal_table(result)
    assert re.search(r"\(d\) +\*kept_deeper2 +layer2 +0.003 +100 +\d\d\.\d \[\d\d\.\d, \d\d\.\d\]", table)


def test_a_head_that_lacks_seeds_is_compared_over_those_it_has():
    study = pretended.study(("traditional", "kept"), finals_by_depth=False)
    for row in study.rows:
        if row["stage"] == "final" and row["head"] == "kept" and row["seed"] < 2:
            row.update(test=None, error="out of memory")
    line = tables.summary(study)[1]
    kept = finals_of = {
        row["seed"]: row["test"]["mean_per_class"]
        for row in study.rows
        if row["stage"] == "final" and row["head"] == "kept" and row["test"]
    }
    base = {
        row["seed"]: row["test"]["mean_per_class"]
        for row in study.rows
        if row["stage"] == "final" and row["head"] == "traditional"
    }
    assert len(finals_of) == 4 == line.difference.seeds
    assert line.difference.mean == pytest.approx(np.mean([kept[seed] - base[seed] for seed in kept]))
    assert "2 failed" in " ".join(verdict(study)) and "out of memory" in page(study)


def test_leakage_is_reported_by_dataset_and_by_class_name():
    from flax_augtl.pretrained.class_names import imagenet_names

    assert "made of ImageNet images" in leakage("stanford_dogs", ("a",), imagenet_names())[0]
    assert "shares classes" in leakage("oxford_iiit_pet", ("a",), ())[0]
    assert leakage("stanford_dogs", ("a",), ("class 0", "class 1")) == ()
    (sentence,) = leakage("folder", ("Great_White-Shark", "tench", "other"), imagenet_names())
    assert sentence == (
        "2 of the 3 target classes have names of source classes, so a kept classification layer already "
        "knows "
        "them and has an advantage: Great_White-Shark, tench."
    )


def test_formats_of_numbers():
    assert [formatting.points(value) for value in (0.0123, -0.0123, 0.0001, -0.0001)] == ["+1.2", "−1.2", "0.0", "0.0"]
    assert formatting.percent(None) == formatting.percent(math.nan) == "–" and formatting.percent(0.8765) == "87.6"
    assert formatting.probability(0.0001) == "<0.001" and formatting.seconds(300) == "5:00"


def with_norms(*names):
    """A study of `kept` with further norms and scales, the last one best."""
    made = pretended.study(("traditional", "kept_plain", "kept", *names), ("layer4", "fc"))
    for row in made.rows:
        if row["head"] in names:
            _, norm, scale = row["head"].split(".")
            row["settings"] |= {"norm": norm, "scale": float(scale)}
    return made


def test_normalising_and_scaling_is_answered_by_the_norm_and_scale_that_validation_chose():
    study = with_norms("kept.l2.1", "kept.power.1", "kept.power.20")
    asked = {text: (head, other, difference) for text, head, other, difference in tables.questions(study)}
    head, other, difference = asked[
        "Does normalising and scaling help (kept_plain; validation chose the norm and scale)?"
    ]
    assert (head, other) == ("kept.power.20", "kept_plain")
    depths = {name: study.winners[name]["depth"] for name in (head, other)}
    pairs = np.subtract(finals(study, head, depths[head]), finals(study, other, depths[other]))
    assert (difference.mean, difference.low, difference.high) == bca_interval(pairs)
    scaled = asked["… and scaling alone (kept_plain, power; validation chose the scale, against 1)?"]
    assert scaled[:2] == ("kept.power.20", "kept.power.1")
    assert [*asked.values()][-1][2].adjusted >= difference.p


def test_a_pair_that_is_asked_about_anyway_is_asked_about_once():
    asked = [
        (head, other) for _, head, other, _ in tables.questions(pretended.study(("traditional", "kept_plain", "kept")))
    ]
    assert asked.count(("kept", "kept_plain")) == 1


def test_convergence_is_measured_against_the_final_accuracy_and_paired(result):
    rows = queries.selected(result, "kept", result.winners["kept"]["depth"])
    # A made-up curve is value · (1 − 0.5^k) at step 10 k, and ends at k = 10.
    for share, evaluation in ((0.9, 4), (0.95, 5)):
        for row in rows.values():
            epochs, seconds = queries.reached(result, row, share, final=True)
            point = row["history"][evaluation - 1]
            assert (epochs, seconds) == (point["examples"] / result.counts["train"], point["seconds"])
    paces = {(pace.head, pace.share): pace for pace in convergence.convergence(result)}
    assert len(paces) == 2 * len(result.winners)
    assert paces["traditional", 0.9].more_epochs is None
    kept, base = paces["kept", 0.95], paces["traditional", 0.95]
    assert kept.more_seconds.mean == pytest.approx(kept.seconds.mean - base.seconds.mean)
    assert kept.more_epochs.mean == 0 and kept.more_epochs.p == 1
    assert kept.more_seconds.adjusted >= kept.more_seconds.p


def test_a_curve_that_falls_at_the_end_reaches_its_final_accuracy_earlier(result):
    row = next(row for row in result.rows if row["stage"] == "select")
    values = (0.5, 0.8, 0.9, 0.6)
    points = [
        {"step": k, "examples": 80 * k, "seconds": float(k), "loss": 1.0, "val": value, "val_loss": 1.0}
        for k, value in enumerate(values, 1)
    ]
    assert queries.reached(result, row | {"history": points}, 0.9)[1] == 3.0
    assert queries.reached(result, row | {"history": points}, 0.9, final=True)[1] == 2.0


@pytest.mark.slow
def test_convergence_has_a_section_and_columns(result):
    assert "<h2>Convergence</h2>" in page(result) or ">Convergence<" in page(result)
    first = next(csv.DictReader(io.StringIO(spreadsheet.study_csv(result))))
    assert float(first["seconds_to_95_percent_of_final"]) > float(first["seconds_to_90_percent_of_final"]) > 0
