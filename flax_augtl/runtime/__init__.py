"""The process and the machine: signals, processes of a run, paths, terminal text."""
