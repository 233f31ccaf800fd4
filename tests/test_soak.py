"""What the soak calls growth."""

from flax_augtl import soak


def test_growth_after_the_second_minute_is_told_from_a_start_that_settles():
    steady = [(15.0 * i, 500.0 if i > 6 else 100.0 * i, 12 + 3 * (i % 5 == 0), 40) for i in range(1, 41)]
    assert {name: more for name, (_, _, more) in soak.verdict(steady).items()} == {
        "memory, MB": False, "open files": False, "threads": False}
    leaking = [(t, mb + t, files + int(t // 60), threads + int(t // 100)) for t, mb, files, threads in steady]
    assert all(more for _, _, more in soak.verdict(leaking).values())


def test_a_sample_counts_this_process():
    seconds, megabytes, files, threads = soak.sample(0.0)
    with open(__file__), open(__file__):
        assert soak.sample(0.0)[2] == files + 2
    assert seconds > 0 and megabytes > 10 and threads >= 1
