"""Embeddings: what a layer computes, with and without its places, and the files of them; nearest training images."""

import jax
import numpy as np
import pytest
from etils import epath

from flax_augtl.data.images.preprocessing import Preprocessing
from flax_augtl.errors import UserError
from flax_augtl.trust import embeddings, neighbours
from tests import small

PREPROCESSING = Preprocessing(image_size=16)


@pytest.fixture(scope="module", params=["resnet", "vgg"])
def made(request):
    network = small.network("kept", request.param)
    size = max(16, network.source.smallest_image)
    preprocessing = Preprocessing(image_size=size)
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    return network, small.variables(network, size), preprocessing, images


def test_pooled_embeddings_are_means_over_the_places_of_the_others(made):
    network, variables, preprocessing, images = made
    x = preprocessing.normalise(images)
    groups = network.source.groups
    chosen = groups[1], embeddings.checked_layer(network, None)
    outputs = jax.jit(lambda x: {group: network.apply(variables, x, 0, groups.index(group) + 1) for group in chosen})(x)
    for group in chosen:
        pooled, places = (
            np.asarray(embeddings.compiled_embed_step(network, preprocessing, group, flag)(variables, images))
            for flag in (True, False)
        )
        assert pooled.dtype == np.float32 and pooled.ndim == 2
        wanted = outputs[group]
        if wanted.ndim == 4:
            np.testing.assert_allclose(places, wanted, rtol=1e-4, atol=1e-5)
        if places.ndim == 4:
            np.testing.assert_allclose(pooled, places.mean((1, 2)), rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_allclose(pooled, wanted, rtol=1e-4, atol=1e-5)


def test_the_last_stage_has_places_although_the_network_averages_them():
    network = small.network("traditional")
    variables = small.variables(network, 16)
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    places = embeddings.compiled_embed_step(network, PREPROCESSING, "layer3", False)(variables, images)
    assert places.shape == (2, 4, 4, 8)
    wanted = jax.jit(lambda x: network.apply(variables, x, 0, 4))(PREPROCESSING.normalise(images))
    np.testing.assert_allclose(places.mean((1, 2)), wanted, rtol=1e-4, atol=1e-5)


def test_an_unknown_layer_is_an_error_that_names_the_others():
    network = small.network("kept")
    with pytest.raises(
        UserError, match=r"^--layer=layer9 is not one of the layer groups of this network: stem, layer1"
    ):
        embeddings.checked_layer(network, "layer9")
    with pytest.raises(UserError, match="head is the new layers"):
        embeddings.checked_layer(network, "head")
    assert embeddings.checked_layer(network, None) == "layer3"


def test_an_npz_file_has_paths_beside_the_embeddings(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    path = embeddings.output_path(None, epath.Path(tmp_path))
    embeddings.write(path, ["a.jpg", "b\udce9.jpg"], rows, "layer4")
    with np.load(path) as found:
        np.testing.assert_array_equal(found["embeddings"], rows)
        assert found["paths"].tolist() == ["a.jpg", r"b\xe9.jpg"] and found["layer"] == "layer4"


def test_a_parquet_file_has_a_row_for_each_image(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    path = embeddings.output_path(str(tmp_path / "x.parquet"), epath.Path(tmp_path))
    embeddings.write(path, ["a.jpg", "b.jpg"], rows, "layer4")
    table = parquet.read_table(path)
    assert table.column("path").to_pylist() == ["a.jpg", "b.jpg"]
    np.testing.assert_array_equal(table.column("embedding").to_pylist(), rows.reshape(2, 6))
    assert table.schema.metadata == {b"layer": b"layer4", b"shape": b"2,3"}


@pytest.mark.parametrize(
    "output, message",
    [("x.csv", "must end in .npz or .parquet"), ("nowhere/x.npz", "does not exist. Create it")],
)
def test_a_file_that_cannot_be_written_is_an_error(tmp_path, output, message):
    with pytest.raises(UserError, match=message):
        embeddings.output_path(str(tmp_path / output), epath.Path(tmp_path))


def test_the_nearest_training_images_are_those_of_a_whole_comparison(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    features, images = rng.normal(size=(40, 5)), rng.normal(size=(3, 5))
    known = neighbours.training_features(9, [str(i) for i in range(40)], np.arange(40) % 4, features)
    places, similar = known.nearest(images, 6)
    cosine = images @ features.T / np.linalg.norm(images, axis=1)[:, None] / np.linalg.norm(features, axis=1)
    np.testing.assert_array_equal(places, np.argsort(-cosine, axis=1)[:, :6])
    np.testing.assert_allclose(similar, -np.sort(-cosine, axis=1)[:, :6], atol=1e-3)
    assert known.nearest(images, 100)[0].shape == (3, 40)


def test_kept_training_features_are_read_for_the_same_weights_only(tmp_path):
    path = embeddings.output_path(None, epath.Path(tmp_path)).parent / neighbours.NAME
    known = neighbours.training_features(9, ["a", "b\udce9"], np.array([1, 0]), np.eye(2))
    known.write(path)
    again = neighbours.read(path, 9)
    assert again is not None and again.ids == known.ids and again.labels.tolist() == [1, 0]
    assert neighbours.read(path, 8) is None
    path.write_bytes(path.read_bytes()[:100])
    assert neighbours.read(path, 9) is None
    path.unlink()
    assert neighbours.read(path, 9) is None
