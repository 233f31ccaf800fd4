"""Leases: one worker each, kept alive, taken over when the worker is silent or gone."""

import json
import os
import subprocess
import sys
import time

import pytest

from flax_augtl.study.leases import Leases


@pytest.fixture
def make(tmp_path):
    made = []

    def leases(seconds=60.0):
        made.append(Leases(tmp_path / "claims", seconds))
        return made[-1]

    yield leases
    for each in made:
        each.close()


def test_one_of_two_workers_holds_a_lease(make):
    one, two = make(), make()
    assert one.take("a") and not two.take("a") and two.take("b")
    assert [name for name in "abc" if one.take(name)] == ["a", "c"]
    one.release("a")
    assert two.take("a")


def test_a_silent_worker_loses_its_leases_and_notices(make, tmp_path):
    one, two = make(), make()
    one.take("a")
    old = time.time() - 61
    os.utime(tmp_path / "claims" / "a.0", (old, old))
    assert two.take("a") and two.holds("a") and not one.holds("a")
    assert sorted(path.name for path in (tmp_path / "claims").iterdir()) == ["a.0", "a.1"]


def test_a_worker_that_lives_keeps_its_leases(make):
    one, two = make(0.5), make(0.5)
    one.take("a")
    time.sleep(1.2)
    assert not two.take("a") and one.holds("a")


def test_the_lease_of_a_process_that_was_killed_is_taken_over_at_once(make, tmp_path):
    code = (
        "from flax_augtl.study.leases import Leases; import os, signal, pathlib\n"
        f"assert Leases(pathlib.Path({str(tmp_path / 'claims')!r}), 600.0).take('a')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert make(600.0).take("a")


def test_a_lease_that_cannot_be_read_is_respected_until_it_expires(make, tmp_path):
    leases = make()
    (tmp_path / "claims" / "a.0").write_text(json.dumps({"host": 3}))
    assert not leases.take("a")


def test_closing_gives_everything_back(make, tmp_path):
    leases = make()
    assert leases.take("a") and leases.take("b.c")
    leases.close()
    assert not list((tmp_path / "claims").iterdir())
