"""The version of the package: in a checkout, installed, and in the results of runs."""

import importlib.metadata
import json
import subprocess
import sys
import tomllib

import pytest

import flax_augtl
from flax_augtl import data, pretrained, version
from tests import small
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_a_checkout_has_the_version_of_its_pyproject(tmp_path):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import flax_augtl; print(flax_augtl.__version__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == PROJECT["version"] == flax_augtl.__version__, done.stderr


def test_an_installed_package_has_the_version_of_its_metadata(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", {"flax_augtl": "1.2.3"}.__getitem__)
    assert version.version_in(tmp_path) == "1.2.3"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "9"\n')
    assert version.version_in(tmp_path) == "1.2.3"
    (tmp_path / "pyproject.toml").write_text("damaged [")
    assert version.version_in(tmp_path) == "1.2.3"


def test_without_metadata_the_version_is_unknown(tmp_path, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert version.version_in(tmp_path) == "unknown"


@pytest.mark.slow
def test_a_run_records_the_version(tmp_path):
    config = small.digits_config(weights="embedded:glyphs", freeze="all", steps=1)
    run = flax_augtl.train(config, tmp_path, quiet=True)
    assert run.result is not None and run.result["version"] == PROJECT["version"]
    assert json.loads((tmp_path / "result.json").read_text())["version"] == PROJECT["version"]
    assert "version" not in json.loads((tmp_path / "config.json").read_text())


def test_type_checkers_see_every_public_name():
    for package in (flax_augtl, data, pretrained):
        source = (ROOT / package.__name__.replace(".", "/") / "__init__.py").read_text("utf-8")
        imports = source.partition("if TYPE_CHECKING:")[2].partition("\n_MODULES")[0]
        assert sorted(package.__all__) == sorted(package._MODULES)
        for name in package.__all__:
            assert name in imports.replace(",", " ").split(), (package.__name__, name)
            assert hasattr(package, name)
