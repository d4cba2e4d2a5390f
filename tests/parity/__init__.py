"""Comparison with stored numbers of the public JAX implementations."""
