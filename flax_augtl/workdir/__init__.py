"""The run directory: one reader and one writer for each file, the lock, and the checksums."""
