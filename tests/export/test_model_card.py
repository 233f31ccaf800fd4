"""The model card."""

import dataclasses
import json
import shlex

import pytest
import yaml
from absl import flags
from ml_collections import config_flags

from flax_augtl import cli
from flax_augtl.export import ExportError, export
from tests.conftest import ROOT


def test_it_says_what_the_issue_of_a_model_are(fresh):
    export(fresh)
    text = (fresh.workdir / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["pipeline_tag"] == "image-classification" and header["library_name"] == "flax_augtl"
    result = header["model-index"][0]["results"][0]
    assert result["dataset"]["name"] == "photos" and result["metrics"][0]["value"] == pytest.approx(
        fresh.result["test"]["top1"], abs=1e-6)  # fmt: skip
    sections = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert sections == ["Task", "Files", "Data", "Metrics", "Preprocessing", "Calibration", "What it was not tested on",
                        "Licence and origin of the source weights", "The commands that made it"]  # fmt: skip
    assert "| training | 13 |" in text and "| validation | 5 |" in text and "| test | 6 |" in text
    low, high = fresh.result["intervals"]["test"]["top1"]
    assert f"| test | top1 | {fresh.result['test']['top1']:.4f} | {low:.4f} to {high:.4f} |" in text
    assert "Not calibrated: the probabilities are the softmax of the logits as they are." in text
    assert "3 classes have fewer than 10 test images: ant\\|bee (2), cat (2), dog (2)." in text
    assert "always answers with one of them" in text and "Classes: ant\\|bee, cat, dog." in text


def test_its_commands_have_no_paths_of_this_machine_and_no_secrets(fresh, photos):
    text = fresh.config.weights
    fresh.config.weights = "https://host/w.safetensors?token=abc"
    try:
        export(fresh, weights="float32")
    finally:
        fresh.config.weights = text
    card = (fresh.workdir / "README.md").read_text()
    assert str(photos.parent) not in card and "abc" not in card.split("## The commands")[1]
    assert "--config.data.root=photos \\\n" in card and "--config.head.new_layers='(16,)'" in card
    assert "python main.py --mode=export --workdir=first --format=safetensors\n" in card


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_its_first_command_trains_with_the_same_configuration(fresh, monkeypatch):
    export(fresh)
    text = (fresh.workdir / "README.md").read_text().split("```bash\n")[1]
    arguments = shlex.split(text.split("\npython main.py --mode=export")[0].replace("\\\n", ""))[1:]
    arguments[1] = arguments[1].replace("=", f"={ROOT}/")
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    monkeypatch.setattr("sys.argv", arguments)
    cli.parse(values, arguments)
    again, config = values.config.to_dict(), fresh.config.to_dict()
    config["data"]["root"], config["name"] = "photos", "common"
    assert again == config


def test_a_readme_of_the_user_is_not_replaced(fresh):
    path = fresh.workdir / "README.md"
    path.write_text("My notes")
    with pytest.raises(ExportError) as error:
        export(fresh)
    assert str(error.value) == (f"{path} was not written by --mode=export, and the model card would take its place. "
                                "Rename it.")  # fmt: skip
    assert path.read_text() == "My notes" and not (fresh.workdir / "export.safetensors").exists()
    path.unlink()
    export(fresh)
    export(fresh)  # A card of its own is written again.


def test_a_run_that_is_not_finished_has_a_card_too(fresh):
    export(dataclasses.replace(fresh, result=None))
    assert "The run is not finished; nothing was measured." in (fresh.workdir / "README.md").read_text()


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"licence": "Apache-2.0", "origin": "https://huggingface.co/timm/resnet20"},
         {"license": "apache-2.0", "base_model": "timm/resnet20"}),
        ({"licence": "my own", "licence_link": "https://host/terms"},
         {"license": "other", "license_name": "my own", "license_link": "https://host/terms"}),
        ({}, {"license": "other", "license_name": "unknown"}),
    ],
)  # fmt: skip
def test_the_licence_in_the_header(fresh, terms, expected):
    path = fresh.workdir / "source.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "terms": terms}))
    export(fresh)
    text = (fresh.workdir / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert {name: header[name] for name in expected} == expected
    assert ("is not known to this program" in text) == (not terms)
