"""What must stand in the environment before anything imports jax."""

import os

os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '')  # nothing of the user's cache is read or written
# Compiling is most of what the tests do, and most of that is optimising programs that run once.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true')
