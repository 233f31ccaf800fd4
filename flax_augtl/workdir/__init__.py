"""The run directory: its files, with one reader and one writer of each, its lock and its checksums."""
