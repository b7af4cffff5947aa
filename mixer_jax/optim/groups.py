"""Parameters grouped by layer: freezing and layer-wise learning rates."""

import fnmatch
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixer_jax.errors import MixerError
from mixer_jax.ranges import Within


def name(path: tuple) -> tuple[str | int, ...]:
  """The names in a jax.tree_util path, such as ('blocks', 0, 'token_mixing', 'fc1', 'kernel')."""
  return tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def frozen(params: Any, patterns: tuple[str, ...]) -> Any:
  """Whether each parameter matches a pattern: True or False; for stacked blocks that differ, an array [blocks, 1, ...].

  A pattern is a parameter's name, such as `blocks.0.token_mixing.fc1.kernel`, or a prefix of it. Parts between dots
  match in full, with shell wildcards (fnmatch): `blocks.1` does not match `blocks.10`, nor `head` `head_hidden`;
  `blocks.[01]` and `blocks.*.token_*` match several. Stacked blocks are named like listed ones.

  Args:
    params: the model's parameters, concrete or abstract.

  Raises:
    MixerError: a pattern matches nothing, or the patterns match everything.
  """
  named = [_names(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
  for pattern in patterns:
    if not any(_fits(parts, pattern) for names in named for parts in names):
      known = sorted({parts[0] for names in named for parts in names})
      raise MixerError(
        f'layers.freeze has {pattern!r}, which fits no parameter; they are in {", ".join(known)}, and each part of a'
        ' name must match in full; * matches any'
      )

  def chosen(path, leaf):
    fits = np.array([any(_fits(parts, pattern) for pattern in patterns) for parts in _names(name(path), leaf)])
    return bool(fits[0]) if fits.all() or not fits.any() else fits.reshape(-1, *[1] * (leaf.ndim - 1))

  found = jax.tree.map_with_path(chosen, params)
  if all(still is True for still in jax.tree.leaves(found)):
    raise MixerError(f'layers.freeze is {list(patterns)}, which fits every parameter; leave some to train')
  return found


def _names(path: tuple[str | int, ...], leaf: Any) -> list[tuple[str, ...]]:
  """The parameter's name, or one name per block for stacked blocks."""
  after = path.index('blocks') + 1 if 'blocks' in path else 0
  stacked = after and isinstance(path[after], str)
  paths = [(*path[:after], i, *path[after:]) for i in range(leaf.shape[0])] if stacked else [path]
  return [tuple(map(str, parts)) for parts in paths]


def _fits(parts: tuple[str, ...], pattern: str) -> bool:
  wanted = pattern.split('.')
  return len(wanted) <= len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted))


def hold(params: Any, frozen: Any) -> Any:
  """Stops the gradient of frozen parameters."""
  return _where(frozen, jax.lax.stop_gradient, params)


def freeze(optimizer: optax.GradientTransformation, frozen: Any) -> optax.GradientTransformationExtraArgs:
  """Zeroes the updates of frozen parameters: schedule_free would move them by rounding errors."""
  optimizer = optax.with_extra_args_support(optimizer)

  def update(grads, state, params=None, **extra):
    updates, state = optimizer.update(grads, state, params, **extra)
    return _where(frozen, jnp.zeros_like, updates), state

  return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _where(frozen: Any, function: Callable, tree: Any) -> Any:
  def of_leaf(x, still):
    return jnp.where(still, function(x), x) if isinstance(still, np.ndarray) else function(x) if still else x

  return jax.tree.map(of_leaf, tree, frozen)


def scale(
  params: Any,
  *,
  decay: Annotated[float, Within('(0, 1]')] = 1.0,
  freeze: tuple[str, ...] = (),
  order: Sequence[str] = ('stem', 'blocks'),
) -> optax.GradientTransformation:
  """Scales updates: frozen parameters by 0, the others by a power of `decay` that grows towards the input.

  With N blocks, the stem's factor is decay^(N + 1), that of block i (from 0) decay^(N - i), and that of all later
  layers 1 (Bao et al. 2022, arXiv 2106.08254). In a model without `blocks`, each attribute with parameters and each
  list member is a layer; the head's factor is 1. The factor applies to the whole update, weight decay included.

  Args:
    params: the model's parameters, concrete or abstract.
    decay: the ratio from one layer to the one before it, in (0, 1].
    freeze: patterns, see `frozen`.
    order: the model's attributes in forward order.

  Raises:
    MixerError: the model has no layers before its head, or a pattern is wrong.
  """
  layers = _layers(params, order, decay) if decay != 1 else []
  factor_of = {layer: decay ** (len(layers) - i) for i, layer in enumerate(layers)}

  def factor(path, leaf, still):
    rates = [factor_of.get(parts[:2], factor_of.get(parts[:1], 1.0)) for parts in _names(name(path), leaf)]
    rate = rates[0] if len(rates) == 1 else np.reshape(rates, (-1, *[1] * (leaf.ndim - 1)))
    return jnp.asarray(np.where(still, 0, rate), jnp.float32)

  factors = jax.tree.map_with_path(factor, params, frozen(params, freeze))
  return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f.astype(u.dtype), updates, factors))


def _layers(params: Any, order: Sequence[str], decay: float) -> list[tuple[str, ...]]:
  """Name prefixes of the layers before the head, in forward order: ('stem',), ('blocks', '0'), ..."""
  named = [parts for path, leaf in jax.tree_util.tree_leaves_with_path(params) for parts in _names(name(path), leaf)]
  found = dict.fromkeys(parts[0] for parts in named)
  before = [first for first in order if first in found and first.split('_')[0] != 'head']
  before = before[: before.index('blocks') + 1] if 'blocks' in before else before
  layers = []
  for first in before:
    members = {parts[1] for parts in named if parts[0] == first and len(parts) > 1}
    listed = bool(members) and all(map(str.isdecimal, members))
    layers += [(first, member) for member in sorted(members, key=int)] if listed else [(first,)]
  if not layers:
    raise MixerError(
      f'layers.decay is {decay}, but this model has no layers before a head: its parameters are in'
      f' {", ".join(found)}; set layers.decay to 1'
    )
  return layers
