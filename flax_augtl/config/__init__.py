"""The schema of the configuration, its checks, and how older configurations are read. Imports no JAX."""
