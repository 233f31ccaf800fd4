"""Every command of the documentation parses: its program, flags, fields and files exist."""

import argparse
import copy
import importlib
import os
import re
import tomllib
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

import flax_augtl.__main__ as program
from flax_augtl import cli
from flax_augtl.config.check import problems_of
from flax_augtl.config.convert import as_written
from flax_augtl.configs import common
from tests.conftest import ROOT
from tests.docs import pages

# ml_collections loads configuration files in a way that Python has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
# Programs of others.
FOREIGN = {".", "cd", "export", "gcloud", "git", "scp", "srun", "tensorboard", "xprof", "jupyter", "pyright"}
COMMANDS = list(dict.fromkeys(pages.commands()))
MODULE_FLAGS = {
    *(
        "networks",
        "network",
        "weights",
        "root",
        "seconds",
        "only",
        "tiny",
        "minutes",
        "out",
        "torch_python",
        "run",
        "one",
    ),
    *(
        "verify",
        "model",
        "images",
        "hash_only",
        "list",
        "image_size",
        "seed",
        "figure",
        "workdir",
        "heads",
        "weights",
        "tuned",
    ),
}


class Parsed(Exception):
    """The arguments of a program were understood."""


def main_flags():
    """Return flags as main.py defines them, without values."""
    values = flags.FlagValues()
    for flag in program.FLAGS.flags_by_module_dict()[program.__name__]:
        if flag.name == "config":
            config_flags.DEFINE_config_file("config", flag_values=values)
        else:
            flags.DEFINE_flag(copy.deepcopy(flag), values)
    return values


def parse_main(words, monkeypatch):
    """Parse a command line of main.py, and return its flags."""
    values, arguments = main_flags(), [*words]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.chdir(ROOT)
    assert cli.parse(values, arguments) == arguments[:1], words
    cli._belonging(values)
    if values.config is not None:
        assert not problems_of(as_written(values.config)), words
    return values


def parse_module(name, arguments, monkeypatch):
    """Have a module of ours, or pytest's, parse its arguments."""
    parse = argparse.ArgumentParser.parse_args

    def only_parse(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise Parsed

    if name == "venv" or name == "docs.configuration":  # Without arguments.
        assert name == "venv" or not arguments
        return
    if name == "pytest":
        for argument in arguments:
            if argument.startswith("tests"):
                assert (ROOT / argument).exists(), argument
        return
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        module = importlib.import_module(f"{name}.__main__")
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{name}.__main__")
    if name == "flax_augtl":
        return
    if "argparse" not in Path(module.__file__).read_text() and "benchmarks" not in Path(module.__file__).read_text():
        assert not arguments
        return
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr("sys.argv", [name, *arguments])
    with pytest.raises(Parsed):
        module.main()


def extras(word):
    """Return the extras of a requirement such as .[test,tpu]."""
    return re.findall(r"[\w-]+", word.partition("[")[2])


def test_pages_have_commands():
    assert len(COMMANDS) > 40 and {command.page for command in COMMANDS} >= {
        "README.md",
        "docs/study.md",
        "docs/tpu.md",
    }


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_can_be_typed(command, monkeypatch, capsys):
    first, *rest = command.words
    if first in FOREIGN or first.endswith(("/uv", "mpirun")) or any("gcloud" in word for word in command.words[:2]):
        return
    if "…" in rest:
        rest = [word for word in rest if word != "…"]
    if first in ("python", ".venv/bin/python") and rest and rest[0] == "-m":
        # What stands in brackets may be left out, and is written without them.
        arguments = [word.strip("[]") for word in rest[2:]]
        if arguments != ["NAME"] and "NAME" not in rest[1]:
            parse_module(rest[1], arguments, monkeypatch)
    elif first in ("python", ".venv/bin/python") and rest and rest[0] == "main.py":
        if rest[1:] and rest[1:] != ["--help"]:
            parse_main(rest, monkeypatch)
    elif first == "python" and rest and rest[0].startswith("runs/"):
        return  # A program that an export wrote.
    elif first == "python" and rest and rest[0].endswith(".py"):
        assert (ROOT / rest[0]).is_file(), command
    elif first in ("flax-augtl", "main.py"):
        if rest and rest != ["--help"]:
            parse_main(command.words, monkeypatch)
    elif first == "pip":
        assert rest[0] in ("install", "download"), command
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert {extra for word in rest if word.startswith(".[") for extra in extras(word)} <= {*known}
    elif first == "ruff":
        assert rest[0] in ("check", "format")
    else:
        pytest.fail(f"{command}: an unknown program; teach the test what it is.")


@pytest.mark.parametrize("name", pages.PAGES)
def test_fields_that_are_named_exist(name):
    known = {field for field, _ in common.get_config().copy_and_resolve_references().iteritems()}

    def exists(parts):
        node = common.get_config()
        for part in parts:
            if part == "*":
                return True
            if not hasattr(node, "keys") or part not in node:
                return parts[0] == "variants"
            node = node[part]
        return True

    for parts in re.findall(r"(?<![\w/.])config((?:\.(?:[a-z_0-9]+|\*))+)", pages.text_of(name)):
        parts = parts.strip(".").split(".")
        if parts[0] not in ("json", "py"):
            assert exists(parts), f"{name}: config.{'.'.join(parts)}"
    assert known


@pytest.mark.parametrize("name", pages.PAGES)
def test_flags_that_are_named_exist(name):
    ours = {flag.name for flag in program.FLAGS.flags_by_module_dict()[program.__name__]} | MODULE_FLAGS | {"help"}
    foreign = {"signal", "spot", "ntasks-per-node", "worker", "logdir", "command"}
    for span in pages.code(name):
        for flag in re.findall(r"(?:^|\s)--([\w-]+)", span):
            assert flag in ours | foreign or flag.startswith("xla_"), f"{name}: --{flag}"


def test_modes_that_are_named_exist():
    for name in pages.PAGES:
        assert {*re.findall(r"--mode=(\w+)", pages.text_of(name))} <= {*program.guide.MODES}, name


def test_every_python_block_is_python():
    for name in pages.PAGES:
        for body in pages.blocks(name, "python"):
            compile(body, name, "exec")


def test_the_readme_figure_is_small():
    figures = [link for link in pages.links("README.md") if link.endswith((".svg", ".png"))]
    assert figures and all(os.path.getsize(ROOT / figure) < 100_000 for figure in figures)
