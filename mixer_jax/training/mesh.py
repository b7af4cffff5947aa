"""The device mesh and its shardings, for one CPU up to many hosts."""

from typing import Annotated

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixer_jax.errors import MixerError
from mixer_jax.ranges import Within

AXIS = Within('[-1, 2147483647]')


def make_mesh(*, data: Annotated[int, AXIS] = -1, fsdp: Annotated[int, AXIS] = 1) -> Mesh:
  """All devices of all hosts as a mesh [data, fsdp].

  Batches are sharded over both axes; parameters and optimizer state are sharded over `fsdp`, replicated over `data`.

  Args:
    data, fsdp: devices along each axis; one of them may be -1 for the rest.

  Raises:
    MixerError: the product is not the number of devices.
  """
  devices = jax.devices()
  shape = [data, fsdp]
  if shape.count(-1) == 1 and data * fsdp and len(devices) % -(data * fsdp) == 0:
    shape[shape.index(-1)] = len(devices) // -(data * fsdp)
  if min(shape) < 1 or shape[0] * shape[1] != len(devices):
    raise MixerError(
      f'mesh.data={data} x mesh.fsdp={fsdp} does not fit {len(devices)} devices; their product must be'
      ' that number, and one of them may be -1 for the rest'
    )
  return Mesh(np.asarray(devices).reshape(shape), ('data', 'fsdp'))


def over_batch(mesh: Mesh) -> NamedSharding:
  """Shards the first axis over all devices."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def whole(mesh: Mesh) -> NamedSharding:
  """Replicates over all devices."""
  return NamedSharding(mesh, PartitionSpec())


def shard(tree, mesh: Mesh):
  """Adds shardings to the shapes of a state: over `fsdp`, each array along its longest axis that `fsdp` divides."""

  def place(leaf):
    size = mesh.shape['fsdp']
    axes = [axis for axis in range(leaf.ndim) if leaf.shape[axis] % size == 0]
    spec = [None] * leaf.ndim
    if size > 1 and axes:
      spec[max(axes, key=lambda axis: leaf.shape[axis])] = 'fsdp'
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

  return jax.tree.map(place, tree)


def check_batch(what: str, batch_size: int, mesh: Mesh, parts: int = 1) -> None:
  """Rejects a batch size that the devices, times the `parts` of an accumulation, do not divide."""
  if batch_size < 1 or batch_size % (mesh.size * parts):
    parts_text = f' x {parts} parts to accumulate' if parts > 1 else ''
    raise MixerError(
      f'{what} is {batch_size}, which {mesh.size} devices{parts_text} do not divide; choose a multiple of'
      f' {mesh.size * parts}'
    )
