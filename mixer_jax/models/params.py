"""A model's parameters by dotted names, those of an unrolled model whether its blocks are stacked or not."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx


def _is_stacked(path: tuple) -> bool:
  return path[0] == 'blocks' and isinstance(path[1], str)


def _dotted(path: tuple, block: int | None = None) -> str:
  return '.'.join(map(str, path if block is None else ('blocks', block, *path[1:])))


def _unstacked(params: nnx.State, read: Callable[[Any], Any]) -> Iterator[tuple[str, Any, int | None]]:
  """(name, what is read of the leaf, which of its blocks: None where they are not stacked) of every parameter."""
  for path, leaf in nnx.to_flat_state(params):
    value = read(leaf)
    for block in range(leaf.shape[0]) if _is_stacked(path) else [None]:
      yield _dotted(path, block), value, block


def shapes(params: nnx.State) -> dict[str, tuple[int, ...]]:
  """The shape of every parameter, in memory or abstract."""
  found = _unstacked(params, lambda leaf: tuple(leaf.shape))
  return {name: shape if block is None else shape[1:] for name, shape, block in found}


def arrays(params: nnx.State) -> dict[str, np.ndarray]:
  """Every parameter, in memory."""
  found = _unstacked(params, lambda leaf: np.asarray(leaf[...]))
  return {name: value if block is None else value[block] for name, value, block in found}


def place(params: nnx.State, given: Mapping[str, Any]) -> nnx.State:
  """Returns `params` with some parameters replaced by the given arrays; shapes must fit."""

  def placed(path, leaf):
    if _is_stacked(path):
      one = [given.get(_dotted(path, i), leaf[i]) for i in range(leaf.shape[0])]
      return leaf.replace(jnp.stack([jnp.asarray(x, leaf.dtype) for x in one]))
    return leaf.replace(jnp.asarray(given.get(_dotted(path), leaf[...]), leaf.dtype))

  return nnx.from_flat_state([(path, placed(path, leaf)) for path, leaf in nnx.to_flat_state(params)])
