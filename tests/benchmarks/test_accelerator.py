"""The benchmark of accelerators: its runner, what it computes, and all of it on a CPU."""

import json
import os
import pathlib
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_augtl.benchmarks.accelerator import (
    __main__,
    batch_norms,
    flops,
    results,
    runner,
    switches,
    torch_step,
    train_step,
)
from flax_augtl.benchmarks.accelerator.parts import PARTS
from flax_augtl.benchmarks.accelerator.sizes import FULL, TINY
from flax_augtl.benchmarks.accelerator.workload import Case
from flax_augtl.models import create_model
from flax_augtl.training.step import AXIS
from tests import small
from tests.conftest import ROOT


@pytest.mark.slow
def test_all_of_it_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # One device.
    # A machine that does much else besides needs longer than three minutes.
    code = __main__.main(["--tiny", f"--out={tmp_path}", "--minutes=240"])
    rows = results.read(tmp_path)
    assert code == 0, [row.get("error") for row in rows if row.get("status") == "failed"]
    found = {part.letter: {row["case"]: row for row in rows if row["part"] == part.letter} for part in PARTS}
    assert all(found[letter]["part"]["status"] == "done" for letter in "abcdefgh")
    assert found["a"]["machine"]["platform"] == "cpu" and found["a"]["memory bandwidth"]["gb_per_second"] > 0
    b = found["b"]
    for case in b:
        if case.startswith(("deterministic", "frozen")):
            assert b[case]["same_bits"], case
        if case.startswith("logits"):
            assert all(value for name, value in b[case].items() if " within " in name), case
    assert b["frozen: vgg16 up to conv4"]["head_changed"]
    kept = b["kept features: resnet18 up to layer3, float32"]
    assert kept["within_1e_4"] and kept["largest_update"] > 1e-3
    assert {f"main job: {name}" for name in ("kept_deeper", "traditional", "scratch")} <= {*b}
    assert {f"logits of {name}" for name in ("resnet18", "resnet50", "vgg16", "vgg11_bn")} <= {*b}
    steps = {name: row for name, row in found["c"].items() if name != "part"}
    assert len(steps) == 6 and all(row["images_per_second"] > 0 and row["tflops"] > 0 for row in steps.values())
    assert all(0 <= row["host_stall"] <= 1 for row in steps.values())
    for name in (
        "convolution fusion",
        "batch norm: one pass",
        "batch norm: bfloat16",
        "frozen batch norm: folded",
        "batch 16",
        "deterministic",
        "deterministic, autotuned",
        "memory fraction 0.95",
    ):
        assert found["e"][name]["ratio"] > 0, name
    assert "torchvision" in next(row["text"] for row in found["f"].values() if "text" in row)
    assert found["f"][f"training from files, {os.cpu_count()} threads"]["device_alone"] > 0
    assert found["g"]["features in device: depth all"]["together"] > 0 and found["g"]["the study"]["failed"] == 0
    assert {"features in memory: filling", "features in file: filling"} <= {*found["g"]}
    assert found["h"]["predict, batches of 32"]["files"] == TINY.predicted
    text = (tmp_path / results.TABLE).read_text()
    assert all(f"## {part.letter}. {part.title}" in text for part in PARTS)


def test_it_needs_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        __main__.main(["--tiny", "--only=a"])
    assert (
        f"main.py and configs/ are not in {tmp_path}: run this from the root of a checkout." in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only=a,x"], "--only=a,x: there is no part x. Parts: a, b, c, d, e, f, g, h."),
        (["--minutes=0"], "--minutes=0 must be above 0."),
    ],
)
def test_mistakes_on_the_command_line(arguments, sentence, capsys):
    with pytest.raises(SystemExit):
        __main__.main(arguments)
    assert sentence in capsys.readouterr().err


def test_a_part_that_fails_leaves_its_traceback_and_the_next_one_starts(tmp_path, monkeypatch, capsys):
    limits = []

    def child(out, part, case, tiny, seconds, environment):
        limits.append((part, seconds))
        assert "JAX_COMPILATION_CACHE_DIR" in environment or "JAX_COMPILATION_CACHE_DIR" in os.environ
        record = results.Results(out, part)
        if part == "a":
            return "ended with exit code -11\nSegmentation fault"
        if part == "b":
            record.row("works", seconds=1.0)
            with record.case("does not"):
                raise ValueError("of this case | alone")
            return "ended with exit code 1"
        if part == "c":
            record.row("begun", seconds=2.0)
            return "ended at its time limit of 9 s"
        return ""

    monkeypatch.setattr(runner, "run_child", child)
    assert runner.run(str(tmp_path / "new" / "out"), 10, "abcd", tiny=False) == 1
    rows = results.read(tmp_path / "new" / "out")
    errors = {(row["part"], row["case"]): row["error"] for row in rows if row.get("status") == "failed"}
    assert errors.keys() == {("a", "part"), ("b", "does not"), ("c", "part")}
    assert "Segmentation fault" in errors["a", "part"] and "time limit" in errors["c", "part"]
    assert "Traceback" in errors["b", "does not"] and "ValueError: of this case | alone" in errors["b", "does not"]
    # What the parts before leave is shared by those after them.
    shares = {part.letter: part.share for part in PARTS}
    assert [part for part, _ in limits] == ["a", "b", "c", "d"]
    assert limits[0][1] == pytest.approx(600 * shares["a"] / sum(shares[each] for each in "abcd"), rel=0.01)
    assert limits[3][1] == pytest.approx(600, abs=10)
    text = (tmp_path / "new" / "out" / results.TABLE).read_text()
    assert "| case | seconds |" in text and "| works | 1.00 |" in text and "ValueError: of this case | alone" in text


@pytest.mark.parametrize(
    ("code", "flags"),
    [
        (0, "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"),
        (-6, "--xla_backend_optimization_level=0"),
    ],
)
def test_small_programs_compile_fast_with_the_flags_that_xla_knows(code, flags, monkeypatch):
    def run(command, env, **_):
        assert command[0] == sys.executable and "fusion_emitters" in env["XLA_FLAGS"]
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(runner.subprocess, "run", run)
    assert runner._quick_to_compile() == {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def test_no_time_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_child", lambda *given: pytest.fail("no time"))
    assert runner.run(str(tmp_path), 1 / 60, "ab", tiny=True) == 0
    assert [row["status"] for row in results.read(tmp_path)] == ["left out: no time is left"] * 2


def runs(number):
    """Whether a process is there, and no zombie that nobody waits for."""
    try:
        return pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_is_ended_at_its_limit_with_all_that_it_started(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho begun\nsleep 300 &\necho $! > {tmp_path}/child\nwait\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    (tmp_path / "logs").mkdir()
    begun = time.monotonic()
    said = runner.run_child(tmp_path, "a", "a case / of it", False, 1.0, {})
    assert time.monotonic() - begun < 30
    assert "ended at its time limit of 1 s" in said and said.endswith("begun")
    assert (tmp_path / "logs" / "a-a_case___of_it.txt").exists()
    number = int((tmp_path / "child").read_text())
    until = time.monotonic() + 10
    while runs(number) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(number)
    program.write_text("#!/bin/sh\necho one\necho two\nexit 3\n")
    assert runner.run_child(tmp_path, "b", "", True, 5.0, {}).splitlines()[1:] == [
        "ended with exit code 3",
        "one",
        "two",
    ]


def test_results_are_lines_and_a_table(tmp_path):
    record = results.Results(tmp_path, "a")
    record.row("first", speed=np.float32(1234.5), share=0.1234, small=1e-6, none=None, yes=True)
    record.row("second", speed=jnp.float32(12.345), share=0.0, small=1.0, none=None, yes=False)
    record.row("third", text="| a | table |")
    assert [json.loads(line)["case"] for line in (tmp_path / results.LINES).read_text().splitlines()] == [
        "first",
        "second",
        "third",
    ]
    lines = (tmp_path / results.TABLE).read_text().splitlines()
    assert "| first | 1,234 | 0.123 | 1.00e-06 | – | yes |" in lines
    assert "| second | 12.3 | 0.000 | 1.00 | – | no |" in lines and "| a | table |" in lines


def test_the_whole_product_is_measured_the_most_important_first():
    found = train_step.cases(FULL)
    assert found[0] == Case("resnet50", "none", "bfloat16", 256)
    assert len({*found}) == len(found) == 3 * 3 * 2 * 2 + 1
    assert {case.depth for case in found if case.network == "vgg16"} == {"none", "conv4", "all"}
    assert {case.network for case in train_step.cases(TINY)} == {"resnet50", "vgg16"}


def test_pytorch_without_a_compiler_is_timed_as_it_is(monkeypatch):
    def step_seconds(case, sizes, *, compiled):
        if compiled:
            raise RuntimeError("InductorError: no C++ compiler\nmore")
        return 0.25

    forgotten = []
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(compiler=SimpleNamespace(reset=lambda: forgotten.append(1)))
    )
    monkeypatch.setattr(torch_step, "step_seconds", step_seconds)
    seconds, mode, why = torch_step._timed(None, TINY)
    assert (seconds, mode) == (0.25, "eager")
    assert why == "torch.compile failed: RuntimeError: InductorError: no C++ compiler"
    assert forgotten


class Pretended:
    """A context that has so many seconds left and notes what is started."""

    def __init__(self, folder, case, left):
        self.results, self.sizes, self.case, self.left, self.started = (
            results.Results(folder, "e"),
            FULL,
            case,
            left,
            [],
        )

    def enough(self, case, seconds):
        return self.left >= seconds

    def child(self, case, environment, seconds):
        self.started.append((case, dict(environment), seconds))
        self.left -= 30


def test_switches_are_tried_in_one_process_after_another(tmp_path):
    context = Pretended(tmp_path, "", 200)
    switches.run(context)
    # What comes after the long one has its time set aside.
    assert context.started[:3] == [("convolution fusion", {}, 50), ("deterministic", {}, 50), ("together", {}, 90)]
    assert [name for name, *_ in context.started[3:]] == ["deterministic, autotuned", *switches.ENVIRONMENTS]
    assert context.started[-1][1] == {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    short = Pretended(tmp_path, "", 60)
    switches.run(short)
    assert [name for name, *_ in short.started] == ["convolution fusion", "deterministic"]


@pytest.mark.slow
def test_each_switch_is_measured_beside_the_step_as_it_is(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        switches, "_measure", lambda context, name, case, **settings: found.append((name, case, settings))
    )
    context = Pretended(tmp_path, switches.TOGETHER, 1000)
    switches.run(context)
    first, frozen = Case("resnet50", "none", "bfloat16", 256), Case("resnet50", "layer3", "bfloat16", 256)
    assert found[:2] == [(f"as it is, {case}", case, {}) for case in (first, frozen)]
    assert ("frozen batch norm: folded", frozen, {"variant": "folded"}) in found
    assert ("batch 1024", first._replace(batch=1024), {}) in found
    # What part c has measured is not measured again.
    results.Results(tmp_path, "c").row(str(first), images_per_second=100.0)
    del found[:]
    switches.run(context)
    assert [case for name, case, _ in found if name.startswith("as it is")] == [frozen]
    found.clear()
    context.case = "deterministic"
    switches.run(context)
    assert found == [("deterministic", first, {"options": {"xla_gpu_deterministic_ops": True}, "places": True})]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "published"), [("resnet18", 1.81e9), ("resnet50", 4.09e9), ("vgg16", 15.47e9)])
def test_operations_are_those_that_papers_count(network, published):
    model, image = create_model(network), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(image.shape)))
    for platform in ("cuda", "tpu"):
        assert flops.count(model.apply, variables, image, platform=platform) / 2 == pytest.approx(published, rel=0.01)


def test_operations_of_gradients_are_counted_without_the_zeros_between():
    kernel, image = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 3, 4, 5), (2, 8, 8, 4)))

    def convolution(image, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(image, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=layout)

    forward = 2 * (2 * 4 * 4 * 5) * 3 * 3 * 4
    assert flops.count(convolution, image, kernel) == forward

    def both(image, kernel):
        return jax.grad(lambda *given: convolution(*given).sum(), (0, 1))(image, kernel)

    # Forward, and a product as large for each of the two gradients, but for edges.
    assert flops.count(both, image, kernel) == pytest.approx(3 * forward, rel=0.1)
    scanned = jax.make_jaxpr(lambda x: jax.lax.scan(lambda x, _: (x @ x, None), x, length=7))(jnp.ones((4, 4)))
    assert flops._of(scanned.jaxpr, "cuda") == 7 * 2 * 4**3


def networks():
    """Networks with batch norm in the stem, in blocks, and behind convolutions with bias."""
    for family in small.NETWORKS:
        net = small.network("traditional", family)
        if hasattr(net.source, "epsilon"):
            yield net, small.NETWORKS[family][2]


def step_of(net, size, variant=None, train_from=0):
    """Logits and statistics, and the gradient, of a batch."""
    variables, images = small.variables(net, size), small.images(8, size)

    def loss(params):
        logits, changed = net.apply(
            {**variables, "params": params}, images, train_from=train_from, mutable=["batch_stats"]
        )
        return (logits**2).sum(), (logits, changed["batch_stats"])

    with batch_norms.replaced(variant):
        (_, forward), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    return forward, gradient


def distance(one, other):
    """The difference of two trees of arrays, as a share of the first."""
    one, other = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (one, other))
    return np.linalg.norm(one - other) / np.linalg.norm(one)


@pytest.mark.slow
@pytest.mark.parametrize("family", small.NETWORKS)
@pytest.mark.parametrize("train_from", [0, 2])
def test_other_batch_norms_compute_the_same(family, train_from):
    net, size = small.network("traditional", family), small.NETWORKS[family][2]
    usual = step_of(net, size, None, train_from)
    for variant in (batch_norms.SHIFTED, batch_norms.BOTH):
        for one, other in zip(usual, step_of(net, size, variant, train_from), strict=True):
            assert distance(one, other) < 1e-5, variant


@pytest.mark.slow
@pytest.mark.parametrize("family", small.NETWORKS)
def test_other_batch_norms_in_bfloat16_are_about_as_exact(family):
    net, size = small.network("traditional", family), small.NETWORKS[family][2]
    exact = step_of(net, size)
    net = net.clone(source=net.source.clone(dtype=jnp.dtype("bfloat16")))
    usual = [distance(*pair) for pair in zip(exact, step_of(net, size), strict=True)]
    for variant, times in ((batch_norms.SHIFTED, 1.5), (batch_norms.BFLOAT16, 6), (batch_norms.BOTH, 6)):
        for one, other, error in zip(exact, step_of(net, size, variant), usual, strict=True):
            assert distance(one, other) < times * error, variant


def test_one_pass_holds_where_the_mean_is_large():
    # The squares of the inputs would cancel: their mean is 10⁶ times the variance.
    from flax_augtl.models.layers import batch_norm

    x = (1000 + np.random.default_rng(0).normal(size=(16, 8, 8, 3))).astype(np.float32)
    norm = batch_norm(True, epsilon=1e-5, dtype=jnp.float32, axis_name=None, name=None)
    variables = norm.init(jax.random.key(0), x)
    variables["batch_stats"]["mean"] = x.mean((0, 1, 2)) + 1
    usual = norm.apply(variables, x, mutable=["batch_stats"])
    with batch_norms.replaced(batch_norms.SHIFTED):
        other = norm.apply(variables, x, mutable=["batch_stats"])
    for a, b in zip(jax.tree.leaves(usual), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_one_pass_takes_the_statistics_of_all_devices():
    from flax_augtl.models.layers import batch_norm

    norm = batch_norm(True, epsilon=1e-5, dtype=jnp.float32, axis_name=AXIS, name=None)
    x = small.images(8)
    variables = norm.init(jax.random.key(0), x)

    def over(devices):
        with batch_norms.replaced(batch_norms.SHIFTED):
            step = jax.pmap(
                lambda x: norm.apply(variables, x, mutable=["batch_stats"])[1],
                axis_name=AXIS,
                devices=jax.devices()[:devices],
                out_axes=None,
            )
            return step(x.reshape(devices, -1, *x.shape[1:]))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), over(1), over(4))


@pytest.mark.slow
def test_frozen_batch_norms_fold_into_the_convolutions_before_them():
    for net, size in networks():
        variables, images = small.variables(net, size), small.images(4, size)
        frozen = net.source.groups[:3]
        usual = net.apply(variables, images)
        folded = batch_norms.folded(variables, frozen, net.source.epsilon)
        with batch_norms.replaced(batch_norms.FOLDED):
            other = net.apply(folded, images, train_from=3, mutable=["batch_stats"], stop=3)[0]
        np.testing.assert_allclose(net.apply(variables, images, stop=3), other, rtol=1e-4, atol=1e-5)
        # Without the other batch norm these variables compute something else.
        assert np.abs(net.apply(folded, images) - usual).max() > 1e-3
        before, after = (tree["params"]["source"] for tree in (variables, folded))
        changed = {group for group in before if distance(before[group], after[group])}
        assert changed == {*frozen}


def test_an_unknown_batch_norm_is_refused():
    with pytest.raises(
        ValueError, match="'two' is no batch norm; choices: one pass, bfloat16, one pass, bfloat16, folded."
    ):
        with batch_norms.replaced("two"):
            pass


@pytest.mark.parity
@pytest.mark.parametrize("network", ["resnet18", "resnet50", "vgg16"])
def test_the_networks_in_pytorch_have_the_same_parameters(network):
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    from flax_augtl.benchmarks.accelerator.torch_networks import layer_groups

    with torch.device("meta"):
        groups = layer_groups(network, 1000)
    model = create_model(network)
    assert tuple(groups) == (*model.groups[:-1], "head")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3))))["params"]
    for (name, module), group in zip(groups.items(), model.groups, strict=True):
        count = sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes[group]))
        assert sum(each.numel() for each in module.parameters()) == count, name
