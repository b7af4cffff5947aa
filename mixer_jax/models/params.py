"""A model's parameters by dotted names, those of an unrolled model whether its blocks are stacked or not."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx


def _places(params: nnx.State) -> list[tuple[tuple, Any, bool]]:
  """(path, leaf, whether it is of stacked blocks) of every parameter."""
  return [(path, leaf, path[0] == 'blocks' and isinstance(path[1], str)) for path, leaf in nnx.to_flat_state(params)]


def _dotted(path: tuple) -> str:
  return '.'.join(map(str, path))


def _of_block(path: tuple, i: int) -> str:
  return _dotted(('blocks', i, *path[1:]))


def shapes(params: nnx.State) -> dict[str, tuple[int, ...]]:
  """The shape of every parameter, in memory or abstract."""
  found = {}
  for path, leaf, stacked in _places(params):
    if stacked:
      found |= {_of_block(path, i): tuple(leaf.shape[1:]) for i in range(leaf.shape[0])}
    else:
      found[_dotted(path)] = tuple(leaf.shape)
  return found


def arrays(params: nnx.State) -> dict[str, np.ndarray]:
  """Every parameter, in memory."""
  found = {}
  for path, leaf, stacked in _places(params):
    value = np.asarray(leaf[...])
    if stacked:
      found |= {_of_block(path, i): value[i] for i in range(len(value))}
    else:
      found[_dotted(path)] = value
  return found


def place(params: nnx.State, given: Mapping[str, Any]) -> nnx.State:
  """`params` with the arrays that are given in the place of their own; shapes must fit."""

  def placed(path, leaf):
    if path[0] == 'blocks' and isinstance(path[1], str):
      one = [given.get(_of_block(path, i), leaf[i]) for i in range(leaf.shape[0])]
      return leaf.replace(jnp.stack([jnp.asarray(x, leaf.dtype) for x in one]))
    return leaf.replace(jnp.asarray(given.get(_dotted(path), leaf[...]), leaf.dtype))

  return nnx.from_flat_state([(path, placed(path, leaf)) for path, leaf in nnx.to_flat_state(params)])
