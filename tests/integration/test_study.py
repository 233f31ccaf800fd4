"""main.py --mode=study as a user runs it: several workers, a kill in mid-cell, and the network that is left."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from flax_augtl import load_run
from tests.conftest import ROOT

ARGUMENTS = ["main.py", "--mode=study", "--config=tests/integration/tiny_study.py"]
# Kills itself in the middle of a cell: after the second checkpoint within one.
KILLED = """
import os, runpy, signal, sys
from flax_augtl.study.trials.trial_checkpoint import Partial
save, count = Partial.save, []
def killing(self):
    save(self)
    count.append(1)
    if len(count) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Partial.save = killing
sys.argv = sys.argv[1:]
sys.path.insert(0, os.getcwd())
runpy.run_path("main.py", run_name="__main__")
"""


def start(*arguments):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, text=True, **pipes)


def ended(process, code=0):
    said, errors = process.communicate(timeout=600)
    assert process.returncode == code, said + errors
    return said


def rows(folder):
    """What the cells of a study measured, without what depends on the clock."""
    found = {}
    for path in sorted((folder / "cells").glob("*.json")):
        row = json.loads(path.read_text())
        history = [{name: value for name, value in point.items() if name != "seconds"} for point in row.pop("history")]
        found[path.stem] = {name: value for name, value in row.items() if name not in ("seconds", "together")} | {
            "history": history
        }
    return found


def table(folder):
    """The rows of study.csv, without what depends on the clock."""
    with (folder / "study.csv").open(newline="") as file:
        return [
            {name: value for name, value in row.items() if "seconds" not in name and name != "together"}
            for row in csv.DictReader(file)
        ]


@pytest.mark.slow
def test_two_workers_do_each_cell_once_and_a_killed_one_is_taken_over(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    said = ended(start(*ARGUMENTS, f"--workdir={alone}"))
    assert "minus" in said and (alone / "report.html").exists()
    assert len(rows(alone)) == 6
    # One worker is killed in the middle of a cell; two others then finish together, and take its cell over.
    ended(start("-c", KILLED, *ARGUMENTS, f"--workdir={shared}"), -signal.SIGKILL)
    assert list((shared / "partial").iterdir()) and len(rows(shared)) < 6
    before = set(rows(shared))
    damaged = shutil.copytree(shared, tmp_path / "damaged")
    files = [path for path in (damaged / "partial").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert "cannot be used" in ended(start(*ARGUMENTS, f"--workdir={damaged}"))
    assert rows(damaged) == rows(alone)
    workers = [start(*ARGUMENTS, f"--workdir={shared}") for _ in range(2)]
    lines = [line for worker in workers for line in ended(worker).splitlines()]
    trained = [name for line in lines for name in rows(alone) if f" {name} " in line and "left" in line]
    assert sorted(trained) == sorted(set(rows(alone)) - before)
    assert rows(shared) == rows(alone)
    assert not list((shared / "partial").iterdir())
    # The network that is left and the rows that were written are those of a study that nothing disturbed.
    for place in (shared, damaged):
        jax.tree.map(
            np.testing.assert_array_equal, load_run(place / "best").variables, load_run(alone / "best").variables
        )
    assert table(shared) == table(alone) == table(damaged)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "new.png")
    predicted = start("main.py", "--mode=predict", f"--workdir={shared / 'best'}", f"--images={tmp_path / 'new.png'}")
    assert "new.png" in ended(predicted)
    # Other data than the finished cells': here by the fingerprint that is kept of them.
    kept = json.loads((damaged / "data.json").read_text())
    (damaged / "data.json").write_text(json.dumps({**kept, "1": "0" * 32}))
    refused = start(*ARGUMENTS, f"--workdir={damaged}")
    errors = refused.communicate(timeout=600)[1]
    assert refused.returncode == 1 and "The data have changed since the study in" in errors


@pytest.mark.slow
def test_flags_that_make_no_sense_are_told(tmp_path):
    for flag in ("0/2", "3/2", "x", "1"):
        process = start(*ARGUMENTS, f"--workdir={tmp_path}", f"--cells={flag}")
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 1 and f"--cells={flag} must be i/n" in errors
    assert os.listdir(tmp_path) == []
