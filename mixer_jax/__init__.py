"""MLP-Mixer and its relatives in JAX: simple, exact, fast, honest."""

__version__ = '0.1.0'
