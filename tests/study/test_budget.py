"""The time budget of a study: how time is counted, what is trained, and in which order."""

import json
import re
import types

import numpy as np
import pytest

from configs import common
from flax_augtl.config.convert import typed
from flax_augtl.study import budget as module
from flax_augtl.study import budget_study
from flax_augtl.study.budget import Budget
from flax_augtl.study.budget_candidates import order_of
from flax_augtl.study.budget_choices import choices, final_trials, found_before, train_finals
from flax_augtl.study.budget_plan import describe
from flax_augtl.study.budget_search import Search
from flax_augtl.study.grid import Trial, make_grid

RESNET = ("stem", "layer1", "layer2", "layer3", "layer4", "fc")
# Seconds of a step at each depth, about those of a ResNet-18 at 224 pixels on two cores.
STEP = {"none": 4.0, "stem": 3.8, "layer1": 2.6, "layer2": 1.7, "layer3": 1.0, "layer4": 0.01, "fc": 0.01}
TOTAL = 160


class Clock:
    """A budget whose time passes only during trainings."""

    planned, depths = False, ()

    def __init__(self, minutes):
        self.seconds = self.now = 60.0 * minutes

    def left(self):
        return self.now

    def report(self):
        return 20.0

    def save(self):
        pass


class FakeWork:
    """Pretends to train; deeper and longer trainings are better and take longer."""

    def __init__(self, grid, clock, merit=lambda trial, steps: 0.0, slower=1.0):
        self.grid, self.clock, self.merit, self.slower, self.trained = grid, clock, merit, slower, {}
        # How many times longer than expected the trainings of a depth take, and the depths for which that was noticed.
        self.grows, self.seen = {}, {}
        self.context = types.SimpleNamespace(schedule=self._schedule, grid=grid)
        seconds = {" ".join(group): TOTAL * STEP[group[1]] for group in grid.groups()}
        self.times = types.SimpleNamespace(timed=types.SimpleNamespace(trial_seconds=seconds, row_seconds=0.02))

    def _schedule(self, trial):
        return np.zeros(trial.steps or TOTAL), 16

    def row(self, trial):
        return self.trained.get(trial.name)

    def expected(self, trials, *, compilation=True):
        missing = [trial for trial in trials if trial.name not in self.trained]
        return sum((trial.steps or TOTAL) * STEP[trial.depth] * self.seen.get(trial.depth, 1.0) for trial in missing)

    def do(self, trials, room=None):
        for trial in trials:
            if trial.name in self.trained:
                continue
            self.seen |= {depth: grows for depth, grows in self.grows.items() if depth == trial.depth}
            seconds = self.slower * self.expected([trial])
            if room is not None and seconds > room():  # It is noticed after the first step.
                self.clock.now -= seconds / (trial.steps or TOTAL)
                continue
            self.clock.now -= seconds
            steps = trial.steps or TOTAL
            value = 0.5 + self.merit(trial, steps)
            self.trained[trial.name] = {
                "cell": trial.name,
                "head": trial.head,
                "depth": trial.depth,
                "classifier_rate": trial.classifier_rate,
                "learning_rate": trial.learning_rate,
                "seed": trial.seed,
                "steps": steps,
                "best_step": steps,
                "metric": "top1",
                "val": {"top1": value, "loss": 1 - value},
                "history": [],
                "diverged": False,
            }
        return [self.trained[trial.name] for trial in trials if trial.name in self.trained]


def grid_of(**study):
    config = common.get_config()
    config.study.update(study)
    return make_grid(typed(config), RESNET, pretrained=True, classifier=True)


def search(minutes, own="layer3", merit=lambda trial, steps: 0.0, slower=1.0, **study):
    grid, clock = grid_of(**study), Clock(minutes)
    work = FakeWork(grid, clock, merit, slower)
    return Search(grid, work, clock, own, reserved=30.0), work, clock


def better_below(trial, steps):
    """Return a merit: training more layers and longer is better, and the rate 0.003 is best."""
    trained = RESNET.index(trial.depth) if trial.depth in RESNET else -1
    return 0.05 * (5 - trained) * (trained >= 3) + 0.0001 * steps - 0.01 * abs(np.log(trial.learning_rate / 0.003))


def test_depths_are_tried_from_all_downwards_and_that_of_the_config_early():
    assert order_of(grid_of(), "layer3") == ["all", "layer3", "layer4", "layer2", "layer1", "stem", "none"]
    assert order_of(grid_of(), "none")[:3] == ["all", "none", "layer4"]
    assert order_of(grid_of(), "all")[:3] == ["all", "layer4", "layer3"]
    assert order_of(grid_of(depths=("none", "fc", "layer2")), "layer3") == ["fc", "layer2", "none"]


@pytest.mark.parametrize("minutes", [1, 2, 5, 10, 30, 240])
@pytest.mark.parametrize("slower", [1.0, 1.3])
def test_a_search_stays_within_its_budget(minutes, slower):
    """The reserve stays; trainings that take longer than expected use it up first."""
    one, work, clock = search(minutes, merit=better_below, slower=slower)
    found = one.run()
    rows, _ = train_finals(work, clock, final_trials(one.grid, found, by_depth=False))
    assert rows and clock.now >= -0.2 * clock.seconds
    assert found.best in found.chosen


@pytest.mark.parametrize("minutes", [5, 10, 30])
def test_a_training_that_would_take_the_rest_of_the_time_is_stopped(minutes):
    one, work, clock = search(minutes, merit=better_below)
    work.grows = {"layer3": 10.0}
    found = one.run()
    rows, _ = train_finals(work, clock, final_trials(one.grid, found, by_depth=False))
    assert rows and clock.now >= -0.2 * clock.seconds
    assert {trial.name for trial in found.trials} == {row["cell"] for row in found.rows}
    assert any(row["depth"] == "layer3" for row in found.rows) == (minutes > 5)
    if minutes == 5:
        assert found.left_out[-1] == (
            "Stopped, because they would have taken longer than the time that was left: traditional at layer3 with the "
            "learning rate 0.003 (18 steps), kept_deeper at layer3 with the learning rate 0.003 (18 steps)."
        )


def test_the_reserve_grows_if_the_pass_over_the_images_was_slow(tmp_path):
    budget = Budget(tmp_path, 10.0, 0.0)
    assert budget.report() == 24.0
    budget.slowness = 2.0
    assert budget.report() == 48.0
    budget.slowness = 50.0
    assert budget.report() == 72.0


def test_a_few_minutes_try_and_choose_the_depth_of_the_config():
    one, _, _ = search(7, merit=better_below)
    found = one.run()
    assert {head: (choice["depth"], choice["learning_rate"]) for head, choice in found.chosen.items()} == {
        "traditional": ("layer3", 0.003),
        "kept_deeper": ("layer3", 0.003),
    }
    tried = {(trial.head, trial.depth) for trial in found.trials}
    assert (
        ("traditional", "layer3") in tried and ("kept_deeper", "fc") in tried and ("traditional", "none") not in tried
    )
    assert found.left_out[0] == "No time was left for the depths layer2, layer1, stem, none."
    assert "Not every head and learning rate was tried at layer3." in found.left_out


def test_more_time_goes_further_down_and_trains_longer():
    few, many = (search(minutes, merit=better_below)[0].run() for minutes in (10, 600))
    assert {trial.depth for trial in few.trials} < {trial.depth for trial in many.trials} == {"none", *RESNET}
    assert max(row["steps"] for row in few.rows) < max(row["steps"] for row in many.rows) == TOTAL
    assert many.left_out == []


def test_the_best_third_continues_three_times_as_long():
    one, _, _ = search(600, heads=(), depths=("all",), merit=better_below)
    found = one.run()
    rates = {
        steps: {row["learning_rate"] for row in found.rows if row["head"] == "traditional" and row["steps"] == steps}
        for steps in (18, 54, 160)
    }
    assert {steps: len(some) for steps, some in rates.items()} == {18: 5, 54: 2, 160: 1}
    assert all(0.003 in some for some in rates.values())


def test_remaining_time_tries_more_learning_rates_at_the_chosen_depth():
    """They are at the length of the choice, and on both sides of its rate."""
    one, _, clock = search(7, merit=better_below)
    found = one.run()
    rates = {row["learning_rate"] for row in found.rows if row["depth"] == "layer3" and row["head"] == found.best}
    assert {0.001, 0.003, 0.01} <= rates
    finals = sum(one.work.expected([trial]) for trial in final_trials(one.grid, found, by_depth=False))
    assert clock.now - 30.0 - finals < 0.2 * clock.seconds


def test_only_trainings_of_one_length_are_compared():
    """A depth that lost early is trained at the length of the winner, if there is time."""
    one, _, _ = search(600, depths=("layer3", "all"), merit=better_below)
    found = one.run()
    longest = {
        (row["head"], row["depth"]): max(
            other["steps"] for other in found.rows if (other["head"], other["depth"]) == (row["head"], row["depth"])
        )
        for row in found.rows
    }
    assert set(longest.values()) == {TOTAL} and len(longest) == 4


def test_heads_are_compared_by_their_longest_common_training():
    def row(head, steps, value):
        return {
            "head": head,
            "depth": "layer3",
            "classifier_rate": "pretrained",
            "learning_rate": 0.01,
            "seed": 0,
            "steps": steps,
            "best_step": steps,
            "metric": "top1",
            "val": {"top1": value, "loss": 1.0},
        }

    chosen, best = choices([row("a", 18, 0.5), row("b", 18, 0.6), row("a", 54, 0.9)])
    assert best == "b" and (chosen["a"]["steps"], chosen["b"]["steps"]) == (54, 18)
    # Neither a longer training that was worse is chosen, nor a setting for its shorter training alone.
    worse, _ = choices([row("a", 18, 0.7), row("a", 54, 0.6), {**row("a", 18, 0.65), "depth": "none"}])
    assert (worse["a"]["depth"], worse["a"]["steps"]) == ("layer3", 18)
    assert choices([{**row("a", 18, 0.5), "val": None}]) == ({}, None)


def test_cheap_trainings_that_alone_continued_do_not_win():
    """With three minutes, only the cheapest depths are trained in full; the better depth is not."""
    for minutes in (3, 30):
        found = search(minutes, merit=better_below)[0].run()
        assert {choice["depth"] for choice in found.chosen.values()} == {"layer3"}


def test_a_training_that_still_improves_is_lengthened(monkeypatch):
    monkeypatch.setattr("flax_augtl.study.selection.still_rising", lambda rows: True)
    rows = search(600, depths=("all",), merit=better_below)[0].run().rows
    assert max(row["steps"] for row in rows) == 4 * TOTAL
    monkeypatch.setattr("flax_augtl.study.selection.still_rising", lambda rows: False)
    rows = search(600, depths=("all",), merit=better_below)[0].run().rows
    assert max(row["steps"] for row in rows) == TOTAL


def test_every_selection_seed_is_trained():
    one, work, clock = search(600, seeds=(0, 1, 5), depths=("all",), selection_seeds=2, merit=better_below)
    found = one.run()
    assert {trial.seed for trial in found.trials} == {0, 1}
    rows, _ = train_finals(work, clock, final_trials(one.grid, found, by_depth=False))
    assert {row["seed"] for row in rows} == {0, 1, 5}


def test_failed_trainings_are_skipped():
    one, work, _ = search(600, depths=("layer3", "all"), merit=better_below)
    do = work.do

    def failing(trials, room=None):
        rows = do(trials, room)
        for row, trial in zip(rows, trials, strict=True):
            if trial.head == "kept_deeper":
                row.update(val=None, steps=trial.steps)
        return rows

    work.do = failing
    found = one.run()
    assert list(found.chosen) == ["traditional"] == [found.best]
    assert {trial.head for trial in final_trials(one.grid, found, by_depth=True)} == {"traditional"}


def test_final_trials_begin_with_the_best_head_and_end_with_the_time():
    one, work, clock = search(10, merit=better_below)
    found = one.run()
    clock.now = 20.0
    rows, said = train_finals(work, clock, final_trials(one.grid, found, by_depth=False))
    assert [row["head"] for row in rows] == [found.best]
    other = next(head for head in found.chosen if head != found.best)
    assert said == [f"No time was left to train and test: {other} at layer3."]


def test_finals_of_every_depth_come_after_those_of_the_winners():
    one, _, _ = search(600, depths=("layer3", "all"), merit=better_below)
    found = one.run()
    trials = final_trials(one.grid, found, by_depth=True)
    assert len(trials) == 4 and {trial.depth for trial in trials[:2]} == {"layer3"}


def test_another_start_reuses_what_was_found(tmp_path):
    one, work, _ = search(10, merit=better_below)
    found = one.run()
    one.budget.chosen = {"cells": [vars(trial) for trial in found.trials], "left_out": found.left_out}
    assert found_before(work, one.budget) == found
    work.trained.popitem()
    assert found_before(work, one.budget) is None
    one.budget.chosen = {"cells": [{"head": 1}], "left_out": []}
    assert found_before(work, one.budget) is None


def test_the_plan_trains_nothing_and_names_what_there_is_no_time_for():
    one, work, _ = search(10)
    said = describe(one, passes=100.0, images="640 images in 5 views")
    assert not work.trained and one.rows == []
    assert re.search(r"^all +0\.010 +10 ", said, re.MULTILINE) and re.search(r"^layer3 +1\.000 +\d", said, re.MULTILINE)
    assert re.search(r"^none +4\.000 +no time", said, re.MULTILINE)
    assert (
        "There is no time for layer2, layer1, stem, none. Raise config.study.minutes to try more depths; 0 sets "
        in said
    )
    assert "10:00 that are left of 10 minutes (config.study.minutes)" in said


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_time_is_counted_over_all_starts(tmp_path, clock):
    first = Budget(tmp_path, 10.0, 1000.0)
    clock[0] += 30
    with first.part(module.PASSES):
        clock[0] += 100
    assert first.left() == 470.0
    with pytest.raises(RuntimeError), first.part(module.TRAININGS):  # A start that is killed during a part.
        clock[0] += 50
        raise RuntimeError
    clock[0] += 10000  # The time between two starts does not count.
    second = Budget(tmp_path, 10.0, clock[0])
    assert second.left() == 420.0
    assert second.account() == {
        module.PASSES: 100.0,
        module.TRAININGS: 50.0,
        module.TEST: 0.0,
        module.FINALS: 0.0,
        module.OTHER: 30.0,
    }
    assert second.describe() == (
        "3:00 of 10 minutes (config.study.minutes): passes over the images 1:40, trainings that "
        "choose 0:50, pass over the test images 0:00, final trainings 0:00, start and report 0:30."
    )


@pytest.mark.parametrize("content", ["[]", '{"seconds": 3}', '{"seconds": {"a": "b"}, "views": "4", "depths": 3}'])
def test_a_damaged_budget_file_is_ignored(content, tmp_path, clock):
    (tmp_path / "budget.json").write_text(content)
    found = Budget(tmp_path, 1.0, 1000.0)
    assert (found.left(), found.views, found.depths, found.chosen) == (60.0, None, [], None)


def test_a_choice_is_final_unless_the_budget_grows(tmp_path, clock):
    first = Budget(tmp_path, 10.0, 1000.0)
    first.chosen, first.depths, first.views = {"cells": [], "left_out": []}, ["all"], 2
    first.save()
    same, more = (Budget(tmp_path, minutes, 1000.0) for minutes in (10.0, 11.0))
    assert same.chosen and same.planned and not more.chosen and not more.planned
    assert more.views == 2 and more.depths == ["all"]


def test_fewer_views_are_kept_if_the_passes_take_too_long(tmp_path, clock):
    budget = Budget(tmp_path, 10.0, 1000.0)
    views = [budget.choose_views(640, 160, seconds, 4, given=False) for seconds in (0.01, 0.05, 0.07, 0.13)]
    assert views == [4, 4, 3, 1]
    assert budget.choose_views(640, 160, 0.09, 4, given=True) == 4
    assert budget.choose_views(640, 160, 0.09, 0, given=False) == 0


def test_a_budget_that_the_passes_exceed_is_refused_with_advice(tmp_path, clock):
    with pytest.raises(
        ValueError,
        match=re.escape(
            "config.study.minutes=10 is too short: the passes over 25000 images alone take about 22.5 minutes. Set "
            "config.study.minutes to 38 or more (0 for no budget), or lower config.image_size or config.data.shots."
        ),
    ):
        Budget(tmp_path, 10.0, 1000.0).choose_views(20000, 5000, 0.03, 4, given=False)
    with pytest.raises(ValueError, match="give fewer config.study.views, or lower"):
        Budget(tmp_path, 10.0, 1000.0).choose_views(20000, 5000, 0.03, 4, given=True)


def test_the_account_is_written_as_json(tmp_path, clock):
    Budget(tmp_path, 10.0, 1000.0).save()
    assert json.loads((tmp_path / "budget.json").read_text())["minutes"] == 10.0
    assert Trial("select", "kept", "layer3", "pretrained", 0.003, 0, 18).name == "select-kept-layer3-0.003-0-18"


def test_a_pass_that_will_exceed_the_budget_is_reported_once(tmp_path, monkeypatch, capsys):
    budget = Budget(tmp_path, 10.0, budget_study.time.monotonic())
    watch = budget_study._Watch(budget)
    watch(1e6)
    assert capsys.readouterr().out == ""  # The first images are too slow to judge by.
    monkeypatch.setattr(budget_study, "SETTLED_SECONDS", 0.0)
    watch(500.0)
    assert capsys.readouterr().out == ""
    watch(600.0)
    watch(700.0)
    said = capsys.readouterr().out
    assert said.count("Warning: the computer is much slower than when it was timed") == 1
    assert "longer than what is left of the 10 minutes" in said
