"""Weights at addresses, in several files, and at paths that are mistyped."""

import functools
import hashlib
import http.server
import json
import threading

import numpy as np
import pytest
from safetensors.numpy import save, save_file

import flax_augtl
from flax_augtl.pretrained import CheckpointError, load_source
from flax_augtl.pretrained.fetch import cached, local_or_named
from tests import small


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by their paths on loopback, and records the requests."""

    def __init__(self):
        self.files, self.asked, self.cut = {}, [], False
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, server_of=self))
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self):
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, *arguments, server_of):
        self.of = server_of
        super().__init__(*arguments)

    def do_GET(self):
        self.of.asked.append(self.path)
        content = self.of.files.get(self.path.partition("?")[0])
        if isinstance(content, str):
            self.send_response(302)
            self.send_header("Location", content)
            self.end_headers()
            return
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write((content or b"")[: 1000 if self.of.cut else None])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.stop()


def refused(weights, **settings):
    with pytest.raises(CheckpointError) as error:
        load_source(None, weights, **settings)
    return str(error.value)


def test_an_address_is_fetched_once_into_the_cache(server, tmp_path, state_dict):
    content = save(state_dict)
    server.files = {"/a/w.safetensors": content, "/moved": f"{server.address}/a/w.safetensors"}
    url = f"{server.address}/a/w.safetensors"
    for _ in range(2):
        source = load_source(None, url)
        assert source.name == "resnet20" and source.terms["origin"] == url and source.terms["file"] == "w.safetensors"
        assert source.terms["sha256"] == hashlib.sha256(content).hexdigest()
    assert server.asked == ["/a/w.safetensors"]
    assert cached(url).read_bytes() == content and cached(url).is_relative_to(tmp_path / "cache" / "flax_augtl")
    assert [file.name for file in cached(url).parent.iterdir()] == ["w.safetensors"]
    assert "not " + "0" * 64 + " as asked" in refused(url, sha256="0" * 64)
    assert load_source(None, f"{server.address}/moved").name == "resnet20"


@pytest.mark.slow
def test_a_run_trains_from_an_address(server, tmp_path, state_dict):
    server.files = {"/w.pth": save(state_dict)}
    config = small.digits_config(weights=f"{server.address}/w.pth", freeze="all", steps=1)
    run = flax_augtl.train(config, tmp_path / "run", quiet=True)
    kernel = run.variables["params"]["source"]["stem"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, state_dict["conv1.weight"].transpose(2, 3, 1, 0))


def test_a_secret_in_an_address_is_not_kept(server, state_dict):
    server.files = {"/w.safetensors": save(state_dict)}
    source = load_source(None, f"{server.address}/w.safetensors?token=abc")
    assert source.terms["origin"] == f"{server.address}/w.safetensors" and server.asked == ["/w.safetensors?token=abc"]


def test_a_failed_download_leaves_no_file(server, state_dict):
    url = f"{server.address}/w.safetensors"
    assert refused(url) == f"{url} could not be fetched: the server answers 404 (Not Found)."
    server.files, server.cut = {"/w.safetensors": save(state_dict)}, True
    assert f"{url} could not be fetched: " in refused(url)
    assert not list(cached(url).parent.iterdir())
    server.cut = False
    assert load_source(None, url).name == "resnet20"
    server.stop()
    assert "could not be fetched: " in refused(f"{server.address}/other.safetensors")


def test_a_web_page_instead_of_a_file(server):
    server.files = {"/w.pth": b"<!doctype html><html>log in</html>"}
    assert "is a web page" in refused(f"{server.address}/w.pth")


def test_a_cache_that_cannot_be_written(server, tmp_path, state_dict):
    server.files = {"/w.pth": save(state_dict)}
    (tmp_path / "cache").write_text("in the way")
    assert "cannot be written: Not a directory" in refused(f"{server.address}/w.pth")


def test_file_addresses_are_paths(tmp_path, state_dict):
    path = tmp_path / "my net.safetensors"
    save_file(state_dict, path)
    for address in (path.as_uri(), f"file://localhost{path.as_uri()[7:]}"):
        assert load_source(None, address).terms["file"] == "my net.safetensors"
    absent = tmp_path / "absent.pth"
    assert refused(absent.as_uri()) == f"There is no checkpoint at {absent}."
    assert refused("file://data/w.pth").endswith("For a path of this machine, write file:///data/w.pth.")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://huggingface.co/timm/resnet18.tv_in1k", "timm/resnet18.tv_in1k"),
        ("https://huggingface.co/timm/resnet18.tv_in1k/tree/main", "timm/resnet18.tv_in1k@main"),
        ("https://huggingface.co/org/net/resolve/main/a.pth", "https://huggingface.co/org/net/resolve/main/a.pth"),
        ("gs://bucket/w.pth", "gs://bucket/w.pth"),
        ("org/net", "org/net"),
        ("embedded:glyphs", "embedded:glyphs"),
    ],
)
def test_addresses_become_paths_or_hub_ids(address, expected):
    assert local_or_named(address) == expected


def test_other_schemes_of_addresses_are_refused():
    assert refused("ftp://host/w.pth") == (
        "ftp://host/w.pth: addresses that start with ftp:// are not read. Those that are "
        "read start with https://, http://, file://, gs://, s3:// or az://."
    )


def test_the_hub_is_not_asked_for_a_mistyped_path(tmp_path, state_dict, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    save_file(state_dict, tmp_path / "weights" / "resnet20.safetensors")
    near = "Did you mean weights/resnet20.safetensors?"
    assert refused("weights/resnet20.safetensor") == f"There is no checkpoint at weights/resnet20.safetensor. {near}"
    assert refused("weights/resnet20.pth") == f"There is no checkpoint at weights/resnet20.pth. {near}"
    assert refused("weights/resnet20.safetensors.gz").startswith(
        "There is no checkpoint at weights/resnet20.safetensors.gz"
    )
    assert refused("weights/resnet2") == (
        f"There is no checkpoint at weights/resnet2. {near} For the repository of that "
        "name on the hub, write hf-hub:weights/resnet2."
    )
    assert refused("weigths/resnet20.pt") == "There is no checkpoint at weigths/resnet20.pt."
    assert refused("data/weights/resnet20") == (
        "There is no checkpoint at data/weights/resnet20. There is no folder data/weights either."
    )
    assert refused("./resnet20") == "There is no checkpoint at resnet20."


@pytest.fixture
def parts(tmp_path, state_dict):
    """A checkpoint in two files, with its index."""
    names, folder = list(state_dict), tmp_path / "net"
    folder.mkdir()
    index = {}
    for i, chosen in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({name: state_dict[name] for name in chosen}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@pytest.mark.parametrize("which", ["", "model.safetensors.index.json", "model-00001-of-00002.safetensors"])
def test_a_checkpoint_in_several_files(parts, state_dict, which):
    source = load_source(None, parts / which)
    assert source.name == "resnet20"
    np.testing.assert_array_equal(source.variables["params"]["fc"]["bias"], state_dict["fc.bias"])
    assert source.terms["sha256 of model-00002-of-00002.safetensors"]


def test_parts_that_are_missing_or_in_another_folder(parts):
    (parts / "model-00002-of-00002.safetensors").unlink()
    index = parts / "model.safetensors.index.json"
    assert refused(parts) == (
        f"{index} names 2 files, of which 1 are not beside it: model-00002-of-00002.safetensors. Download them too."
    )
    index.write_text(json.dumps({"weight_map": {"conv1.weight": "../secret.safetensors"}}))
    assert refused(parts) == (
        f"{index} leads to '../secret.safetensors'; the parts of a checkpoint must be in the folder of its index."
    )
    index.write_text("[]")
    assert refused(parts) == f"{index} is not the index of a checkpoint: it has no valid weight_map."


def test_one_checksum_cannot_stand_for_several_files(parts):
    assert refused(parts, sha256="0" * 64) == f"{parts} is in 2 files, which one SHA-256 cannot stand for."
