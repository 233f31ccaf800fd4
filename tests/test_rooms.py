"""The rooms of the package: a module imports only from its own room and from those below it."""

import ast
import pathlib

import pytest

from tests.conftest import ROOT

# From bottom to top. A name is a folder or a module of the package.
ORDER = (
    "errors",
    "version",
    "config",
    "configs",
    "shipped_configs",
    "guide",
    "runtime",
    "workdir",
    "models",
    "data",
    "pretrained",
    "features",
    "training",
    "trust",
    "next_steps",
    "paired_runs",
    "folds_page",
    "run_data",
    "loaded_run",
    "run",
    "train_plan",
    "cross_validation",
    "variants",
    "study",
    "prediction_csv",
    "prediction_extras",
    "predict",
    "predict_mode",
    "embed",
    "export",
    "compare",
    "inspect_data",
    "evaluation_report",
    "modes",
    "cli",
    "benchmarks",
)
# What is below what inside a room with folders; modules of the room itself that are not named are above its folders.
INSIDE = {
    "data": ("errors", "keyed_random", "types", "images", "sources", "splits", "loading"),
    "pretrained": ("errors", "formats"),
    "study": ("result", "selection", "norms", "rivals", "grid", "context", "leases", "trials", "report"),
}
PACKAGE = ROOT / "flax_augtl"


def _modules() -> dict[str, pathlib.Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(path: pathlib.Path) -> set[str]:
    """Return the modules of the package that a file imports anywhere, also inside of functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flax_augtl":
            base = (node.module or "").removeprefix("flax_augtl").lstrip(".")
            for alias in node.names:
                module = f"{base}.{alias.name}".lstrip(".")
                names.add(module if module in MODULES else base)
        elif isinstance(node, ast.Import):
            names |= {
                alias.name.removeprefix("flax_augtl").lstrip(".")
                for alias in node.names
                if alias.name.split(".")[0] == "flax_augtl"
            }
    return names - {""}


def _is_entry(module: str) -> bool:
    """Tell whether a module is one that people run: those may use everything, and nothing imports them."""
    return module.endswith("__main__") or module in ("soak", "pretrained.benchmark")


INNER = sorted(module for module in MODULES if module and not _is_entry(module))


@pytest.mark.parametrize("module", INNER)
def test_no_import_runs_back_up(module):
    place = ORDER.index(module.split(".")[0])
    up = [name for name in _imports(MODULES[module]) if ORDER.index(name.split(".")[0]) > place]
    assert not up, f"{module} imports {up} from above"


@pytest.mark.parametrize("module", [module for module in INNER if module.split(".")[0] in INSIDE and "." in module])
def test_no_import_runs_back_up_inside_a_room(module):
    room, *rest = module.split(".")
    inside = INSIDE[room]

    def place(name: str) -> int:
        part = name.split(".")[1]
        return inside.index(part) if part in inside else len(inside)

    mates = [name for name in _imports(MODULES[module]) if name.startswith(f"{room}.")]
    up = [name for name in mates if place(name) > place(module)]
    assert not up, f"{module} imports {up} from above"


def test_nothing_imports_what_people_run():
    found = [
        (module, name)
        for module in INNER
        for name in _imports(MODULES[module])
        if _is_entry(name) or (name.startswith("benchmarks") and not module.startswith("benchmarks"))
    ]
    assert not found


def test_the_room_of_the_configuration_imports_no_jax():
    libraries = {"jax", "flax", "optax", "orbax"}
    for module in INNER:
        if module.split(".")[0] != "config":
            continue
        for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
            assert not libraries & {name.split(".")[0] for name in names}, module


def test_no_function_takes_more_than_six_positional_arguments():
    found = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
                if len(names) - (names[:1] in (["self"], ["cls"])) > 6:
                    found.append(f"{module}:{node.lineno} {getattr(node, 'name', 'lambda')}")
    assert not found
