"""The program as a command: its guide, and the configs that come with it, by name."""

import os
import re
import subprocess
import sys

import pytest

from flax_augtl import guide, shipped_configs
from tests.conftest import ROOT

NAMES = ("caltech101", "common", "digits", "evidence", "folder", "glyphs", "paper")


def start(*arguments, cwd=ROOT, program=("main.py",)):
    """Run the program and return (exit code, stdout, stderr)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *program, *arguments], cwd=cwd, env=environment, text=True,
                          capture_output=True, timeout=300)  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("--mode=study", "--helpshort")])
def test_the_guide_has_every_mode_with_an_example(arguments):
    code, said, errors = start(*arguments)
    assert (code, errors) == (0, "")
    for name, mode in guide.GUIDE.items():
        assert f"  {name:9} {mode.purpose}\n            python main.py {mode.example}\n" in said
    for name in NAMES:
        assert re.search(rf"\n  {name} +[A-Z].*\.\n", said)
    flags = re.findall(r"\n  (?:  )?--(?:\[no\])?(\w+)", said.partition("\nFlags:")[2])
    assert (len(flags) > 15 and {"config", "workdir", "mode", "traceback"} <= {*flags}) == bool(arguments)


def test_the_guide_needs_no_jax():
    program = "import sys; sys.argv = ['main.py', '--help']; import main; main.main(); sys.exit('jax' in sys.modules)"
    assert start(program=("-c", program))[0] == 0


def test_the_guide_names_the_program_as_it_was_called(tmp_path):
    assert guide.program_name("/usr/bin/flax-augtl") == "flax-augtl"
    assert "\n  python -m flax_augtl --config=digits " in start(cwd=tmp_path, program=("-m", "flax_augtl"))[1]


def test_every_mode_is_in_the_guide_and_does_something():
    from flax_augtl import cli, modes

    assert {mode for some in cli.ONLY.values() for mode in some} <= {*guide.MODES}
    assert {*modes.MODES} == {*guide.MODES}


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configs_are_found_by_name_in_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_configs.names() == NAMES
    file = str(ROOT / "flax_augtl" / "configs" / f"{name}.py")
    for spelling in (name, f"{name}.py", f"configs/{name}.py"):
        assert shipped_configs.path_of(spelling) == file
        assert shipped_configs.resolve(["main.py", "--config", spelling, f"--config={spelling}", "--workdir=folder"]) == [
            "main.py", "--config", file, f"--config={file}", "--workdir=folder"]  # fmt: skip
    assert os.path.samefile(ROOT / "configs" / f"{name}.py", file)


def test_a_file_wins_over_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for own in ("configs/digits.py", "folder"):
        (tmp_path / own).write_text("")
        assert shipped_configs.path_of(own) == own
    assert shipped_configs.path_of("elsewhere/digits.py") == "elsewhere/digits.py"


@pytest.mark.slow
def test_an_unknown_name_is_told_with_those_that_there_are(tmp_path):
    code, _, errors = start("--config=fodler", f"--workdir={tmp_path / 'run'}")
    assert code == 1 and errors == (
        "error: --config=fodler: there is no such file, and no config of that name comes with flax_augtl. Did you mean "
        "folder? These come with it: caltech101, common, digits, evidence, folder, glyphs, paper.\n"
    )
    code, _, errors = start("digits")
    assert (code, errors) == (1, "error: Not understood: digits. Flags are written --name=value.\n")


def test_a_config_of_the_user_may_import_its_neighbour(tmp_path):
    (tmp_path / "mine.py").write_text("from flax_augtl.configs import digits\n\nget_config = digits.get_config\n")
    (tmp_path / "other.py").write_text("from mine import get_config\n")
    command = ("--config=other.py", "--config.steps=none", "--workdir=run")
    code, _, errors = start(*command, cwd=tmp_path, program=("-m", "flax_augtl"))
    assert code == 1 and "config.steps" in errors and "No module" not in errors
