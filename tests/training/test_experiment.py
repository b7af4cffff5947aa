"""Models of one's own that cannot be trained here: one line that names the model and what to change."""

import jax
import pytest
from flax import nnx

from mixer_jax import config as configs
from mixer_jax.errors import MixerError
from mixer_jax.training import experiment as experiments


class Net(nnx.Module):
  """A linear layer and a head, and what is wrong with it."""

  def __init__(self, *, image: tuple, classes: int, fault: str = '', rngs: nnx.Rngs):
    pixels = image[0] * image[1] * image[2]
    self.linear, self.head = nnx.Linear(pixels, 8, rngs=rngs), nnx.Linear(8, classes, rngs=rngs)
    if fault == 'dropout':
      self.drop = nnx.Dropout(0.1, rngs=rngs)
    if fault == 'norm':
      self.norm = nnx.BatchNorm(8, rngs=rngs)
    if fault == 'built':
      raise ZeroDivisionError('of a bug')
    self.fault = fault

  def __call__(self, image, *, rngs=None):
    x = image.reshape(len(image), -1)
    return self.head(x if self.fault == 'width' else jax.nn.relu(self.linear(x)))


class WithoutRngs(Net):
  def __call__(self, image):
    return super().__call__(image)


def build(model, **settings):
  config = configs.load(['--config=digits'])
  return experiments.build(config | {'model': {'name': f'{__name__}:{model}', **settings}})


def test_a_model_of_ones_own_is_built():
  assert build('Net').parameters == 64 * 8 + 8 + 8 * 10 + 10


@pytest.mark.parametrize(
  'model, fault, parts',
  [
    ('Net', 'dropout', ['keeps RngCount in drop.', 'nnx.Dropout']),
    ('Net', 'norm', ['keeps BatchStat in norm.', 'nnx.LayerNorm']),
    ('Net', 'built', ['fails', 'ZeroDivisionError: of a bug', '--debug']),
    ('Net', 'width', ['fails on data of these shapes', '--debug']),
    ('WithoutRngs', '', ['takes no rngs', 'rngs=None']),
  ],
)
def test_models_that_are_refused(model, fault, parts):
  with pytest.raises(MixerError) as error:
    build(model, fault=fault)
  assert '\n' not in str(error.value) and all(part in str(error.value) for part in (f'{__name__}:{model}', *parts))
