"""What a person sees."""

import numpy as np
from PIL import Image

from flax_augtl.runtime import text
from flax_augtl.training import log
from flax_augtl.training.confusion import confusion_image
from flax_augtl.workdir import files


def test_durations_read_like_a_clock():
    shown = [text.duration(seconds) for seconds in (0, 59.6, 245, 3723, -1)]
    assert shown == ["0:00", "1:00", "4:05", "1:02:03", "0:00"]


def test_without_a_terminal_lines_tell_progress_and_time_left(tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    seen = log.RunLog(tmp_path, total_steps=10, step=0, batch_size=8, seconds_between_lines=20)
    for step in range(1, 6):
        seen.step(step, 1 / step)  # Ten seconds a step.
    seen.write(5, "val", {"top1": 0.5})
    seen.close()
    assert capsys.readouterr().err.splitlines() == [
        "step 3/10  loss 0.333  1 images/s  1:10 left",
        "step 5/10  loss 0.200  1 images/s  0:50 left",
    ]
    assert files.read_metrics(tmp_path) == [{"step": 5, "split": "val", "top1": 0.5}]


def test_bars_are_for_terminals_and_notebooks(monkeypatch):
    stream = type("OutStream", (), {"isatty": lambda self: False})
    for module, shown in (("io", False), ("ipykernel.iostream", True)):
        stream.__module__ = module
        monkeypatch.setattr("sys.stderr", stream())
        assert text.shows_bars() is shown
    monkeypatch.setattr("sys.stderr", type("Terminal", (), {"isatty": lambda self: True})())
    assert text.shows_bars()


def test_names_that_no_font_has_are_numbers_and_long_ones_leave_room():
    unknown = "\U00010600" * 3  # Linear A. Warnings are errors here, and matplotlib warns of a letter that it lacks.
    counts = np.full((3, 3), 5)
    pictures = [confusion_image(counts, ("a", "b", third)) for third in ("class 2", unknown, "名" * 99, "y" * 99)]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    blue = [(picture[..., 2].astype(int) > picture[..., 0] + 60).any(0).sum() for picture in pictures]
    assert min(blue[2:]) > 0.8 * blue[0]


def test_the_confusion_matrix_is_darkest_where_most_examples_are(tmp_path):
    picture = confusion_image(np.array([[10, 0], [5, 5]]), ("a $\\frac$ <b>", "long" * 20)).astype(int).sum(-1)
    assert picture.shape[0] >= 400 and (picture == 3 * 255).mean() > 0.2
    seen = log.RunLog(tmp_path, total_steps=1, step=0, batch_size=1, quiet=True)
    seen.write_confusion("test", np.eye(130), [str(index) for index in range(130)], 1)
    seen.close()
    with Image.open(tmp_path / "confusion_test.png") as picture:
        assert picture.mode == "RGB" and min(picture.size) > 1000
