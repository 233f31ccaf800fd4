"""What comes from others is data: configs, checkpoints, names and links in them. And nothing is written elsewhere."""

import ast
import csv
import io
import json
import os
import pathlib
import re
import shutil
import zipfile

import numpy as np
import pytest
from etils import epath
from PIL import Image
from safetensors.numpy import save_file

import flax_augtl
from flax_augtl import cli, predict
from flax_augtl.config import value_types
from flax_augtl.config.schema import KINDS
from flax_augtl.data import dataset_from_arrays
from flax_augtl.runtime import text as printable
from flax_augtl.study.study import study
from flax_augtl.training.checkpoints import open_checkpoints
from flax_augtl.workdir import checksums, files
from tests import small
from tests.conftest import ROOT

NASTY = ("=cmd|' /C calc'!A0", "\x1b[2Jcleared", "-1", "<b>bold</b>", "@SUM(A1)", 'a,"b"\nc', "../up")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of a few steps whose class names are nasty."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (28, 8, 8, 3), np.uint8)
    dataset = dataset_from_arrays(images, 4 * list(NASTY), test=(images[:7], list(NASTY)), data={"validation": 0})
    config = small.digits_config(weights="embedded:glyphs", freeze="all", steps=2)
    return flax_augtl.train(config, tmp_path_factory.mktemp("security") / "run", dataset=dataset, quiet=True)


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished.workdir, tmp_path / "run")
    return tmp_path / "run"


def test_what_loading_reads_is_checked():
    assert set(value_types.NEEDED) <= set(KINDS)


WRONG = {
    "whole number": "x",
    "text": ["a"],
    "number": {"a": 1},
    "list of numbers": ["1"],
    "list of texts": [1],
    "object in braces": [1],
    "true or false": 1,
    "text, number, true or false": ["a"],
}


@pytest.mark.parametrize("field", sorted(KINDS))
def test_a_field_of_another_kind_is_named(field, finished):
    values = json.loads((finished.workdir / "config.json").read_text())
    *parents, name = field.split(".")
    inner = values
    for parent in parents:
        inner = inner[parent]
    kind = KINDS[field]
    inner[name] = WRONG[kind.removesuffix(" or null")]
    with pytest.raises(ValueError, match=rf"config.json cannot be used:\n  {field} must be a {kind}, not "):
        value_types.check(values, KINDS, value_types.NEEDED, "config.json")
    if parents:
        values[parents[0]] = 3
        with pytest.raises(ValueError, match=f"{field}: its parent must be an object in braces, not 3"):
            value_types.check(values, KINDS, value_types.NEEDED, "config.json")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "[1]", r"config.json must be an object in braces, not \[1\]"),
        (
            "config.json",
            "{}",
            r"config.json cannot be used:\n  batch_size is missing\n(.*\n)*  seed is missing|seed is missing",
        ),
        ("config.json", '{"seed": Infinity}', "seed must be a whole number, not inf"),
        ("config.json", "[" * 100000, "config.json is not valid JSON"),
        ("config.json", "\x00\xff", "config.json is not valid JSON"),
        ("config.json", "9" * 5000, "config.json is not valid JSON"),
        ("class_names.json", '{"a": 1}', "class_names.json must be a list of names"),
        ("class_names.json", '["a", 1]', "class_names.json must be a list of names"),
        ("preprocessing.json", '{"image_size": "8"}', "image_size must be a whole number, not '8'"),
        ("preprocessing.json", '{"image_size": 1000000000}', "image_size=1000000000 is above 4096 pixels"),
        ("preprocessing.json", '{"mean": [1e999, 0, 0]}', "mean must be a list of numbers"),
        ("preprocessing.json", '{"crop_fraction": 1e-7}', "crop_fraction=1e-07 of images of 224 pixels would have"),
        ("preprocessing.json", '{"std": [0, 1, 1]}', "preprocessing.json: .*std must be three numbers above 0"),
        ("source.json", '{"network": ["resnet20"]}', "network must be a text"),
        (
            "source.json",
            '{"network": "resnet20", "num_classes": null, "class_names": [], "settings": 1}',
            "settings must be an",
        ),
        ("result.json", '{"test"', "result.json is not valid JSON"),
    ],
)
def test_a_description_that_is_not_what_it_should_be(file, text, message, run):
    (run / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        flax_augtl.load_run(run)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"batch_size": 0}, "config.batch_size=0 must be at least 1"),
        ("config.json", {"batch_size": 10**12}, f"config.batch_size={10**12} is above 2147483647"),
        ("config.json", {"batch_size": 10**400}, "batch_size must be a whole number, not 1000"),
        ("config.json", {"class_weights": [10**400]}, "class_weights must be a list of numbers or null"),
        (
            "config.json",
            {"compute_dtype": "../../etc"},
            "config.compute_dtype='../../etc' is not one of float32, bfloat16",
        ),
        ("config.json", {"learning_rate": -1}, "config.learning_rate=-1 must be at least 0"),
        (
            "config.json",
            {"head": {"preset": "kept_deeper", "new_layers": [10**9] * 3}},
            r"head/\S+ is .*, where the run's config.json, class_names.json and source.json ask for",
        ),
        ("source.json", {"num_classes": -1}, "num_classes must be between 1 and 1048576, got -1"),
    ],
)
def test_a_number_that_makes_no_network_is_named(file, change, message, run):
    values = json.loads((run / file).read_text())
    (run / file).write_text(json.dumps({**values, **change}))
    with pytest.raises(ValueError, match=message):
        flax_augtl.load_run(run)


def test_class_names_of_another_number_do_not_fit_the_weights(run):
    names = json.loads((run / "class_names.json").read_text())
    (run / "class_names.json").write_text(json.dumps(names[:-1]))
    with pytest.raises(
        ValueError,
        match=r"head/classifier/bias is \[7\], where the run's config.json, class_names.json and "
        r"source.json ask for \[6\]",
    ):
        flax_augtl.load_run(run)


@pytest.mark.parametrize(
    ("file", "content", "reads"),
    [
        ("network/_METADATA", b"[" * 100000, "weights"),
        ("network/_METADATA", b"{}", "weights"),
        ("network/_METADATA", b"3", "weights"),
        ("progress/metadata", b'{"step": "x", "position": null}', "progress"),
        ("progress/metadata", b"[3]", "progress"),
    ],
)
def test_a_checkpoint_of_another_kind_whose_manifest_agrees_is_a_sentence(file, content, reads, run):
    """Its author has written both."""
    folder = next(path for path in (run / "checkpoints").iterdir())
    (folder / file).write_bytes(content)
    checksums.write(epath.Path(folder))
    if reads == "weights":
        with pytest.raises(ValueError, match="checkpoint of step 2 cannot be read: "):
            flax_augtl.load_run(run)
        with pytest.raises(ValueError, match="the checkpoint of its best step, 2, cannot be read: "):
            flax_augtl.load_source(None, run)
    else:
        with open_checkpoints(run / "checkpoints", read_only=True) as checkpoints:
            with pytest.raises(ValueError, match="checkpoint of step 2 cannot be read: its progress "):
                checkpoints.progress(2)


def test_unknown_source_settings_are_a_sentence(run):
    source = json.loads((run / "source.json").read_text())
    for changes in (
        {"network": "os.system"},
        {"settings": {"__class__": "x"}},
        {"settings": {"widths": "abc"}},
        {"settings": {"dtype": "evil"}},
        {"settings": {"num_classes": 3}},
        {"settings": {"epsilon": None}},
    ):
        (run / "source.json").write_text(json.dumps({**source, **changes}))
        with pytest.raises(ValueError, match=r"source.json cannot be used|There is no network"):
            flax_augtl.load_run(run)


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints",
        "checkpoints/2/network",
        "config.json",
        "tensorboard",
        "metrics.jsonl",
        "predictions.csv",
        "predictions_test.csv",
        "calibration.json",
        "familiarity.npz",
        "report.html",
    ],
)
def test_a_link_that_leads_out_of_a_run_directory_is_refused(name, run, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    if (run / name).exists():
        (run / name).rename(elsewhere)
    else:
        elsewhere.write_text("mine")
    (run / name).symlink_to(elsewhere)
    message = f"{run / name} is a link to {elsewhere}, outside of the run directory, and is neither read nor written"
    with pytest.raises(ValueError, match=message):
        flax_augtl.load_run(run)
    with pytest.raises(ValueError, match=message):
        flax_augtl.load_source(None, run)
    (run / "result.json").unlink()
    with pytest.raises(ValueError, match=message):
        flax_augtl.train(small.digits_config(), run, quiet=True)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoints/2/SHA256SUMS"])
def test_a_pipe_is_not_waited_for(name, run):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    for act in (
        flax_augtl.load_run,
        lambda run: flax_augtl.load_source(None, run),
        lambda run: flax_augtl.train(small.digits_config(), run, quiet=True),
    ):
        with pytest.raises(ValueError, match=f"{run / name} is neither a file nor a folder"):
            act(run)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metrics.jsonl", "a folder, not a file"),
        ("config.json", "a folder, not a"),
        ("checkpoints", "a file, not a folder"),
    ],
)
def test_a_folder_for_a_file_and_a_file_for_a_folder(name, message, run):
    if (run / name).is_dir():
        shutil.rmtree(run / name)
        (run / name).write_text("")
    else:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()
    for act in (flax_augtl.load_run, lambda run: flax_augtl.train(small.digits_config(), run, quiet=True)):
        with pytest.raises(ValueError, match=f"{run / name} is {message}"):
            act(run)


@pytest.mark.parametrize("name", ["cells", "cache", "best", "report.html"])
def test_a_link_that_leads_out_of_a_study_is_refused(name, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "study" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a link to .*, outside of the run directory"):
        study(small.digits_config(weights="embedded:glyphs"), tmp_path / "study")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("config", ["[]", "3", "{}"])
def test_a_config_of_another_kind_stops_training_with_a_sentence(config, tmp_path):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"config\.json"):
        flax_augtl.train(small.digits_config(weights="embedded:glyphs"), tmp_path, quiet=True)


def test_the_run_directory_itself_may_be_a_link(run, tmp_path):
    (tmp_path / "short").symlink_to(run)
    assert flax_augtl.load_run(tmp_path / "short").step == 2


def test_temporary_names_are_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / f".a.json.{os.getpid()}.tmp").symlink_to(victim)
    (tmp_path / "b.json").symlink_to(victim)
    for name in ("a.json", "b.json"):
        files.write_text(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new" and not (tmp_path / name).is_symlink()
    assert victim.read_text() == "mine"


def everything(folder):
    return {path: path.lstat().st_mtime_ns if path.is_file() else None for path in folder.rglob("*")}


def test_predict_writes_into_the_workdir_only_and_names_are_harmless(run, tmp_path, capsys):
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for name in ("=1+1.png", "a\x1b[31m.png", "sub/..png", "...png", "line\nbreak.png"):
        Image.new("RGB", (9, 9)).save(photos / name, "PNG")
    (photos / "link.png").symlink_to(photos / "=1+1.png")
    before = {path: at for path, at in everything(tmp_path).items() if run not in path.parents and path != run}

    class Flags:
        mode, workdir, images, step, traceback = "predict", str(run), str(photos / "sub" / ".."), "best", False
        coordinator = num_processes = process_id = max_pixels = output = None
        views, explain, neighbours, unknown_below = "one", False, 0, 0.05

    cli.run(Flags)
    after = {path: at for path, at in everything(tmp_path).items() if run not in path.parents and path != run}
    assert before == after
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "@"))]
    assert len(rows) == 1 + 4  # Names that begin with a dot are hidden, as everywhere.
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\\x1b[31m.png" in said and "line\\nbreak.png" in said


def test_the_first_line_of_an_error():
    assert (
        printable.first_line(ValueError(" one\ntwo")) == "one"
        and printable.first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    )
    long = printable.first_line(ValueError("a" * 400 + "z" * 400), 20)
    assert long == "aaaaaaaa … zzzzzzzzz" and len(long) == 20
    told = "RESOURCE_EXHAUSTED: Error writing: Failed to write 8 bytes: No space left on device [os_error_code='28']"
    assert printable.first_line(ValueError(told)) == "No space left on device"
    made_up = f"os_error_code='{'9' * 30}'"  # Of a checkpoint from elsewhere: there is no such number.
    assert printable.first_line(ValueError(made_up)) == made_up


def test_texts_for_terminals_and_spreadsheets():
    assert printable.for_terminal("caf\udce9 \ud800") == r"caf\xe9 \ud800"
    assert printable.for_terminal("é 日本 \x1b[0m\r\u202e\n") == "é 日本 \\x1b[0m\\r\\u202e\n"
    shown = [printable.for_spreadsheet(text) for text in (*NASTY[:5], "+1e3", "+cmd", "--")]
    assert shown == ["'" + NASTY[0], NASTY[1], "-1", NASTY[3], "'@SUM(A1)", "+1e3", "'+cmd", "'--"]
    text = predict.as_csv([{"path": "p", "labels": [NASTY[5]], "probabilities": [1.0]}])
    assert list(csv.reader(io.StringIO(text)))[1] == ["p", NASTY[5], "1.000000", ""]


@pytest.mark.parametrize("member", ["layer1.npy", "model.weights.h5", "archive/data.pkl"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(member, tmp_path):
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open(member, "w", force_zip64=True) as file,
    ):
        for _ in range(300):
            file.write(bytes(1_000_000))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(ValueError, match="is refused: [0-9,]+ bytes that would become 300,000,000"):
        flax_augtl.load_source("resnet20", path)


@pytest.mark.parametrize("name", ["../../evil.npy", "/tmp/flax_augtl_evil.npy"])
def test_a_path_that_climbs_out_of_an_archive_is_a_name_like_any_other(name, tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    content = io.BytesIO()
    np.save(content, np.zeros(3, np.float32))
    with zipfile.ZipFile(folder / "w.npz", "w") as archive:
        archive.writestr(name, content.getvalue())
    before = everything(tmp_path)
    with pytest.raises(ValueError, match="does not fit resnet20"):
        flax_augtl.load_source("resnet20", folder / "w.npz")
    assert everything(tmp_path) == before and not pathlib.Path("/tmp/flax_augtl_evil.npy").exists()


def test_a_safetensors_header_that_lies_about_sizes(tmp_path):
    save_file({"conv1.weight": np.zeros((2, 2), np.float32)}, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content.replace(b"[2,2]", b"[9,9]"))
    with pytest.raises(ValueError):
        flax_augtl.load_source("resnet20", tmp_path / "w.safetensors")


# What would execute data, wherever it is named: called, given a name of its own, or imported.
BUILTINS = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "runpy", "code", "jsonpickle"}
FORBIDDEN = {f"os.{name}" for name in ("system", "popen", "startfile")} | {
    "tarfile.open",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.load_all",
    "shutil.unpack_archive",
    "numpy.fromregex",
}
EXECUTING = re.compile(r"os\.(exec|spawn|posix_spawn)|builtins\.|.*(pickle|dill|marshal)\.(loads?|Unpickler)$")
# An argument that must be there, as this constant.
NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "np.lib.format.read_array": ("allow_pickle", False),
    "read_array": ("allow_pickle", False),
}
FIXED = {"allow_pickle": False, "weights_only": True, "shell": False}
# Pipes between processes of this program; and the name of an error.
ALLOWED = {
    "workers.py": {"import pickle", "import cloudpickle", "pickle.load", "pickle.loads"},
    "torch_file.py": {"import pickle"},
}


def breaches(source, name="module.py"):
    """What in a module's text could execute data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=word) if word in BUILTINS:
                found.append(word)
            case ast.Attribute(attr=attribute):
                word = ast.unparse(node)
                if word in FORBIDDEN or attribute == "extractall" or EXECUTING.match(word):
                    found.append(word)
            case ast.Import(names=names):
                found += [f"import {each.name}" for each in names if each.name.split(".")[0] in MODULES]
            case ast.ImportFrom(module=module, names=names):
                full = {f"{module}.{each.name}" for each in names}
                found += [
                    f"import {word}"
                    for word in sorted(full)
                    if word in FORBIDDEN
                    or word.split(".")[0] in MODULES
                    or word in NEEDED
                    or word.startswith("builtins.")
                ]
            case ast.Call(func=function, keywords=keywords):
                given = {each.arg: getattr(each.value, "value", ...) for each in keywords}
                needed = NEEDED.get(ast.unparse(function))
                found += [
                    f"{word}={given[word]}" for word, value in FIXED.items() if given.get(word, value) is not value
                ]
                if needed and needed[0] not in given:
                    found.append(f"{ast.unparse(function)} without {needed[0]}")
    return sorted(set(found) - ALLOWED.get(name, set()))


def test_nothing_in_the_package_executes_data():
    """Beside ruff's rules (S102, S301, S302, S307, S605, S607 in pyproject.toml), which pass over what they do not know."""
    modules = [*(ROOT / "flax_augtl").rglob("*.py"), ROOT / "main.py"]
    found = {path.name: bad for path in modules if (bad := breaches(path.read_text(), path.name))}
    assert len(modules) > 100 and not found


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "run = eval",
        "import pickle",
        "from pickle import load",
        "import cloudpickle as c",
        "import joblib.x",
        "os.system(text)",
        "f = os.popen",
        "os.execv(a, b)",
        "os.spawnl(a, b)",
        "from os import system",
        "builtins.exec(x)",
        "np.load(path)",
        "np.load(path, allow_pickle=flag)",
        "read_array(file, allow_pickle=True)",
        "read_array(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "from torch import load",
        "subprocess.run(x, shell=True)",
        "yaml.unsafe_load(x)",
        "archive.extractall()",
        "import runpy",
        "shutil.unpack_archive(x)",
    ],
)
def test_the_rule_finds_what_it_is_for(line):
    assert breaches(line)


def test_the_rule_passes_what_is_harmless():
    assert not breaches(
        "np.load(path, allow_pickle=False)\ntorch.load(p, weights_only=True)\nre.compile(x)\nmodel.eval()"
    )
