"""Weights -> the arrays that a new model starts from; every change is asked for by name, and noted."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from mixer_jax.errors import MixerError, unknown
from mixer_jax.models import params
from mixer_jax.models.layers import patch_grid
from mixer_jax.weights import resize
from mixer_jax.weights.reading import Weights, mixer_defaults

# What changes how a network is trained or computed, but not what it computes.
FREE = ('dropout', 'stochastic_depth', 'rescale', 'dtype', 'scan', 'remat', 'init', 'head_bias')
CHOICES = {'head': ('keep', 'new'), 'tokens': ('keep', 'interpolate', 'tile'), 'stem': ('keep', 'resize')}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFrom:
  """The keys of config.init_from.

  `weights` is '' for none, or a run directory, a file (.npz, .safetensors, .pth; of a training checkpoint by PyTorch
  also FILE#KEY, such as w.pth#state_dict_ema), a model folder, or the address of one (hf://, gs://). `checkpoint` is
  which of a run: `last`, `best` or a step. `head` is `keep`, or `new` for the new model's own: all parameters whose
  first name is `head` or begins with `head_`. For Mixers alone, `tokens` is `keep` for the same grid, or `interpolate`
  or `tile` token mixing to another, and `stem` is `keep`, or `resize` to another patch or other channels: see resize.
  """

  weights: str = ''
  checkpoint: str = 'last'
  head: str = 'keep'
  tokens: str = 'keep'
  stem: str = 'keep'

  def __post_init__(self):
    for key, known in CHOICES.items():
      if getattr(self, key) not in known:
        raise unknown(f'init_from.{key}', getattr(self, key), known)
    for field in dataclasses.fields(self)[1:]:
      if not self.weights and getattr(self, field.name) != field.default:
        raise MixerError(
          f'init_from.{field.name} is {getattr(self, field.name)!r}, but init_from.weights is empty; set it, too'
        )


def fit(
  weights: Weights, state: nnx.State, model: Mapping[str, Any], data: Mapping[str, Any], init_from: InitFrom,
  labels: Sequence[str],
) -> tuple[dict[str, np.ndarray], list[str]]:  # fmt: skip
  """The arrays of `weights` for a new model, by dotted names, and a note for each change.

  Args:
    state: the new model's parameters, in memory or abstract.
    model, data: its config.model and config.data.
    labels: the names of the new data's classes.

  Refuses whatever differs and was not asked to be changed, and arrays that are missing, too many or misshapen.
  """
  arrays, notes = dict(weights.arrays), list(weights.notes)
  if model['name'] != weights.model['name']:
    raise MixerError(f'{weights.source} is a {weights.model["name"]}, but model.name is {model["name"]!r}')
  if weights.is_mixer:
    arrays = _fit_tokens_and_stem(weights, arrays, model, data, init_from, notes)
  else:
    for key in ('tokens', 'stem'):
      if (value := getattr(init_from, key)) != 'keep':
        raise MixerError(f"init_from.{key} is {value!r}, but a {weights.model['name']} keeps its own; set it to 'keep'")
    _compare_models(weights, model, {}, {'head'} if init_from.head == 'new' else ())
  wanted = params.shapes(state)
  arrays = _fit_head(weights, arrays, wanted, data, init_from, labels, notes)
  if init_from.head == 'new':
    wanted = {name: shape for name, shape in wanted.items() if not _is_head(name)}
  _compare(weights.source, wanted, arrays)
  for key in ('mean', 'std'):
    theirs, ours = weights.data.get(key), data.get(key)
    if theirs is not None and ours is not None and list(theirs) != list(ours):
      notes.append(f'data.{key}: {_list(theirs)} in the weights, {_list(ours)} here')
  return arrays, notes


def _fit_tokens_and_stem(weights, arrays, model, data, init_from, notes) -> dict[str, np.ndarray]:
  """A Mixer's arrays for another grid of tokens, another patch or other channels."""
  tokens, stem = init_from.tokens, init_from.stem
  image, patch = tuple(data['image']), model['patch']
  grid, patch = patch_grid(image, tuple(patch) if isinstance(patch, list) else patch)
  old_patch, new_patch = (*weights.patch, weights.channels), (*patch, image[2])
  same_tokens = weights.tokens == grid[0] * grid[1]
  # The grid matters where it changes, or where it is known to be another with as many tokens.
  known = weights.data.get('image')
  old_grid = patch_grid(tuple(weights.image), weights.patch)[0] if known or not same_tokens else grid
  factors = (grid[0] // old_grid[0]) * (grid[1] // old_grid[1]) if tokens == 'tile' else 1
  changed = {'patch', 'head'} if init_from.head == 'new' else {'patch'}
  expected = {'token_mlp': weights.model['token_mlp'] * factors}
  if tokens == 'tile' and old_grid != grid and model['token_mlp'] != expected['token_mlp'] and factors:
    raise MixerError(
      f'model.token_mlp is {model["token_mlp"]}, but {factors} copies of the weights take {expected["token_mlp"]}; set'
      f' model.token_mlp={expected["token_mlp"]}'
    )
  _compare_models(weights, model, expected, changed)
  if old_patch != new_patch:
    if stem == 'keep':
      raise MixerError(
        f'the patch is {_by(old_patch)} (height, width, channels) in {weights.source}, but {_by(new_patch)} here; set'
        " init_from.stem='resize', or model.patch and data.image to the weights'"
      )
    arrays['stem.kernel'] = resize.stem(arrays['stem.kernel'], old_patch, new_patch)
    notes.append(f'stem: resized, patch {_by(old_patch)} -> {_by(new_patch)}')
  if old_grid != grid:
    if tokens == 'keep':
      raise MixerError(
        f'the grid of tokens is {_by(old_grid)} in {weights.source}, but {_by(grid)} here (image / patch); set'
        " init_from.tokens='interpolate' or 'tile', or data.image and model.patch so that it stays"
      )
    change = resize.interpolate_tokens if tokens == 'interpolate' else resize.tile_tokens
    arrays = change(arrays, old_grid, grid)
    notes.append(f'token mixing: {tokens}, grid {_by(old_grid)} -> {_by(grid)}')
  return arrays


def _fit_head(weights, arrays, wanted, data, init_from, labels, notes) -> dict[str, np.ndarray]:
  """The arrays without their head where it is to be new, else with it, checked against the classes here.

  Models without parameters of a head, such as auto-encoders, have nothing to keep or to replace.
  """
  theirs, ours = (any(map(_is_head, names)) for names in (arrays, wanted))
  if init_from.head == 'new':
    if not ours:
      raise MixerError(f"init_from.head is 'new', but a {weights.model['name']} has no head; set it to 'keep'")
    before = weights.data.get('classes') or (_outputs(arrays) if theirs else 'none')
    notes.append(f'head: reinitialised, {before if theirs else "none"} -> {data["classes"]} classes')
    return {name: array for name, array in arrays.items() if not _is_head(name)}
  if ours and not theirs:
    raise MixerError(f"{weights.source} has no head; set init_from.head='new'")
  if 'head.bias' in wanted and _outputs(arrays) not in (None, wanted['head.bias'][0]):
    before = weights.data.get('classes') or _outputs(arrays)
    raise MixerError(
      f'the head of {weights.source} is for {before} classes, but the data have {data["classes"]}; set'
      " init_from.head='new' for a new one"
    )
  if ours and weights.labels is not None and list(labels) != list(weights.labels):
    pairs = itertools.zip_longest(weights.labels, labels)
    i, (before, now) = next((i, pair) for i, pair in enumerate(pairs) if len(set(pair)) == 2)
    notes.append(f'warning: head: kept, but class {i} was {before!r} and is {now!r} here')
  return arrays


def _outputs(arrays: Mapping[str, np.ndarray]) -> int | None:
  """How many numbers a head gives; None where its last layer is not called `head`."""
  return len(arrays['head.bias']) if 'head.bias' in arrays else None


def _compare_models(weights: Weights, model: Mapping, expected: Mapping, changed: Any) -> None:
  """Refuses a network that computes something else with the same arrays, naming every key."""
  defaults = mixer_defaults() if weights.is_mixer else {}
  theirs = defaults | dict(weights.model) | dict(expected)
  ours = defaults | dict(model)
  plain = lambda value: list(value) if isinstance(value, (list, tuple)) else value
  differing = [
    f'model.{key} is {plain(theirs.get(key))!r} in the weights, {plain(ours.get(key))!r} here'
    for key in sorted({*theirs, *ours} - {*FREE, *changed})
    if plain(theirs.get(key)) != plain(ours.get(key))
  ]
  if differing:
    raise MixerError(f'{weights.source} is of another network: {"; ".join(differing)}; set them as in the weights')


def _compare(source: str, wanted: Mapping[str, tuple], arrays: Mapping[str, np.ndarray]) -> None:
  lists = {
    'missing': sorted(wanted.keys() - arrays.keys()),
    'extra': sorted(arrays.keys() - wanted.keys()),
    'misshapen': [
      f'{name} {arrays[name].shape} for {wanted[name]}' for name in sorted(wanted.keys() & arrays.keys())
      if arrays[name].shape != wanted[name]
    ],
  }  # fmt: skip
  if found := [f'{what}: {", ".join(names)}' for what, names in lists.items() if names]:
    raise MixerError(f'{source} does not fit the model of this config; {"; ".join(found)}')


def _is_head(name: str) -> bool:
  first = name.partition('.')[0]
  return first == 'head' or first.startswith('head_')


def _by(sides: tuple) -> str:
  return 'x'.join(map(str, sides))


def _list(values) -> str:
  return '(' + ', '.join(f'{v:g}' for v in values) + ')'
