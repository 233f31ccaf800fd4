"""Find out how many views of an image are enough: test accuracy with 1, 2, 4, 8 and fresh views, paired by seed.

    python -m flax_augtl.benchmarks.views --root=FOLDER --weights=resnet18.safetensors --workdir=runs/views

FOLDER has hymenoptera/, flowers12/ and caltech101/ (5 images a class). Every training is that of configs/folder.py with its
ten epochs; with finite views it keeps features. Finished trainings are kept in --workdir; the same command resumes, and
`--only=hymenoptera:all` and so on train a part. A row of the table is the mean difference to fresh views, in points, with
its standard error over the seeds.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FRESH = 0
VIEWS = (FRESH, 1, 2, 4, 8)
SEEDS = {"all": 6, "layer3": 3}
RESULTS = "results.jsonl"

# {(dataset, depth, seed, views): the test accuracy}
Accuracies = Mapping[tuple[str, str, int, int], float]


def data_of(name: str, root: Path) -> dict[str, Any]:
    """Return the fields of `config.data` for a dataset."""
    if name == "hymenoptera":
        return {"name": "folder", "root": str(root / name)}
    lists = {"train_list": str(root / name / "train.txt"), "test_list": str(root / name / "test.txt")}
    if name == "caltech101":
        return {"name": "list", "root": str(root / name / "images"), **lists, "shots": 5, "metric": "mean_per_class"}
    return {"name": "list", "root": str(root / name), **lists}


DATASETS = ("hymenoptera", "flowers12", "caltech101")


def train_once(arguments: Any, dataset: str, depth: str, seed: int, views: int) -> dict[str, Any]:
    """Train once; return the metric of the dataset on the test split, and the seconds."""
    import tempfile

    import flax_augtl
    from flax_augtl.configs import folder

    config = folder.get_config()
    config.update(
        {
            "weights": arguments.weights,
            "freeze": depth,
            "seed": seed,
            "calibrate": "none",
            "familiarity": False,
            "report": False,
            "data": {**data_of(dataset, Path(arguments.root)), "views": views, "near_copies": "ignore"},
        }
    )
    if arguments.epochs:
        config.epochs = arguments.epochs
    with tempfile.TemporaryDirectory() as workdir:
        begun = time.monotonic()
        run = flax_augtl.train(config, workdir, quiet=True)
        assert run.result is not None, "a run that was just trained has a result"
        accuracy = run.result["test"][run.result["metric"]]
    return {"test": accuracy, "seconds": time.monotonic() - begun}


def table(found: Accuracies) -> list[str]:
    """Return the rows of a Markdown table: for each dataset and depth, the differences to fresh views."""
    lines = ["| | seeds | fresh | " + " | ".join(f"{views} views" for views in VIEWS if views) + " |"]
    lines.append("|---" * (len(VIEWS) + 2) + "|")
    for dataset in DATASETS:
        for depth in SEEDS:
            fresh = {key[2]: value for key, value in found.items() if key[:2] == (dataset, depth) and key[3] == FRESH}
            if not fresh:
                continue
            cells = []
            for views in (views for views in VIEWS if views):
                pairs = [
                    100 * (found[dataset, depth, seed, views] - value)
                    for seed, value in fresh.items()
                    if (dataset, depth, seed, views) in found
                ]
                error = f" ± {statistics.stdev(pairs) / math.sqrt(len(pairs)):.1f}" if len(pairs) > 1 else ""
                cells.append(f"{statistics.fmean(pairs):+.1f}{error}" if pairs else "–")
            mean = statistics.fmean(fresh.values())
            lines.append(f"| {dataset}, `{depth}` | {len(fresh)} | {mean:.3f} | {' | '.join(cells)} |")
    return lines


def read(path: Path) -> dict[tuple[str, str, int, int], float]:
    """Return the results in a file; {} if there is none."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {(row["dataset"], row["depth"], row["seed"], row["views"]): row["test"] for row in rows}


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with the datasets")
    parser.add_argument("--weights", default="timm/resnet18.tv_in1k", help="of a ResNet-18")
    parser.add_argument("--workdir", type=Path, default=Path("runs/views"), help="keeps the results")
    parser.add_argument("--only", help="DATASET:DEPTH, several with commas between")
    parser.add_argument("--seeds", type=int, help="so many seeds at every depth")
    parser.add_argument("--epochs", type=float, help="another length than that of configs/folder.py")
    arguments = parser.parse_args()
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    file = arguments.workdir / RESULTS
    wanted = (
        arguments.only.split(",") if arguments.only else [f"{name}:{depth}" for name in DATASETS for depth in SEEDS]
    )
    found = read(file)
    for dataset, depth in (each.split(":") for each in wanted):
        for seed in range(arguments.seeds or SEEDS[depth]):
            for views in VIEWS:
                if (dataset, depth, seed, views) in found:
                    continue
                result = train_once(arguments, dataset, depth, seed, views)
                row = {"dataset": dataset, "depth": depth, "seed": seed, "views": views, **result}
                with file.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
                found[dataset, depth, seed, views] = result["test"]
                print(
                    f"{dataset} {depth} seed {seed} {views or 'fresh'} views: {result['test']:.4f}, "
                    f"{result['seconds']:.0f} s",
                    flush=True,
                )
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
