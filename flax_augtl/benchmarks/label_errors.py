"""Measure how many swapped labels are found: `python -m flax_augtl.benchmarks.label_errors FOLDER... --weights=FILE`.

It gives a share of the images of each folder a wrong label, drawn evenly from the other classes, and inspects all images
with features of the source weights. The table has the precision among as many images as labels were swapped (which is
the recall there, too), how many labels are suspected, their precision and recall, how often the suggestion is the true
label, and the seconds for everything but the features. Each value is a mean over seeds.

The features are kept in --workdir; the same command does not compute them again.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flax_augtl.config.convert import typed_data
from flax_augtl.data import Dataset, load_dataset
from flax_augtl.data.types import fingerprint
from flax_augtl.trust import linear_head
from flax_augtl.trust.copies import find_copies, groups_of
from flax_augtl.trust.label_errors import LabelErrors, label_errors

Predict = Callable[[np.ndarray, np.ndarray, int, np.ndarray], np.ndarray]
HEADER = (
    "dataset", "head", "swapped", "precision at that number", "suspected", "precision", "recall",
    "suggestion right", "seconds",
)  # fmt: skip


class Images(NamedTuple):
    """What the measurement needs of a dataset: features float [n, d], labels int [n], groups of near-copies int [n]."""

    name: str
    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


def logistic(features: np.ndarray, labels: np.ndarray, classes: int, fold: np.ndarray) -> np.ndarray:
    """Return out-of-fold probabilities as `linear_head.out_of_fold`, from scikit-learn's logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    found = np.zeros((len(labels), classes), np.float32)
    for number in np.unique(fold):
        held = fold == number
        scaler = StandardScaler().fit(features[~held])
        model = LogisticRegression(C=0.01, max_iter=200, tol=1e-3)
        model.fit(scaler.transform(features[~held]), labels[~held])
        found[np.ix_(held, model.classes_)] = model.predict_proba(scaler.transform(features[held]))
    return found


def cleanlab_suspects(probabilities: np.ndarray, labels: np.ndarray) -> LabelErrors:
    """Return what the filter of cleanlab suspects by default, in the order of its default ranking."""
    from cleanlab.filter import find_label_issues  # pyright: ignore[reportMissingImports]  # It is no dependency.

    order = find_label_issues(labels, probabilities.astype(float), return_indices_ranked_by="self_confidence", n_jobs=1)
    suspected = np.zeros(len(labels), bool)
    suspected[order] = True
    return dataclasses.replace(
        label_errors(probabilities, labels), suspected=suspected, suggestion=probabilities.argmax(1)
    )


HEADS: Mapping[str, tuple[Predict, Callable[[np.ndarray, np.ndarray], LabelErrors]]] = {
    "ridge": (linear_head.out_of_fold, label_errors),
    "logistic": (logistic, label_errors),
    "ridge, cleanlab": (linear_head.out_of_fold, cleanlab_suspects),
}


def dataset_of(folder: Path) -> Dataset:
    """Return all images of a folder with a sub-folder for each class, or with lists train.txt and test.txt."""
    data = {"root": str(folder), "name": "folder", "on_leak": "warn", "near_copies": "ignore", "validation": 0.0}
    if (folder / "train.txt").exists():
        root = folder / "images" if (folder / "images").exists() else folder
        lists = {"train_list": str(folder / "train.txt"), "test_list": str(folder / "test.txt")}
        data |= {"name": "list", "root": str(root), **lists}
    return load_dataset(typed_data(data), seed=0)


def images_of(folder: Path, network: str, weights: str | None, workdir: Path) -> Images:
    """Return the features of all images of a folder; `workdir` keeps them."""
    from flax_augtl.pretrained import load_source
    from flax_augtl.trust.source_features import source_features

    dataset = dataset_of(folder)
    data, parts = typed_data({}), [dataset.train, dataset.test]
    labels = np.concatenate([part.labels for part in parts])
    file = workdir / f"{folder.name}-{fingerprint(dataset.fingerprint, network, weights)}.npz"
    if not file.exists():
        source = load_source(network, weights)
        found = [
            source_features(source.model, source.variables, source.preprocess, part, data, what=folder.name)
            for part in parts
        ]
        workdir.mkdir(parents=True, exist_ok=True)
        np.savez(file, features=np.concatenate(found))
    with np.load(file, allow_pickle=False) as kept:
        return Images(folder.name, kept["features"], labels, groups_of(find_copies(parts, data), len(labels)))


def measure(images: Images, share: float, head: str, seeds: int) -> list[float]:
    """Return the values of a row of the table, from `swapped` on.

    Args:
      images: of a dataset.
      share: of the labels that are swapped.
      head: a key of `HEADS`.
      seeds: number of draws of the swapped labels.
    """
    rows, (predict, suspects) = [], HEADS[head]
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        true, n = images.labels.astype(np.int64), len(images.labels)
        classes = int(true.max()) + 1
        swapped = rng.choice(n, round(share * n), replace=False)
        labels = true.copy()
        labels[swapped] = (true[swapped] + rng.integers(1, classes, len(swapped))) % classes
        begun = time.monotonic()
        fold = linear_head.folds_of(labels, images.groups, linear_head.FOLDS)
        found = suspects(predict(images.features, labels, classes, fold), labels)
        seconds = time.monotonic() - begun
        wrong = labels != true
        hit = wrong & found.suspected
        rows.append(
            [
                len(swapped),
                wrong[found.ranking()[: len(swapped)]].mean(),
                found.suspected.sum(),
                hit.sum() / max(found.suspected.sum(), 1),
                hit.sum() / len(swapped),
                (found.suggestion == true)[hit].mean() if hit.any() else np.nan,
                seconds,
            ]
        )
    return np.mean(rows, axis=0).tolist()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line: print a table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flax_augtl.benchmarks.label_errors")
    parser.add_argument("folders", nargs="+", type=Path, help="folders with a sub-folder for each class, or with lists")
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--weights", default=None, help="a checkpoint, as in config.weights; random weights if absent")
    parser.add_argument("--heads", nargs="+", choices=[*HEADS], default=["ridge"])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.05, 0.1], help="of the labels that are swapped")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, default=Path("runs/label_errors"), help="where features are kept")
    options = parser.parse_args(arguments)
    for cells in (HEADER, ["---"] * len(HEADER)):
        print(f"| {' | '.join(cells)} |")
    for folder in options.folders:
        images = images_of(folder, options.network, options.weights, options.workdir)
        for head in options.heads:
            for share in options.shares:
                swapped, *rest, seconds = measure(images, share, head, options.seeds)
                at, suspected, *others = rest
                cells = [images.name, head, f"{swapped:.0f} ({share:.0%})", f"{at:.3f}", f"{suspected:.0f}"]
                cells += [*(f"{value:.3f}" for value in others), f"{seconds:.1f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
