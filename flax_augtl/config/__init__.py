"""The schema of the configuration, and how older configurations are read. Imports no JAX."""
