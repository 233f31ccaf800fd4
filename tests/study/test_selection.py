"""What validation chooses, from made-up rows."""

from flax_augtl.study import selection
from flax_augtl.study.successive_halving import complete


def row(rate, seed, value, *, loss=1.0, step=10, depth="none", head="a", steps=40):
    val = None if value is None else {"top1": value, "loss": loss}
    return {
        "head": head,
        "depth": depth,
        "classifier_rate": "pretrained",
        "learning_rate": rate,
        "seed": seed,
        "val": val,
        "best_step": step,
        "metric": "top1",
        "steps": steps,
    }


def test_the_best_mean_over_seeds_wins():
    rows = [row(0.1, 0, 0.9), row(0.1, 1, 0.5), row(0.2, 0, 0.8, step=30), row(0.2, 1, 0.8, step=41)]
    rate, some = selection.choose(rows, "learning_rate")
    assert rate == 0.2 and selection.length(some) == 36


def test_equal_accuracies_are_decided_by_the_loss():
    rows = [row(0.1, 0, 0.9, loss=0.5), row(0.2, 0, 0.9, loss=0.4), row(0.3, 0, 0.9, loss=0.6)]
    assert selection.choose(rows, "learning_rate")[0] == 0.2


def test_a_setting_that_diverged_on_a_seed_is_not_chosen():
    rows = [row(0.1, 0, 0.1), row(0.1, 1, 0.1), row(0.2, 0, 0.9), row(0.2, 1, None)]
    assert selection.choose(rows, "learning_rate")[0] == 0.1
    assert selection.choose([row(0.1, 0, None)], "learning_rate") is None


def test_a_choice_at_the_edge_widens_the_grid():
    rows = [row(0.1, 0, 0.9), row(0.2, 0, 0.8), row(0.4, 0, 0.7)]
    assert selection.widened(rows, [0.1, 0.2, 0.4]) == 0.05
    assert selection.widened(list(reversed([row(0.1, 0, 0.1), row(0.2, 0, 0.8)])), [0.1, 0.2]) == 0.4
    assert selection.widened([row(0.1, 0, 0.1), row(0.2, 0, 0.8), row(0.4, 0, 0.7)], [0.1, 0.2, 0.4]) is None
    # A single rate has no spacing to widen by, and a grid has a largest size.
    assert selection.widened([row(0.1, 0, 0.9)], [0.1]) is None
    assert selection.widened(rows, [0.1, *(0.2 + i / 100 for i in range(11))]) is None


def test_winners_by_head_and_by_depth():
    rows = [
        row(0.1, 0, 0.9, depth="fc"),
        row(0.2, 0, 0.8),
        row(0.1, 0, 0.7, head="b", step=20),
        row(0.2, 0, None, head="c"),
    ]
    found = selection.winners(rows, lambda row: row["head"])
    assert found["a"] == {
        "depth": "fc",
        "classifier_rate": "pretrained",
        "learning_rate": 0.1,
        "steps": 10,
        "score": (0.9, -1.0),
    }
    assert found["b"]["steps"] == 20 and "c" not in found
    assert selection.winners(rows, lambda row: (row["head"], row["depth"]))["a", "none"]["learning_rate"] == 0.2


def curve(*points, **changes):
    history = [{"step": step, "val": val, "val_loss": loss} for step, (val, loss) in enumerate(points, 1)]
    return {"history": history, "diverged": False, **changes}


def test_a_training_improves_if_it_ends_best_and_the_loss_still_falls():
    rising = curve((0.2, 2.0), (0.4, 1.5), (0.5, 1.2), (0.6, 1.0))
    assert selection.still_rising([rising])
    assert not selection.still_rising([curve((0.2, 2.0), (0.4, 1.0), (0.6, 0.99), (0.6, 0.97))])  # Flat.
    assert not selection.still_rising([curve((0.2, 2.0), (0.7, 1.5), (0.5, 1.2), (0.6, 1.0))])  # It was better before.
    assert not selection.still_rising([curve((0.2, 2.0), (0.6, 1.0))])  # Two points are too few.
    assert not selection.still_rising([]) and not selection.still_rising([{**rising, "diverged": True}])
    # The last two evaluations may be close together: the last third of the steps counts.
    late = curve((0.2, 2.0), (0.4, 1.5), (0.5, 1.01), (0.6, 1.0))
    for point, step in zip(late["history"], (16, 32, 48, 50), strict=True):
        point["step"] = step
    assert selection.still_rising([late])
    final = {"history": [{"step": 1, "val": None, "val_loss": None}] * 4, "diverged": False}
    assert not selection.still_rising([final])


def test_a_setting_improves_if_more_than_half_of_its_seeds_do():
    rising, flat = curve((0.2, 2.0), (0.4, 1.5), (0.6, 1.0)), curve((0.6, 1.0), (0.6, 1.0), (0.6, 1.0))
    assert selection.still_rising([rising, rising, flat]) and not selection.still_rising([rising, flat])


def test_after_halving_only_full_trainings_on_all_seeds_can_win():
    rows = [row(0.1, 0, 0.9, steps=4), row(0.2, 0, 0.8), row(0.3, 0, 0.7), row(0.3, 1, 0.7)]
    assert complete(rows, 2) == rows[2:]
