"""Runs trainings in processes of their own that kill themselves, without warning, at a named point.

    python tests/integration/child.py CONFIG.json POINT=WORKDIR [POINT=WORKDIR ...]

The package has no hook for this: the functions at the points are wrapped here, in the child. All children are forked
  from
one process that has imported everything and has started no JAX backend, which saves most of their time.
"""

import json
import os
import signal
import sys
import threading
import time

from etils import epath
from orbax.checkpoint._src.path import atomicity

import flax_augtl
from flax_augtl.workdir import checksums, files
from tests import small

# The last of the two checkpoints of the run that is killed.
STEP = "4"


def kill():
    """End this process as the kernel's out-of-memory killer or a pulled plug would."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def half_written(path, content):
    """Leave half of a file under its temporary name."""
    path = epath.Path(path)
    path.with_name(f".{path.name}.{os.getpid()}.tmp").write_bytes(content[: len(content) // 2])
    kill()


def arm(point, workdir):
    """Wrap what happens at a point."""
    write_bytes, write_manifest, append = files.write_bytes, checksums.write, files.append_metrics
    finalize = atomicity.AtomicRenameTemporaryPath.finalize
    kind, _, name = point.partition(":")

    if kind in ("before", "within"):

        def written(path, content):
            if epath.Path(path).name == name:
                half_written(path, content) if kind == "within" else kill()
            write_bytes(path, content)

        files.write_bytes = written
    elif kind == "metrics":

        def appended(directory, rows):
            rows = list(rows)
            if rows[0]["step"] == 3:
                with (epath.Path(directory) / files.METRICS).open("a") as file:
                    file.write(json.dumps(rows[0])[:20])
                kill()
            append(directory, rows)

        files.append_metrics = appended
    elif kind == "manifest":

        def sealed(directory):
            if epath.Path(directory).name == STEP:
                if name == "half":
                    write_manifest(directory)
                    path = epath.Path(directory) / checksums.NAME
                    text = path.read_text()
                    path.unlink()
                    path.with_name(f"{checksums.NAME}.partial").write_text(text[: len(text) // 2])
                kill()
            write_manifest(directory)

        checksums.write = sealed
    elif kind == "checkpoint":
        # As soon as anything of it is there; or, at the latest, before it is committed.
        async def committed(self):
            if self.get_final().name == STEP:
                kill()
            await finalize(self)

        atomicity.AtomicRenameTemporaryPath.finalize = committed

        def watch():
            while True:
                for folder in (workdir / "checkpoints").glob(f"{STEP}.*"):
                    if name == "half" and any((folder / "network").glob("*")):
                        kill()
                time.sleep(0.001)

        threading.Thread(target=watch, daemon=True).start()
    else:
        raise ValueError(point)


def main(config, *children):
    """Run every child to its end, and print the exit status of each."""
    with open(config) as file:
        changes = json.load(file)
    for child in children:
        point, workdir = child.split("=", 1)
        if not (pid := os.fork()):
            arm(point, epath.Path(workdir))
            flax_augtl.train(small.digits_config(**changes), workdir, quiet=True)
            os._exit(0)
        print(point, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
