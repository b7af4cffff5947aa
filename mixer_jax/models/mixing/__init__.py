"""Mixing layers by the name that configs use: layers that mix information across tokens.

A mixing layer is an nnx.Module, made with `grid` (rows and columns of the tokens), `width` (of a token), `rngs` and, as
far as its constructor names them, `activation`, `dropout`, `init` and `dtype`; all its other keyword arguments are
settings. It is called as `mixing(x, rngs=None)` with x [tokens, batch, width], and keeps the shape.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from flax import nnx

from mixer_jax import parts
from mixer_jax.errors import MixerError


def _is_layer(part: Any, name: str, what: str) -> type[nnx.Module]:
  if not (inspect.isclass(part) and issubclass(part, nnx.Module)):
    raise MixerError(f'{what} is {name!r}, but a mixing layer must be a subclass of nnx.Module')
  return part


MIXINGS = parts.Table(
  {
    'token_mlp': 'mixer_jax.models.mixing.mlp:TokenMlp',
    'mlp': 'mixer_jax.models.mixing.mlp:LinearMixing',
    'cnn': 'mixer_jax.models.mixing.convolution:Cnn',
    'cnnf': 'mixer_jax.models.mixing.convolution:Cnnf',
    'cnn2d': 'mixer_jax.models.mixing.convolution:Cnn2d',
    'cnn2df': 'mixer_jax.models.mixing.convolution:Cnn2df',
  },
  context=('grid', 'width', 'rngs', 'activation', 'dropout', 'init', 'dtype'),
  adapt=_is_layer,
)
TOKEN_MLP = {'name': 'token_mlp', 'hidden': 0}  # the paper's; a Mixer sets how many hidden units it has


def make(settings: Mapping[str, Any] | str, **context: Any) -> nnx.Module:
  """The mixing layer that settings['name'] names; `context` is everything of MIXINGS.context."""
  return parts.named(MIXINGS, settings, 'model.mixing', **context)


def is_token_mlp(settings: Mapping[str, Any] | str) -> bool:
  """Whether the mixing layer is the paper's."""
  return _name(settings) == 'token_mlp'


def _name(settings: Any) -> Any:
  return settings.get('name') if isinstance(settings, Mapping) else settings


def with_hidden(
  settings: Mapping[str, Any] | str, hidden: int, *, key: str, value: float, unused: float
) -> Mapping[str, Any] | str:
  """The settings of a Mixer's mixing layer, where the model, not `mixing`, sets the width of the paper's MLP.

  Args:
    hidden: the width of its hidden layer.
    key, value: the model's setting of that width.
    unused: what it must be with any other mixing layer.

  Refuses a width below 1, a width that is set twice, or for a layer that has none.
  """
  name = _name(settings)
  if not is_token_mlp(settings):
    if value != unused:
      raise MixerError(f'model.{key} is {value}, but does nothing with model.mixing {name!r}; set it to {unused}')
    return settings
  if hidden < 1:
    raise MixerError(f'model.{key} is {value}, but must be at least 1')
  if not isinstance(settings, str) and settings.get('hidden'):
    raise MixerError(f'model.mixing.hidden is {settings["hidden"]}, but here model.{key} sets that; leave it out')
  return {'name': name, 'hidden': hidden}
