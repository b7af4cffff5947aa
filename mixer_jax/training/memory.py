"""Whether a run's state fits into memory, told before it is made: else the machine swaps until it kills the run."""

import math
from pathlib import Path

import jax

from mixer_jax.errors import MixerError
from mixer_jax.training.state import TrainState

GIB = 2**30
# (limit, in use) of this process's group: cgroups 2 and 1.
GROUPS = (('memory.max', 'memory.current'), ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes'))


def check(shapes: TrainState) -> None:
  """Refuses a state that, with one gradient beside it, is larger than the memory of its devices.

  That is the least that training takes: activations come on top.

  Args:
    shapes: abstract, with shardings.
  """
  of_device = lambda tree: sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
  )
  device = jax.local_devices()[0]
  stats = device.memory_stats()
  devices = 1 if stats else jax.local_device_count()  # CPU devices share the memory
  needed = devices * (of_device(shapes) + of_device(shapes.params))
  there = stats['bytes_limit'] if stats else free()
  if needed > there:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    where = 'of each device' if stats else 'of memory'
    raise MixerError(
      f'the model has {parameters:,} parameters; with optimizer state and gradient they take'
      f' {needed / GIB:,.1f} GiB {where}, but {there / GIB:,.1f} GiB are free; choose a smaller'
      ' model, or shard it over more devices with mesh.fsdp'
    )


def free(meminfo: Path = Path('/proc/meminfo'), groups: Path = Path('/sys/fs/cgroup')) -> float:
  """The bytes of memory that this process may still take; inf where the system does not say."""
  lines = meminfo.read_text(encoding='utf-8').splitlines() if meminfo.is_file() else []
  found = [1024.0 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')]
  for limit, used in GROUPS:
    if (groups / limit).is_file() and (groups / used).is_file():
      most = (groups / limit).read_text(encoding='utf-8').strip()
      found += [int(most) - int((groups / used).read_text(encoding='utf-8'))] if most.isdigit() else []
  return min(found, default=math.inf)
