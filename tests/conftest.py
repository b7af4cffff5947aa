"""What must stand in the environment before anything imports jax."""

import os

os.environ.setdefault('GLIBC_TUNABLES', '')  # unset, a door would start the whole test process again
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '')  # nothing of the user's cache is read or written
