"""Parameters by the layer they are in: what is frozen, and a learning rate of its own for every layer."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixer_jax.errors import MixerError


def name(path: tuple) -> tuple[str | int, ...]:
  """A path of jax.tree_util -> the names in it, such as ('blocks', 0, 'token_mixing', 'fc1', 'kernel')."""
  return tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def frozen(params: Any, patterns: tuple[str, ...]) -> Any:
  """True for what a pattern names: a regular expression that fits the beginning of `blocks.0.token_mixing.fc1.kernel`.

  Raises:
    MixerError: a pattern that cannot be read or names nothing, patterns that name everything.
  """
  dotted = lambda path: '.'.join(map(str, name(path)))
  names = [dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  for pattern in patterns:
    try:
      found = any(re.match(pattern, one) for one in names)
    except re.error as error:
      raise MixerError(f'layers.freeze has {pattern!r}, which is no regular expression ({error})') from error
    if not found:
      groups = sorted({one.partition('.')[0] for one in names})
      raise MixerError(f'layers.freeze has {pattern!r}, which fits no parameter; they are in {", ".join(groups)}')
  fits = lambda path, _: any(re.match(pattern, dotted(path)) for pattern in patterns)
  chosen = jax.tree.map_with_path(fits, params)
  if all(jax.tree.leaves(chosen)):
    raise MixerError(f'layers.freeze is {list(patterns)}, which fits every parameter; leave some to train')
  return chosen


def scale(params: Any, *, decay: float = 1.0, freeze: tuple[str, ...] = ()) -> optax.GradientTransformation:
  """Multiplies updates: by 0 what is frozen, the rest by a power of `decay`, the lower the nearer to the stem.

  Of N blocks the stem has decay^(N + 1), block i, the first being 0, decay^(N - i), and all that follows them 1 (Bao et
  al. 2022, arXiv 2106.08254). It multiplies a whole update, so also its weight decay.

  Args:
    params: of the model, in memory or abstract.
    decay: from one layer to the one before it, in (0, 1].
    freeze: patterns, see `frozen`.

  Raises:
    MixerError: decay out of its range, or of a model that is not a stem and blocks in a row; a wrong pattern.
  """
  if not 0 < decay <= 1:
    raise MixerError(f'layers.decay is {decay}, but must be in (0, 1]')
  count = _count(params, decay) if decay != 1 else 0

  def factor(path, leaf, still):
    first, *rest = name(path)
    if still or first not in ('stem', 'blocks'):
      return jnp.float32(not still)
    if first == 'stem':
      return jnp.float32(decay ** (count + 1))
    if isinstance(rest[0], int):
      return jnp.float32(decay ** (count - rest[0]))
    of_blocks = decay ** np.arange(leaf.shape[0], 0, -1)
    return jnp.asarray(of_blocks.reshape(-1, *[1] * (leaf.ndim - 1)), jnp.float32)

  factors = jax.tree.map_with_path(factor, params, frozen(params, freeze))
  return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f.astype(u.dtype), updates, factors))


def _count(params: Any, decay: float) -> int:
  """How many blocks there are, listed or stacked."""
  leaves = [(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
  blocks = [leaf.shape[0] if isinstance(path[1], str) else path[1] + 1 for path, leaf in leaves if path[0] == 'blocks']
  if not blocks or not any(path[0] == 'stem' for path, _ in leaves):
    names = ', '.join(sorted({str(path[0]) for path, _ in leaves}))
    raise MixerError(
      f'layers.decay is {decay}, but only models of a stem and blocks in a row have layers to count, and this one is of'
      f' {names}; set layers.decay to 1'
    )
  return max(blocks)
