"""Run each part in a process of its own, within its time limit."""

import contextlib
import importlib
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from flax_augtl.benchmarks.accelerator import results
from flax_augtl.benchmarks.accelerator.parts import PARTS, Part
from flax_augtl.benchmarks.accelerator.sizes import FULL, TINY

# Lines of a child's output that stand in the results if it ends badly.
TAIL = 30
# Seconds that a child has between the request to end and its end.
GRACE = 5
# Parts that `--tiny` runs beside the others, which take about as long; part e reads what part c has measured.
BESIDE = "cdeg"
_QUICK_TO_COMPILE = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")


class Context:
    """What a part is given.

    Attributes:
      results: where its rows go.
      sizes: how large everything is.
      case: which of its cases to run; empty for all.
    """

    def __init__(self, out: Path, part: str, case: str, tiny: bool, seconds: float):
        self.results, self.sizes, self.case = results.Results(out, part), TINY if tiny else FULL, case
        self.part, self._out, self._tiny, self._until = part, out, tiny, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until this part is ended."""
        return self._until - time.monotonic()

    def enough(self, case: str, seconds: float) -> bool:
        """Return whether so many seconds are left for a case; if not, a row says so."""
        seconds = 2 * GRACE if self._tiny else seconds
        if self.left >= seconds:
            return True
        self.results.row(case, status=f"left out: {max(0.0, self.left):.0f} s were left, it may need {seconds:.0f} s")
        return False

    def child(self, case: str, environment: Mapping[str, str], seconds: float) -> None:
        """Run one case of this part in a process with its own environment; it adds its rows itself."""
        limit = self.left - GRACE if self._tiny else min(seconds, self.left - GRACE)
        found = run_child(self._out, self.part, case, self._tiny, limit, environment)
        if found:
            self.results.failed(case, found)


def run_part(part: str, case: str, out: str, tiny: bool, seconds: float) -> int:
    """Run a part in this process, and return how many of its cases failed, at most 1."""
    context = Context(Path(out), part, case, tiny, seconds)
    module = next(each.module for each in PARTS if each.letter == part)
    try:
        importlib.import_module(f"flax_augtl.benchmarks.accelerator.{module}").run(context)
    except Exception as error:
        context.results.failed(case or "part", error)
    return min(1, context.results.failures)


def run(out: str, minutes: float, only: str, tiny: bool) -> int:
    """Run the parts one after the other; with `tiny`, some beside the others.

    Args:
      out: folder of the results; what is in it from an earlier call stays.
      minutes: for all of them.
      only: letters of those to run; empty for all.
      tiny: whether everything is small.

    Returns:
      1 if a part failed, was ended, or had a case that failed; else 0.
    """
    folder = Path(out).absolute()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    chosen = [part for part in PARTS if not only or part.letter in only]
    until = time.monotonic() + 60 * minutes
    print(f"Results: {folder / results.TABLE}", flush=True)
    beside = "".join(part.letter for part in chosen if part.letter in BESIDE)
    beside = beside if tiny and len(beside) < len(chosen) else ""
    chosen = [part for part in chosen if part.letter not in beside]
    if threading.current_thread() is threading.main_thread():
        # So that what runs is ended as well.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="flax-augtl-compiled-") as compiled:
        # Parts that measure the same step compile it once.
        environment = {"JAX_COMPILATION_CACHE_DIR": compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
        if tiny:
            environment |= _quick_to_compile()
        environment = {name: value for name, value in environment.items() if name not in os.environ}
        with _started_beside(folder, minutes, beside, environment) as others:
            failed = _run_parts(folder, chosen, until, tiny, environment)
        return int(failed or any(process.returncode for process in others))


def _run_parts(folder: Path, chosen: Sequence[Part], until: float, tiny: bool, environment: Mapping[str, str]) -> int:
    """Run parts one after the other, until a time of the monotonic clock, and return 1 if something failed."""
    failed = 0
    for index, part in enumerate(chosen):
        record = results.Results(folder, part.letter)
        left = until - time.monotonic()
        limit = left * part.share / sum(each.share for each in chosen[index:])
        if limit < GRACE:
            record.row("part", status="left out: no time is left")
            continue
        begun, before, processor = time.monotonic(), len(results.read(folder)), _processor_seconds()
        error = run_child(folder, part.letter, "", tiny, limit, environment)
        spent = time.monotonic() - begun
        new = results.read(folder)[before:]
        said = any(row["part"] == part.letter and row.get("status") == "failed" for row in new)
        # Cases that failed have rows of their own.
        if error and (not said or "time limit" in error):
            record.failed("part", error)
        failed |= bool(error)
        record.row(
            "part",
            status="done",
            part_seconds=round(spent, 1),
            limit_seconds=round(limit, 1),
            processor_seconds=round(_processor_seconds() - processor, 1),
            load=_load(),
        )
    return failed


@contextlib.contextmanager
def _started_beside(
    folder: Path, minutes: float, letters: str, environment: Mapping[str, str]
) -> Iterator[list[subprocess.Popen]]:
    """Run the parts of these letters in a process beside this one, and wait for it at the end."""
    if not letters:
        yield []
        return
    command = [sys.executable, "-m", "flax_augtl.benchmarks.accelerator", "--tiny", f"--out={folder}"]
    process = subprocess.Popen(
        [*command, f"--minutes={minutes}", f"--only={letters}"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield [process]
        process.wait()
    finally:
        process.terminate()
        process.wait()


def run_child(out: Path, part: str, case: str, tiny: bool, seconds: float, environment: Mapping[str, str]) -> str:
    """Run a part, or one of its cases, in a process of its own, and return how it failed; empty if it did not."""
    command = [
        sys.executable,
        "-m",
        "flax_augtl.benchmarks.accelerator",
        f"--part={part}",
        f"--out={out}",
        f"--seconds={max(1.0, seconds - GRACE)}",
    ]
    command += [f"--case={case}"] * bool(case) + ["--tiny"] * tiny
    name = part + (f"-{case}" if case else "")
    log = out / "logs" / f"{''.join(c if c.isalnum() or c in '-_' else '_' for c in name)}.txt"
    with open(log, "w") as file:
        code = _wait(command, seconds, {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment}, file)
    if code == 0:
        return ""
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL:])
    what = f"ended at its time limit of {seconds:.0f} s" if code is None else f"ended with exit code {code}"
    return f"{' '.join(command[1:])}\n{what}\n{tail}"


def _wait(command: Sequence[str], seconds: float, environment: Mapping[str, str], output) -> int | None:
    """Run a command and return its exit code; None if it was ended for its time, with all that it had started."""
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    try:
        return process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Also what a part that has ended may have left behind.
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue


def _quick_to_compile() -> dict[str, str]:
    """Return an environment for a CPU in which programs compile in a fifth of the time and run slowly."""
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(_QUICK_TO_COMPILE)}
    # XLA ends a process that has a flag which its version does not know.
    start = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"], env={**os.environ, **environment}, capture_output=True
    )
    return environment if start.returncode == 0 else {**environment, "XLA_FLAGS": _QUICK_TO_COMPILE[0]}


def _processor_seconds() -> float:
    """Return the processor time of all processes that this one has waited for, which other programs hardly change."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _load() -> str:
    """Return the load of the machine over the last minute."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores of {platform.machine()}"
