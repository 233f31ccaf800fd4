"""What the soak test counts as growth."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from flax_augtl.benchmarks import soak
from tests.conftest import ROOT


def test_a_leak_is_distinguished_from_a_start_that_settles():
    steady = [(15.0 * i, 500.0 if i > 6 else 100.0 * i, 12 + 3 * (i % 5 == 0), 40) for i in range(1, 41)]
    assert {name: more for name, (_, _, more) in soak.verdict(steady).items()} == {
        "memory, MB": False,
        "open files": False,
        "threads": False,
    }
    leaking = [(t, mb + t, files + int(t // 60), threads + int(t // 100)) for t, mb, files, threads in steady]
    assert all(more for _, _, more in soak.verdict(leaking).values())
    pool = [(t, mb, files, threads + (t > 300)) for t, mb, files, threads in steady]
    assert not any(more for _, _, more in soak.verdict(pool).values())


def test_threads_are_counted_by_name():
    waiting = threading.Event()
    with ThreadPoolExecutor(3, thread_name_prefix="some-pool") as pool:
        work = [pool.submit(waiting.wait) for _ in range(3)]
        names = soak.thread_names()
        waiting.set()
        [each.result() for each in work]
    assert names["some-pool"] == 3 and names["MainThread"] == 1
    assert names.total() >= threading.active_count()


def test_threads_of_tensorstore_are_not_counted():
    waiting = threading.Event()
    before = soak.sample(0.0)[3]
    threads = [threading.Thread(target=waiting.wait, name=name) for name in ("ts_pool_worker_7", "another")]
    [thread.start() for thread in threads]
    during = soak.sample(0.0)[3]
    waiting.set()
    [thread.join() for thread in threads]
    assert during == before + 1


def test_a_sample_counts_this_process():
    seconds, megabytes, _, threads = soak.sample(0.0)
    # In a process of its own, because threads of other tests may close their files in the meantime.
    counted = (
        "from flax_augtl.benchmarks import soak; before = soak.sample(0.0)[2]; one, two = open('main.py'), open('main.py'); "
        "print(soak.sample(0.0)[2] - before)"
    )
    done = subprocess.run([sys.executable, "-c", counted], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["2"]
    assert seconds > 0 and megabytes > 10 and threads >= 1
