"""Kills a training, or a study, at random moments, starting it again each time, and checks how it ends.

    python -m tests.integration.kill_at_random [--mode=train|study] [--kills=50] [--seed=0]

It is not a test of the suite, since it takes minutes. The run is killed with SIGKILL after a random part of the time
that it would still need, start included; then, or when it has ended and was started anew in another directory, it is
started again, until there were so many kills. Every run that ends must have the metrics, the result and, bit for bit,
the last checkpoint of one that was left alone.

On 2 CPU cores `--mode=train --seed=6` printed

    left alone: 8.6 s
    50 kills ({'with results': 8, 'with checkpoints or cells': 33, 'before the first': 9}), 88 starts, 38 ends, all of
    them as if left alone, in 412 s

and `--mode=study --seed=6`

    left alone: 6.6 s
    50 kills ({'with checkpoints or cells': 42, 'before the first': 8}), 69 starts, 19 ends, all of them as if left
    alone, in 253 s
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import orbax.checkpoint as ocp
from PIL import Image

from tests.conftest import ROOT

CONFIG = """from tests import small


def get_config():
    config = small.digits_config(
        weights="embedded:glyphs", freeze="all", batch_size=4, steps=30, evaluate_every_steps=10,
        checkpoint_every_steps=2, data={"name": "folder", "root": FOLDER, "shots": None, "validation": 4, "crop":
        "random", "scan_dir": "",
              "threads": 2})
    if STUDY:
        config.data.views = 2
        config.study.update({"preset": "", "heads": ("kept", "traditional"), "depths": ("all",), "learning_rates":
        (0.01,),
                             "seeds": (0, 1), "together": 1, "checkpoint_seconds": 0.0, "cache": "file"})
    return config
"""


def start(mode, folder, name):
    return subprocess.Popen(
        [sys.executable, "main.py", f"--mode={mode}", f"--config={folder}/config.py", f"--workdir={folder}/{name}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def contents(mode, workdir):
    """Everything in a finished directory that must be the same in every run, by name."""
    workdir = pathlib.Path(workdir)
    if mode == "study":
        paths = sorted(workdir.rglob("cells/*.json"))
        found = {str(path.relative_to(workdir)): json.loads(path.read_text()) for path in paths}
        for cell in found.values():
            cell["history"] = [{**point, "seconds": 0} for point in cell["history"]]
        return {name: {key: value for key, value in cell.items() if key != "seconds"} for name, cell in found.items()}
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = {
        "metrics": [{key: value for key, value in row.items() if key != "seconds"} for row in rows],
        "result": {**json.loads((workdir / "result.json").read_text()), "seconds": 0},
        "files": sorted(path.name for path in workdir.iterdir()),
    }
    last = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    with ocp.StandardCheckpointer() as checkpointer:
        for item in ("network", "training"):
            tree = checkpointer.restore(workdir / "checkpoints" / str(last) / item)
            found[item] = [np.asarray(leaf).tobytes() for leaf in ocp.tree.to_flat_dict(tree).values()]
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=("train", "study"), default="train")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for index in range(16):
            path = pathlib.Path(folder, "images", "train" if index < 12 else "test", "ab"[index % 2], f"{index:02}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (10, 10, 3), np.uint8)).save(path)
        pathlib.Path(folder, "config.py").write_text(
            CONFIG.replace("FOLDER", repr(f"{folder}/images")).replace("STUDY", str(options.mode == "study"))
        )
        os.environ.update(
            JAX_COMPILATION_CACHE_DIR=f"{folder}/compiled", JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0"
        )
        for name in ("first", "whole"):  # The second finds everything compiled, as all that follow do.
            begun = time.monotonic()
            process = start(options.mode, folder, name)
            said = process.communicate()[0].decode()
            assert process.returncode == 0, said
            seconds = time.monotonic() - begun
        expected, kills, finished, starts, stages = contents(options.mode, f"{folder}/whole"), 0, 0, 0, {}
        print(f"left alone: {seconds:.1f} s", flush=True)
        begun = time.monotonic()
        while True:
            process = start(options.mode, folder, "run")
            starts += 1
            try:
                said = process.communicate(
                    timeout=random.uniform(0.1, 1.1) * seconds if kills < options.kills else None
                )[0]
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                place = pathlib.Path(folder, "run")
                steps = [path.name for path in place.glob("checkpoints/*")] + [
                    p.name for p in place.glob("cells/*.json")
                ]
                stage = (
                    "with results"
                    if (place / "result.json").exists()
                    else "with checkpoints or cells"
                    if steps
                    else "before the first"
                )
                stages[stage] = stages.get(stage, 0) + 1
                continue
            assert process.returncode == 0, said.decode()
            assert contents(options.mode, f"{folder}/run") == expected, f"another end after {kills} kills"
            finished += 1
            shutil.rmtree(f"{folder}/run")
            if kills >= options.kills:
                break
        print(
            f"{kills} kills ({stages}), {starts} starts, {finished} ends, all of them as if left alone, in "
            f"{time.monotonic() - begun:.0f} s"
        )


if __name__ == "__main__":
    main()
