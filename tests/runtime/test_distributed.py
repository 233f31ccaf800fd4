"""A process on its own, where several could be."""

from flax_augtl.runtime import distributed


def test_a_process_on_its_own_agrees_with_itself():
    assert distributed.is_first() and distributed.gather("ä") == ["ä"]
    assert distributed.first_decides(lambda: [3, 4]) == [3, 4]
    distributed.require_equal("a", "They differ.")
    distributed.wait()
    assert distributed.describe() == "1 process, 4 × cpu (cpu)"
