"""Four devices out of one CPU, one cache of compiled programs for all tests, and the folder of real inputs."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

# Before JAX starts. Subprocesses that the tests start inherit all of it.
_CACHE = tempfile.TemporaryDirectory(prefix="flax-augtl-compiled-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
# Without optimisation programs compile in half the time, and the networks of the tests are tiny. One more flag, which only
# the XLA of JAX 0.10 knows, halves it again; XLA ends a process that has a flag which it does not know.
COMPILES_FASTER = " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = os.environ.get(
    "FLAX_AUGTL_TESTS_XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    + COMPILES_FASTER * importlib.metadata.version("jaxlib").startswith("0.10."),
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs():
    """Forget the compiled programs of a file: thousands of them exhaust the memory maps that Linux allows a process."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def real_folder():
    """The folder of real weights and images."""
    folder = os.environ.get("FLAX_AUGTL_REAL")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("FLAX_AUGTL_REAL names no folder with real weights and images")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def torch():
    """PyTorch, with torchvision and timm importable."""
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    tools = pathlib.Path(os.environ.get("FLAX_AUGTL_REAL", "absent")).parent / "tools"
    if tools.is_dir():
        # torchvision's usual wheel does not import beside PyTorch's CPU build without this.
        sys.path.insert(0, str(tools))
        pytest.importorskip("torchvision_cpu")
        sys.path.remove(str(tools))
    for library in ("torchvision", "timm"):
        pytest.importorskip(library, reason="needs the extra `parity`")
    return torch


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB of its own, and a function that changes its options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder],  # noqa: S607
            capture_output=True,
        ).returncode
    ):
        pytest.skip("mounting a small tmpfs needs root and the right to mount")
    yield folder, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)  # noqa: S607
    subprocess.run(["umount", "-l", folder], check=True)  # noqa: S607
