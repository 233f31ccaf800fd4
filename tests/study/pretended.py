"""Made-up results of studies, from a seed."""

import dataclasses

import numpy as np

from flax_augtl.config.heads import PRESETS
from flax_augtl.study.result import StudyResult

DEPTHS = ("none", "stem", "layer1", "layer2", "layer3", "layer4", "fc")
GROUPS = DEPTHS[1:]


def metrics(value, n=500):
    return {
        "top1": value + 0.01,
        "top5": min(1.0, value + 0.1),
        "mean_per_class": value,
        "loss": 2 - value,
        "calibration_error": 0.05,
        "n": n,
    }


def trial(stage, head, depth, rate, seed, value, *, depths=DEPTHS, rng=None, **changes):
    """Return a row of a study whose accuracy is `value`."""
    rng = rng or np.random.default_rng(seed)
    preset = PRESETS.get(head, PRESETS["kept"])
    frozen = depths[1:].index(depth) + 1 if depth in depths[1:] else 0
    groups = [group for group in depths[1:] if group != "fc" or preset.keep_classifier]
    history = [
        {
            "step": step,
            "examples": 32 * step,
            "seconds": (1.0 - 0.1 * frozen) * step,
            "loss": 2.0 / step,
            "val": value * (1 - 0.5**index) if stage == "select" else None,
            "val_loss": 2 - value if stage == "select" else None,
        }
        for index, step in enumerate(range(10, 101, 10), 1)
    ]
    settings = dataclasses.asdict(preset) | {"new_layers": list(preset.new_layers)}
    return {
        "cell": f"{stage}-{head}-{depth}-{rate:g}-{seed}", "stage": stage, "head": head, "depth": depth,
        "learning_rate": rate, "seed": seed, "steps": 100, "settings": settings, "metric": "mean_per_class",
        "val": metrics(value) if stage == "select" else None,
        "test": metrics(value) | {"precision": value, "f1": value} if stage == "final" else None,
        "best_step": 100, "seconds": 100.0, "examples_seen": 3200, "trainable": 11_000_000 // (frozen + 1),
        "history": history, "change": {group: 0.0 if index < frozen else float(0.02 * (index + 1) * (0.5 + rng.random()))
                                       for index, group in enumerate(groups)},
        "diverged": False, "error": None, **changes,
    }  # fmt: skip


def study(
    heads=("traditional", "kept", "kept_deeper", "kept_deeper2"),
    depths=DEPTHS,
    seeds=6,
    classes=8,
    *,
    finals_by_depth=True,
    class_names=None,
    seed=0,
    **changes,
):
    """Return a study with better later heads, best middle depths, and noise that the seeds share."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 0.01, seeds)
    rows, winners = [], {}
    for index, head in enumerate(heads):
        own = [depth for depth in depths if depth != "fc" or PRESETS.get(head, PRESETS["kept"]).keep_classifier]
        chosen = own[len(own) // 2]
        for depth in own:
            base = 0.82 + 0.008 * index - 0.012 * abs(own.index(depth) - len(own) // 2)
            for run in range(seeds):
                noise = shared[run] + rng.normal(0, 0.004, 3)
                rows += [
                    trial("select", head, depth, rate, run, base + noise[k] - 0.02 * k, depths=depths, rng=rng)
                    for k, rate in enumerate((0.003, 0.01))
                ]
                if finals_by_depth or depth == chosen:
                    rows.append(trial("final", head, depth, 0.003, run, base + 0.01 + noise[2], depths=depths, rng=rng))
        winners[head] = {"depth": chosen, "learning_rate": 0.003, "steps": 100}
    names = tuple(class_names or (f"class {index}" for index in range(classes)))
    labels = rng.integers(0, len(names), 500)
    predictions = np.where(rng.random(500) < 0.85, labels, rng.integers(0, len(names), 500))
    leep = {"val": metrics(0.6), "test": metrics(0.61), "test_by_seed": [metrics(0.6 + noise) for noise in shared],
            "speaks": {name: [["great white shark", 0.41], ["tench", 0.2], ["hammerhead", 0.1], ["cock", 0.05],
                              ["electric ray", 0.02]] for name in names}}  # fmt: skip
    tests = {run: {"id": [f"photos/{i}.jpg" for i in range(500)], "label": labels.tolist()} for run in range(seeds)}
    for row in rows:
        if row["stage"] == "final":
            own = np.random.default_rng([seed, row["seed"], [*heads].index(row["head"])])
            right = own.random(500) < row["test"]["mean_per_class"]
            row["predicted"] = " ".join(map(str, np.where(right, labels, (labels + 1) % len(names)).tolist()))
    scores = {"metrics": {**metrics(0.8), "precision": 0.8, "f1": 0.79, "weighted_precision": 0.81, "weighted_f1": 0.8,
                          "kappa": 0.7, "roc_auc": None},
              "intervals": {"top1": [0.77, 0.85], "mean_per_class": [0.76, 0.84]},
              "classes": [{"label": name, "n": 5, "accuracy": 0.8, "recall": 0.8, "precision": None, "f1": 0.8,
                           "roc_auc": 0.9, "taken_for": None} for name in names]}  # fmt: skip
    fields = {
        "tests": tests, "scores": scores,
        "config": {"name": "pretended", "batch_size": 32, "data": {"name": "list", "root": None}},
        "metric": "mean_per_class", "depths": tuple(depths), "rows": rows, "winners": winners, "best": heads[-1],
        "counts": {"train": 800, "val": 200, "test": 500}, "class_names": names, "finals_by_depth": finals_by_depth,
        "leep": leep, "notes": ("Validation was carved from the training data.",),
        "leakage": ("1 of the 8 target classes has the name of a class of the source network.",),
        "versions": {"jax": "0.10.2", "flax": "0.12.8"}, "seconds": 4321.0,
        "predictions": {"id": [f"photos/{i}.jpg" for i in range(500)], "label": labels.tolist(),
                        "prediction": predictions.tolist(), "confidence": rng.uniform(0.3, 1, 500).tolist()},
        "image": lambda index: np.random.default_rng(index).integers(0, 255, (120, 200, 3)).astype(np.uint8),
    }  # fmt: skip
    return StudyResult(**(fields | changes))
