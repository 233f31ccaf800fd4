"""Compare ways to tell images of none of the classes: `python -m flax_augtl.benchmarks.unknown_images FOLDER...`.

Each folder of images is a dataset, whose classes are the last folders of the paths. With each one in turn known, the
images of the others are unknown to its network. Of the known images, 55 % train the head, 20 % validate, and 25 % are
told apart from the unknown ones. Prints, for each dataset and score, and as a mean:

- AUROC: how often an unknown image is less familiar than a known one;
- false alarms: the share of known images whose familiarity is below 0.05;
- found: the share of unknown images whose familiarity is.

`--tuned` trains the last stage of the network too. Features are computed once and kept in --keep.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_augtl.benchmarks.kept_features import Kept, kept_features, splits
from flax_augtl.pretrained import Source, load_source
from flax_augtl.trust import distances
from flax_augtl.trust.familiarity import UNKNOWN_BELOW, Familiarity

_EPOCHS, _BATCH, _RATE = 12, 32, 0.01


class Seen(NamedTuple):
    """Images as a network sees them: penultimate features [N, D] and logits [N, classes]."""

    features: np.ndarray
    logits: np.ndarray


class Found(NamedTuple):
    """What a score finds."""

    auroc: float
    false_alarms: float
    found: float


class Confidence:
    """The lowest highest probability; a baseline, since every network has it."""

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return minus the logarithm of the highest probability of each image."""
        shifted = np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True)
        return np.log(np.exp(shifted).sum(axis=1))


def scores(train: Seen, labels: np.ndarray) -> dict[str, distances.Distance]:
    """Return every way to measure the distance from training images."""
    return {
        "Mahalanobis": distances.fit_mahalanobis(train.features, labels),
        "5 nearest neighbours": distances.fit_neighbours(train.features),
        "energy": distances.Energy(),
        "highest probability": Confidence(),
    }


def compare(train: Seen, labels: np.ndarray, val: Seen, test: Seen, unknown: Seen) -> dict[str, Found]:
    """Return what each score finds."""
    from sklearn.metrics import roc_auc_score

    found = {}
    for name, distance in scores(train, labels).items():
        known, others = distance(*test), distance(*unknown)
        familiarity = Familiarity(distance, np.sort(distance(*val)), 0)
        which = np.r_[np.zeros(len(known)), np.ones(len(others))]
        found[name] = Found(
            float(roc_auc_score(which, np.r_[known, others])),
            float(np.mean(familiarity(*test) < UNKNOWN_BELOW)),
            float(np.mean(familiarity(*unknown) < UNKNOWN_BELOW)),
        )
    return found


def frozen(known: Kept, others: Sequence[Kept]) -> dict[str, Found]:
    """Compare the scores on the features of the source weights, with a linear head on them."""
    from sklearn.linear_model import LogisticRegression

    train, val, test = splits(tuple(known.labels.tolist()))
    head = LogisticRegression(C=1.0, max_iter=2000).fit(known.penultimate[train], known.labels[train])
    weights, bias = head.coef_, head.intercept_
    if len(weights) == 1:  # Two classes have one row.
        weights, bias = np.concatenate([-weights / 2, weights / 2]), np.concatenate([-bias / 2, bias / 2])
    far = np.concatenate([other.penultimate for other in others])
    seen_train, seen_val, seen_test, unknown = (
        Seen(x, x @ weights.T + bias) for x in (*(known.penultimate[part] for part in (train, val, test)), far)
    )
    return compare(seen_train, known.labels[train], seen_val, seen_test, unknown)


def tuned(known: Kept, others: Sequence[Kept], source: Source) -> dict[str, Found]:
    """Compare the scores after the last stage and a linear head have been trained on the known images."""
    last, classes, model = len(source.groups) - 2, len(known.class_names), source.model
    group = source.groups[last]
    train, val, test = splits(tuple(known.labels.tolist()))

    def run(params, below):
        variables = {
            "params": {**source.variables["params"], group: params["stage"]},
            "batch_stats": source.variables["batch_stats"],
        }
        features = model.apply(variables, below.astype(jnp.float32), last, last + 1)
        return features, features @ params["kernel"] + params["bias"]

    params = {
        "stage": source.variables["params"][group],
        "kernel": jnp.zeros((known.penultimate.shape[1], classes)),
        "bias": jnp.zeros(classes),
    }
    steps = _EPOCHS * max(len(train) // _BATCH, 1)
    labels = {"stage": "pretrained", "kernel": "new", "bias": "new"}
    rate = optax.cosine_decay_schedule(_RATE, steps)
    optimizer = optax.multi_transform(
        {
            name: optax.chain(
                optax.add_decayed_weights(5e-4), optax.sgd(lambda step, by=by: by * rate(step), 0.9, nesterov=True)
            )
            for name, by in (("pretrained", 0.1), ("new", 1.0))
        },
        labels,
    )

    @jax.jit
    def step(params, state, below, wanted):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(run(params, below)[1], wanted).mean()

        gradient = jax.grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    rng, state = np.random.default_rng(0), optimizer.init(params)
    for _ in range(_EPOCHS):
        order = rng.permutation(train)
        for start in range(0, max(len(order) - _BATCH + 1, 1), _BATCH):
            rows = np.resize(order[start : start + _BATCH], _BATCH)
            params, state = step(params, state, known.below[rows], known.labels[rows])
    seen = jax.jit(run)

    def see(below: np.ndarray) -> Seen:
        found = []
        for start in range(0, len(below), _BATCH):
            some = below[start : start + _BATCH]
            filled = np.concatenate([some, np.zeros((_BATCH - len(some), *some.shape[1:]), some.dtype)])
            found.append([np.asarray(values)[: len(some)] for values in seen(params, filled)])
        return Seen(*(np.concatenate(values) for values in zip(*found, strict=True)))

    far = np.concatenate([other.below for other in others])
    seen_train, seen_val, seen_test, unknown = (
        see(x) for x in (*(known.below[part] for part in (train, val, test)), far)
    )
    return compare(seen_train, known.labels[train], seen_val, seen_test, unknown)


def table(rows: Mapping[str, Mapping[str, Found]]) -> str:
    """Return a Markdown table with a line for each dataset, and their mean last."""
    names = list(next(iter(rows.values())))
    lines = [
        f"| known | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    means = {name: Found(*np.mean([row[name] for row in rows.values()], axis=0)) for name in names}
    for dataset, row in (*rows.items(), ("mean", means)):
        cells = [f"{one.auroc:.3f}, {100 * one.false_alarms:.0f} %, {100 * one.found:.0f} %" for one in row.values()]
        lines.append(f"| {dataset} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m flax_augtl.benchmarks.unknown_images")
    parser.add_argument("folders", nargs="+", help="two or more folders of images")
    parser.add_argument("--network", default="resnet18", help="a residual network")
    parser.add_argument("--weights", default=None, help="as config.weights")
    parser.add_argument("--image_size", type=int, default=None, help="side of the images; default: that of the weights")
    parser.add_argument("--images", type=int, default=600, help="images of each folder, at most")
    parser.add_argument("--classes", type=int, default=20, help="classes of each folder, at most")
    parser.add_argument("--tuned", action="store_true", help="train the last stage of the network too")
    parser.add_argument("--keep", type=Path, default=Path("runs/unknown_images"), help="where features are kept")
    options = parser.parse_args(arguments)
    if len(options.folders) < 2:
        parser.error("give two or more folders: one is known, and the others are unknown")
    source = load_source(options.network, options.weights, preprocessing={"image_size": options.image_size})
    kept = [
        kept_features(
            folder, source, options.keep, most=options.images, most_classes=options.classes, below=options.tuned
        )
        for folder in options.folders
    ]
    rows = {}
    for number, known in enumerate(kept):
        others = kept[:number] + kept[number + 1 :]
        print(f"{known.name}: {len(known)} images of {len(known.class_names)} classes", file=sys.stderr)
        rows[known.name] = tuned(known, others, source) if options.tuned else frozen(known, others)
    print(f"AUROC, false alarms, unknown images found; {source.name}, {source.preprocess.image_size} pixels\n")
    print(table(rows))


if __name__ == "__main__":
    main()
