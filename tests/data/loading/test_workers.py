import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from flax_augtl.data import DataError, Examples, eval_batches, load_dataset, train_batches
from flax_augtl.data.images.transforms import evaluation_path, training_path
from flax_augtl.data.loading.maker import make
from flax_augtl.data.loading.workers import Workers

SIZE = 24


@pytest.fixture
def train(make_folder):
    return load_dataset({"root": make_folder({"a": 12, "b": 12}, suffix=".jpg"), "validation": 0}, seed=0).train


@pytest.fixture
def loaded(preprocessing, data):
    """(examples, other arguments) → an iterator over batches that one worker makes."""

    def run(examples, batch_size=8, steps=20, **fields):
        return train_batches(examples, preprocessing(SIZE), data(workers=1, **fields), batch_size=batch_size,
                             image_size=SIZE, seed=0, steps=steps)  # fmt: skip

    return run


def children():
    """The process ids of the processes that this one started."""
    return {int(process) for process in os.listdir("/proc") if process.isdigit() and _parent(process) == os.getpid()}


def _parent(process):
    try:
        return int(Path("/proc", process, "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def test_a_worker_imports_neither_jax_nor_grain():
    """Each takes seconds, which the first batch would have to wait."""
    program = """
import sys
import flax_augtl.data.loading.workers, flax_augtl.data.images.preprocessing
from flax_augtl.data import ArraySource
from flax_augtl.data.images import decode
from flax_augtl.data.sources import image_files, tfds_records
flax_augtl.pretrained.Preprocessing(image_size=8)
print(sorted({"jax", "flax", "grain", "tensorflow", "tensorflow_datasets"} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"


@pytest.fixture
def black():
    """A class of sources of 32 black images that look, in the worker, which modules are there."""

    class Black:  # In here, as a worker would otherwise import this file, and all that it imports.
        def __len__(self):
            return 32

        def __getitem__(self, index):
            import sys

            strange = {"jax", "flax", "grain"} & set(sys.modules)
            if strange:
                raise RuntimeError(f"The worker has imported {strange}.")
            return np.zeros((SIZE, SIZE, 3), np.uint8)

    return Black


def of(source):
    return Examples(source, np.arange(32), np.arange(32, dtype=np.int32) % 2, tuple(map(str, range(32))))


def test_what_a_worker_gets_makes_it_import_neither(black, loaded, preprocessing, data):
    examples = of(black())
    assert len(list(loaded(examples, steps=2))) == 2
    assert len(list(loaded(examples, steps=2, crop="none"))) == 2
    assert len(list(loaded(examples, steps=2, crop="random"))) == 2
    assert len(list(eval_batches(examples, preprocessing(SIZE), data(workers=2), batch_size=24, image_size=SIZE))) == 2


def test_workers_make_what_a_thread_makes(train, preprocessing, data):
    for path in (training_path(data(), preprocessing(SIZE), SIZE), evaluation_path(preprocessing(SIZE), SIZE)):
        pool = Workers(2, train.source, path, slots=3, rows=5)
        try:
            for first in range(0, 15, 5):
                which = np.arange(first, first + 5)
                asked = train.indices[which].copy(), train.draw_ids[which], np.arange(5, dtype=np.int32)
                asked[0][1] = -1  # A blank, where the slot still has another image the second time.
                expected = np.empty((5, SIZE, SIZE, 3), np.uint8)
                make(expected, train.source, path, *asked)
                for _ in range(2):
                    slot, images, unreadable = pool.make(*asked)
                    assert unreadable == {}
                    np.testing.assert_array_equal(images, expected)
                    pool.release(slot)
                assert not expected[1].any() and expected[0].any()
        finally:
            pool.close()


def test_unreleased_pieces_wait_for_room(train, preprocessing, data):
    pool = Workers(1, train.source, training_path(data(), preprocessing(SIZE), SIZE), slots=2, rows=1)
    try:
        asked = train.indices[:1], train.draw_ids[:1], np.zeros(1, np.int32)
        first, *_ = pool.make(*asked)
        second, *_ = pool.make(*asked)
        assert first != second
        third = []
        waiting = threading.Thread(target=lambda: third.append(pool.make(*asked)[0]))
        waiting.start()
        waiting.join(0.2)
        assert not third
        pool.release(first)
        waiting.join()
        assert third == [first]
    finally:
        pool.close()


def test_the_processes_end_with_the_iterator(train, loaded):
    before = children()
    batches = loaded(train)
    next(batches)
    assert len(children() - before) == 1
    batches.close()
    assert children() == before
    assert len(list(loaded(train, steps=3))) == 3
    assert children() == before


def test_an_error_of_a_worker_is_the_callers(train, loaded):
    victim = train.source.path(int(train.indices[3]))
    open(victim, "wb").close()
    before = children()
    with pytest.raises(DataError, match=f"{os.path.basename(victim)} cannot be read: it is empty"):
        list(loaded(train, steps=3))
    assert children() == before


def test_a_worker_that_is_killed_is_an_error_and_no_hang(train, loaded):
    before = children()
    batches = loaded(train, steps=10**6)
    next(batches)
    (process,) = children() - before
    os.kill(process, signal.SIGKILL)
    with pytest.raises(DataError, match=r"worker process .* has ended \(exit code -9\).*config.data.workers"):
        for _ in batches:
            pass
    assert children() == before


def test_a_source_that_cannot_be_sent_is_a_sentence(black, loaded):
    source = black()
    source.lock = threading.Lock()
    with pytest.raises(DataError, match="cannot be sent to worker processes.*config.data.workers=0"):
        next(loaded(of(source)))


def test_workers_end_when_the_main_process_is_killed(make_folder):
    """As by the system for want of memory: nothing can be put in order then."""
    root = make_folder({"a": 12, "b": 12})
    program = f"""
import os
from flax_augtl.config.data_config import DataConfig
from flax_augtl.data import load_dataset, train_batches
from flax_augtl.pretrained import Preprocessing
train = load_dataset({{"root": {str(root)!r}, "validation": 0}}, seed=0).train
data = DataConfig(workers=2)
batches = train_batches(train, Preprocessing(24), data, batch_size=8, image_size=24, seed=0, steps=10**6)
next(batches)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    # The workers have its standard error: that it ends says that all of them have ended.
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert not done.stderr
