"""Processor time and memory of this process and of those that it started, from Linux's /proc."""

import os
from pathlib import Path

from flax_augtl.data.errors import DataError

_PROC = Path("/proc")


def processor_seconds() -> float:
    """Return the processor time of this process and of all that it started, including those that have ended."""
    ticks = sum(sum(map(int, fields[11:15])) for fields in _family().values())
    return ticks / os.sysconf("SC_CLK_TCK")


def memory() -> float:
    """Return the memory of this process and of all running ones that it started, MB; shared memory counts once."""
    kilobytes = 0
    for process in _family():
        try:
            rollup = (_PROC / str(process) / "smaps_rollup").read_text()
        except OSError:
            continue  # It has ended.
        kilobytes += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return kilobytes / 1024


def _family() -> dict[int, list[str]]:
    """Return {process: the fields of its `stat` from its state on} of this process and all that it started.

    Raises:
      DataError: the machine does not run Linux.
    """
    if not (_PROC / "self" / "smaps_rollup").exists():
        raise DataError("The benchmark reads /proc for processor time and memory, which only Linux has.")
    fields = {}
    for process in os.listdir(_PROC):
        if process.isdigit():
            try:
                fields[int(process)] = (_PROC / process / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
    family, new = set(), {os.getpid()}
    while new:
        family |= new
        new = {process for process, found in fields.items() if int(found[1]) in new} - family
    return {process: fields[process] for process in family}
