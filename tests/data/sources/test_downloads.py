"""Images on the web, served by this machine: fetched once, whole or not at all."""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from flax_augtl.data import DataError, check_there, dataset_from_files, load_dataset
from flax_augtl.data.sources.downloads import copy_of, fetch


class Server(ThreadingHTTPServer):
    """A server whose paths have lists of answers: (content, length, type), or the number of an error."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[str] = []
        self.answers: dict[str, list] = {}
        self.images: dict[int, bytes] = {}

    def put(self, path, *answers):
        self.answers[path] = list(answers)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format, *args):
        pass

    def do_GET(self):
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path)
        answers = self.server.answers.get(self.path.split("?")[0], [])
        answer = answers.pop(0) if len(answers) > 1 else answers[0] if answers else 404
        if isinstance(answer, int):
            return self.send_error(answer)
        content, length, kind = answer
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def web(noise_image):
    """A server with 0.png … 3.png; `put(path, *answers)` gives a path others, of which the last stays."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for number in range(4):
        file = io.BytesIO()
        noise_image(number).save(file, "PNG")
        server.images[number] = file.getvalue()
        server.put(f"/{number}.png", (file.getvalue(), len(file.getvalue()), "image/png"))
    yield server
    server.shutdown()
    server.server_close()


def test_a_list_of_addresses(load_lists, labelled, web, monkeypatch):
    rows = [(f"{web.url}/{n}.png", "ab"[n % 2]) for n in range(3)]
    lists = {"train.csv": "url,label\n" + "\n".join(map(",".join, rows)), "test.txt": f"{web.url}/3.png?size=full b"}
    dataset = load_lists(lists)
    assert labelled(dataset) == dict(rows)
    assert labelled(dataset, "test") == {f"{web.url}/3.png?size=full": "b"}
    for index, name in zip(dataset.train.indices, dataset.train.ids, strict=True):
        assert dataset.train.source.encoded(int(index)) == web.images[int(name[-5])]
        assert dataset.train.source.path(int(index)) == name
    assert sorted(web.asked) == ["/0.png", "/1.png", "/2.png", "/3.png?size=full"]
    # The copies are kept: the second time no server is needed.
    monkeypatch.setattr("flax_augtl.data.sources.downloads._session", None)
    assert load_lists(lists).fingerprint == dataset.fingerprint


def test_a_root_and_lists_on_the_web(load_lists, labelled, web):
    contents = {"train.txt": b"0.png a\n./1.png b\n", "test.txt": b"2.png a", "names.txt": b"id,name\n0,a\n1,b"}
    for name, content in contents.items():
        web.put(f"/{name}", (content, len(content), "text/plain"))
    dataset = load_lists({}, root=f"{web.url}/", train_list=f"{web.url}/train.txt", test_list=f"{web.url}/test.txt",
                         class_list=f"{web.url}/names.txt")  # fmt: skip
    assert labelled(dataset) == {f"{web.url}/0.png": "a", f"{web.url}/1.png": "b"}
    with pytest.raises(DataError, match=f"list file {web.url}/gone.txt could not be fetched: the server answered 404"):
        load_lists({}, root=web.url, train_list=f"{web.url}/gone.txt")


def test_addresses_beside_files_and_in_python(load_lists, labelled, web, tmp_path):
    dataset = load_lists({"train.txt": f"{web.url}/0.png x\na/000.png y", "test.txt": "a/001.png x"})
    assert labelled(dataset) == {f"{web.url}/0.png": "x", "a/000.png": "y"}
    dataset = dataset_from_files([(f"{web.url}/0.png", "x"), (str(tmp_path / "a/000.png"), "y")],
                                 test=[(f"{web.url}/1.png", "x")], data={"validation": 0})  # fmt: skip
    assert np.asarray(dataset.test.source[int(dataset.test.indices[0])]).shape == (30, 40, 3)


def test_what_cannot_be_fetched_is_an_error_or_left_out(load_lists, labelled, web):
    web.put("/page.png", (b"<html>", 6, "text/html; charset=utf-8"))
    rows = [f"{web.url}/{name}.png,{label}" for name, label in (("0", "a"), ("1", "b"), ("gone", "b"), ("page", "a"))]
    lists = {"train.csv": "\n".join(rows), "test.txt": f"{web.url}/2.png a"}
    reasons = (
        r"/gone.png \(the server answered 404 Not Found\), http.*/page.png \(the server answered with a web page\)"
    )
    with pytest.raises(DataError, match=rf"2 of 5 images could not be fetched: http.*{reasons}. The others are kept"):
        load_lists(lists)
    dataset = load_lists(lists, on_bad_image="skip")
    assert labelled(dataset) == {f"{web.url}/0.png": "a", f"{web.url}/1.png": "b"}
    assert {name: reason[:24] for name, reason in dataset.skipped.items()} == {
        f"{web.url}/gone.png": "the server answered 404 ", f"{web.url}/page.png": "the server answered with",
    }  # fmt: skip
    (note,) = [note for note in dataset.notes if "left out" in note]
    assert note.startswith("2 of 5 images cannot be read")


def test_a_file_that_broke_off_is_no_file(web):
    content = web.images[0]
    web.put("/0.png", (content[:50], len(content), "image/png"))
    url = f"{web.url}/0.png"
    assert fetch([url]) == {url: "the connection broke off"}
    assert list(copy_of(url).parent.iterdir()) == []
    web.put("/0.png", (content, len(content), "image/png"))
    assert fetch([url]) == {}
    assert copy_of(url).read_bytes() == content and [copy_of(url)] == list(copy_of(url).parent.iterdir())


def test_a_server_that_is_busy_is_asked_again(web):
    answer = web.answers["/0.png"][0]
    web.put("/0.png", 503, answer)
    assert fetch([f"{web.url}/0.png"]) == {}


def test_without_a_network_not_every_address_is_tried(web, monkeypatch):
    monkeypatch.setattr("flax_augtl.data.sources.downloads._HOPELESS", 3)
    urls = [f"{web.url}/gone{n}.png" for n in range(50)]
    failed = fetch(urls)
    assert list(failed) == urls
    assert list(failed.values()).count("it was not tried") == 47


def test_a_cache_that_cannot_be_written_to(web, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written to .*XDG_CACHE_HOME"):
        fetch([f"{web.url}/0.png"])


def test_a_folder_on_the_web_or_by_its_file_address(make_folder, web):
    with pytest.raises(DataError, match="cannot be listed.*config.data.name=list"):
        load_dataset({"name": "folder", "root": web.url}, seed=0)
    with pytest.raises(DataError, match="cannot be listed"):
        check_there({"name": "folder", "root": web.url})
    root = make_folder({"a": 3, "b": 3})
    assert load_dataset({"name": "folder", "root": f"file://{root}"}, seed=0).class_names == ("a", "b")
