"""A dry run without weights and data."""

import numpy as np
import pytest

from flax_augtl.config.convert import typed
from flax_augtl.config.networks import NETWORKS
from flax_augtl.configs import evidence, paper
from flax_augtl.data.errors import DataError
from flax_augtl.errors import UserError
from flax_augtl.study.grid import make_grid
from flax_augtl.study.stand_ins import HEIGHT, WIDTH, BlankImages, stand_ins
from flax_augtl.study.study import study
from tests import small


def missing(**data):
    """A small study whose weights and data are not there."""
    return small.digits_config(
        weights="absent.pth",
        data={"name": "folder", "root": "absent/flowers12", "shots": 5, "validation": 0.2, **data},
        study={
            "preset": "",
            "heads": ("traditional", "kept"),
            "depths": ("all",),
            "learning_rates": (0.01,),
            "views": 1,
        },
    )


def test_a_blank_image_is_decoded_anew_each_time():
    images = BlankImages(3)
    assert len(images) == 3 and np.asarray(images[0]).shape == (HEIGHT, WIDTH, 3)
    assert images[0] is not images[1]


def test_blank_data_have_the_sizes_of_the_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = stand_ins(typed(missing()))
    assert found.random_weights and [*found.datasets] == [0, 1, 2, 3, 4, 5]
    dataset = found.datasets[0]
    assert (len(dataset.class_names), len(dataset.train), len(dataset.val), len(dataset.test)) == (12, 48, 12, 300)
    assert found.notes[0].startswith("There is no checkpoint at absent.pth.")
    assert found.notes[1].endswith("as many blank images of 500 x 375 pixels as flowers12 has.")


def test_what_is_there_has_no_stand_in():
    assert stand_ins(typed(small.digits_config(weights="embedded:glyphs"))) is None


def test_data_of_unknown_size_are_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match="A dry run can do without the data of oxford_flowers102, .*, whose sizes it knows"
    ):
        stand_ins(typed(missing(root="absent/photos")))


def test_a_plan_without_weights_and_data_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert study(missing(), tmp_path / "runs", dry_run=True) is None
    out = capsys.readouterr().out
    assert "Timing one block of images" in out and "\n24 trials, " in out
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match="absent"):
        study(missing(), tmp_path / "runs")


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        (paper, "alexnet", "configs/paper.py:alexnet is not understood. Write NETWORK,DATA, such as alexnet,oxford"),
        (paper, "vgg16,imagenet", "Fine-grained data: oxford_flowers102, "),
        (evidence, "flowers12", "Write DATASET,NETWORK,IMAGES_A_CLASS, such as flowers12,resnet18,5"),
        (evidence, "flowers12,resnet18,1", "is not understood"),
        (evidence, "photos,resnet18,5", "the datasets are bloodcells8, flowers12"),
        (evidence, "aid30,resnet18,5,tuner", "add ,tuned"),
    ],
)
def test_words_that_are_not_understood_are_errors(config, words, message):
    with pytest.raises(UserError, match=message):
        config.get_config(words)


def test_the_words_of_the_configs():
    made = paper.get_config("vgg16,caltech256")
    assert (made.network, made.data.name, made.data.root) == ("vgg16", "folder", "caltech256")
    grid = make_grid(typed(made), NETWORKS["vgg16"].groups, pretrained=True, classifier=True)
    assert len(grid.heads) == 30 and grid.axis == ("none", *NETWORKS["vgg16"].groups[:-1], "all")
    assert {settings.norm for settings in grid.heads.values()} == {"none", "l2", "batch"}
    made = evidence.get_config("caltech101,resnet50,30,tuned")
    assert (made.network, made.data.shots, made.study.depths) == ("resnet50", 30, ("layer3", "all"))
    assert typed(made).data.metric == "mean_per_class"
