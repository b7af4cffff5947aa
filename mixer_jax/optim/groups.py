"""Parameters by the layer they are in: what is frozen, and a learning rate of its own for every layer."""

import fnmatch
from collections.abc import Callable, Sequence
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
  """What patterns name, for every parameter: True, False, or for a stack of blocks an array of them [blocks, 1, ...].

  A pattern is a name such as `blocks.0.token_mixing.fc1.kernel`, or its first parts for all that is in them. Each part
  between dots must fit a whole part of the name, as a shell's wildcard (fnmatch): `blocks.1` is not `blocks.10` nor
  `head` `head_hidden`, while `blocks.[01]` and `blocks.*.token_*` are several. Stacked blocks have the names of listed
  ones.

  Args:
    params: of the model, in memory or abstract.

  Raises:
    MixerError: a pattern that names nothing, patterns that name everything.
  """
  named = [_names(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
  for pattern in patterns:
    if not any(_fits(parts, pattern) for names in named for parts in names):
      known = sorted({parts[0] for names in named for parts in names})
      raise MixerError(
        f'layers.freeze has {pattern!r}, which fits no parameter; they are in {", ".join(known)}, and a part of a name'
        ' counts whole, with * for any'
      )

  def chosen(path, leaf):
    fits = np.array([any(_fits(parts, pattern) for pattern in patterns) for parts in _names(name(path), leaf)])
    return bool(fits[0]) if fits.all() or not fits.any() else fits.reshape(-1, *[1] * (leaf.ndim - 1))

  found = jax.tree.map_with_path(chosen, params)
  if all(still is True for still in jax.tree.leaves(found)):
    raise MixerError(f'layers.freeze is {list(patterns)}, which fits every parameter; leave some to train')
  return found


def _names(path: tuple[str | int, ...], leaf: Any) -> list[tuple[str, ...]]:
  """The names that a parameter has: one, or with stacked blocks one for each of them."""
  after = path.index('blocks') + 1 if 'blocks' in path else 0
  stacked = after and isinstance(path[after], str)
  paths = [(*path[:after], i, *path[after:]) for i in range(leaf.shape[0])] if stacked else [path]
  return [tuple(map(str, parts)) for parts in paths]


def _fits(parts: tuple[str, ...], pattern: str) -> bool:
  wanted = pattern.split('.')
  return len(wanted) <= len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted))


def hold(params: Any, frozen: Any) -> Any:
  """The parameters, without a gradient where they are frozen."""
  return _where(frozen, jax.lax.stop_gradient, params)


def freeze(optimizer: optax.GradientTransformation, frozen: Any) -> optax.GradientTransformationExtraArgs:
  """An optimizer whose updates are 0 where the parameters are frozen: schedule_free moves nothing there, but rounds."""
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
  params: Any, *, decay: float = 1.0, freeze: tuple[str, ...] = (), order: Sequence[str] = ('stem', 'blocks')
) -> optax.GradientTransformation:
  """Multiplies updates: by 0 what is frozen, the rest by a power of `decay`, the lower the nearer to the input.

  Of N blocks behind a stem the stem has decay^(N + 1), block i, the first being 0, decay^(N - i), and all that follows
  them 1 (Bao et al. 2022, arXiv 2106.08254). A model without `blocks` has a layer for each attribute with parameters,
  and for each member of a list; those of the head have 1. It multiplies a whole update, so also its weight decay.

  Args:
    params: of the model, in memory or abstract.
    decay: from one layer to the one before it, in (0, 1].
    freeze: patterns, see `frozen`.
    order: the model's attributes in the order in which an example goes through them.

  Raises:
    MixerError: decay out of its range, or of a model that has no layers before its head; a wrong pattern.
  """
  if not 0 < decay <= 1:
    raise MixerError(f'layers.decay is {decay}, but must be in (0, 1]')
  layers = _layers(params, order, decay) if decay != 1 else []

  def factor(path, leaf, still):
    own = [
      layers.index(parts[:2]) if parts[:2] in layers else layers.index(parts[:1]) if parts[:1] in layers else None
      for parts in _names(name(path), leaf)
    ]
    rates = [1.0 if place is None else decay ** (len(layers) - place) for place in own]
    rate = rates[0] if len(rates) == 1 else np.reshape(rates, (-1, *[1] * (leaf.ndim - 1)))
    return jnp.asarray(np.where(still, 0, rate), jnp.float32)

  factors = jax.tree.map_with_path(factor, params, frozen(params, freeze))
  return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f.astype(u.dtype), updates, factors))


def _layers(params: Any, order: Sequence[str], decay: float) -> list[tuple[str, ...]]:
  """The layers in front of the head by the first parts of their names, ('stem',), ('blocks', '0'), ..., in order."""
  named = [parts for path, leaf in jax.tree_util.tree_leaves_with_path(params) for parts in _names(name(path), leaf)]
  of = {first: [parts for parts in named if parts[0] == first] for first in dict.fromkeys(p[0] for p in named)}
  before = [first for first in order if first in of and first.split('_')[0] != 'head']
  before = before[: before.index('blocks') + 1] if 'blocks' in before else before
  layers = []
  for first in before:
    members = {parts[1] for parts in of[first] if len(parts) > 1}
    listed = bool(members) and all(map(str.isdecimal, members))
    layers += [(first, member) for member in sorted(members, key=int)] if listed else [(first,)]
  if not layers:
    raise MixerError(
      f'layers.decay is {decay}, but this model has no layers before a head: its parameters are in'
      f' {", ".join(of)}; set layers.decay to 1'
    )
  return layers
