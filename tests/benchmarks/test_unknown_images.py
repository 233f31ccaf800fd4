import numpy as np
import pytest
from PIL import Image

from flax_augtl.benchmarks import kept_features, unknown_images
from flax_augtl.benchmarks.unknown_images import Found, Seen


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of images that are easy to tell apart, with two classes each."""
    root, rng = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for name, base in (("dark", 0), ("bright", 150)):
        for label in range(2):
            (root / name / f"class{label}").mkdir(parents=True)
            for number in range(20):
                pixels = rng.integers(base + 50 * label, base + 50 * label + 50, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(root / name / f"class{label}" / f"{number}.png")
    return [str(root / name) for name in ("dark", "bright")]


@pytest.mark.slow
def test_the_table_has_a_line_for_each_dataset_and_features_are_kept(folders, tmp_path, capsys, monkeypatch):
    flags = ["--network=resnet20", "--weights=embedded:glyphs", "--image_size=16", f"--keep={tmp_path}", "--images=30"]
    unknown_images.main([*folders, *flags])
    first, _, header, _, *rows = capsys.readouterr().out.splitlines()
    assert first == "AUROC, false alarms, unknown images found; resnet20, 16 pixels"
    assert header == "| known | Mahalanobis | 5 nearest neighbours | energy | highest probability |"
    assert [row.split(" | ")[0] for row in rows] == ["| dark", "| bright", "| mean"]
    assert len(list(tmp_path.iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(kept_features, "_computed", None)  # The second call computes nothing.
        unknown_images.main([*folders, *flags])
    assert capsys.readouterr().out.splitlines()[4:] == rows
    unknown_images.main([*folders, *flags, "--tuned"])
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_scores_that_tell_all_unknown_images_apart():
    rng = np.random.default_rng(0)

    def seen(classes, count):
        features = np.eye(6)[rng.choice(classes, count)] + 0.01 * rng.normal(size=(count, 6))
        return Seen(features, 9 * features[:, :2])

    train = seen([0, 1], 100)
    found = unknown_images.compare(
        train, train.features.argmax(1), seen([0, 1], 60), seen([0, 1], 50), seen([3, 4], 40)
    )
    assert found["Mahalanobis"].auroc == found["5 nearest neighbours"].auroc == 1.0
    assert found["Mahalanobis"].found == 1.0 and found["Mahalanobis"].false_alarms < 0.15


def test_the_last_line_is_the_mean():
    rows = {"a": {"x": Found(0.9, 0.04, 0.5)}, "b": {"x": Found(0.7, 0.08, 0.7)}}
    assert unknown_images.table(rows).splitlines()[-1] == "| mean | 0.800, 6 %, 60 % |"


def test_images_and_classes_are_evenly_spaced():
    paths = [f"{label}/{i}.jpg" for label in "abcde" for i in range(4)]
    assert kept_features.chosen(paths, 6, 3) == ["a/0.jpg", "a/2.jpg", "c/0.jpg", "c/2.jpg", "e/0.jpg", "e/3.jpg"]
    train, val, test = kept_features.splits((0,) * 20 + (1,) * 40)
    assert (len(train), len(val), len(test)) == (33, 12, 15)
    assert sorted(np.concatenate([train, val, test])) == list(range(60))
