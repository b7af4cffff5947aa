"""Models by the name that configs use.

A constructor receives its settings, `rngs`, and those of the data's properties that its signature names: `image`
(height, width, channels) and `classes`, or `columns` and `vocabularies`; `outputs`. A model is called as
model(*inputs, rngs=None); where it has them, `features` (same arguments, [batch, width]) and `head` serve other tasks:
parameters under `head` or `head_...` are the head.
"""

from collections.abc import Mapping
from typing import Any

# Where each is, to be imported when it is asked for.
MODELS = {
  'mixer': 'mixer_jax.models.mixer:MlpMixer',
  'mnist_mixer': 'mixer_jax.models.mnist_mixer:MnistMixer',
  'tabular': 'mixer_jax.models.tabular:TabularMixer',
  'mixing_autoencoder': 'mixer_jax.models.autoencoder:MixingAutoencoder',
  'mixer_autoencoder': 'mixer_jax.models.autoencoder:MixerAutoencoder',
  'cnn_autoencoder': 'mixer_jax.models.zoo.cnn_autoencoder:CnnAutoencoder',
  'scripted_autoencoder': 'mixer_jax.models.zoo.cnn_autoencoder:ScriptedAutoencoder',
}
# What `mixer` once took beside the paper's settings; `mnist_mixer` takes these now, with other defaults.
_FORMER = {'norm_over': 'channels', 'first': 'tokens', 'pool': 'mean', 'head': []}
_FORMER_DEFAULTS = _FORMER | {'gelu': 'tanh', 'init': 'original'}


def upgrade(settings: Mapping[str, Any]) -> dict[str, Any]:
  """config.model as an earlier version wrote it -> the same model by the names of today; today's stay as they are."""
  settings = dict(settings)
  if settings.get('name') == 'mixer':
    plain = lambda value: list(value) if isinstance(value, tuple) else value
    if any(plain(settings.get(key, value)) != value for key, value in _FORMER.items()):
      return _FORMER_DEFAULTS | settings | {'name': 'mnist_mixer'}
    return {key: value for key, value in settings.items() if key not in _FORMER}
  if settings.get('name') == 'mixing_autoencoder' and 'kernel' in settings:
    kernel, name = settings.pop('kernel'), settings.get('mixing')
    settings['mixing'] = {'name': name} if name == 'mlp' else {'name': name, 'kernel': kernel}
  return settings
