"""Whether two sets of weights are one network, by what it gives."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import params as network
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.weights import reading

IMAGES = 4


def outputs(weights: reading.Weights, image: np.ndarray, gelu: str) -> dict[str, np.ndarray]:
  """`pre_logits` and, where there is a head, `logits` of a Mixer for images [batch, height, width, channels]."""
  settings = {k: tuple(v) if isinstance(v, list) else v for k, v in weights.model.items() if k != 'name'}
  settings |= {'gelu': gelu, 'dtype': 'float32', 'scan': False}
  has_head = 'head.bias' in weights.arrays
  classes = len(weights.arrays['head.bias']) if has_head else 1
  model = nnx.eval_shape(lambda: MlpMixer(image=image.shape[1:], classes=classes, **settings, rngs=nnx.Rngs(0)))
  graphdef, params = nnx.split(model, nnx.Param)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)
  found = nnx.merge(graphdef, network.place(zeros, weights.arrays))(image, intermediates=True)[1]
  return {name: np.asarray(found[name]) for name in ('pre_logits', *(['logits'] if has_head else []))}


def any_image(weights: reading.Weights) -> tuple[int, int, int]:
  """A size of image that a Mixer takes: its own, or where that is not known one of as many tokens."""
  if weights.data.get('image'):
    return tuple(weights.data['image'])
  height, width = weights.patch
  tokens = len(weights.arrays['blocks.0.token_mixing.fc2.bias'])
  return height, width * tokens, len(weights.arrays['stem.kernel']) // (height * width)


def compare(before: reading.Weights, path: Path, tolerance: float, log: Callable[[str], None]) -> None:
  """Reads `path` again and compares: outputs for random images for a Mixer, else the arrays.

  Args:
    tolerance: of the largest output; computed with the GELU of `before`, whatever the file stands for.

  Raises:
    MixerError: they differ by more.
  """
  after = reading.read(str(path), trusted=True)  # written just now
  if not before.is_mixer:
    same = before.arrays.keys() == after.arrays.keys()
    if not same or any(not np.array_equal(before.arrays[k], after.arrays[k]) for k in before.arrays):
      raise MixerError(f'--check: what was written is not what {before.source} holds, so nothing was written')
    log('check: all arrays are equal in every bit')
    return
  image = np.random.default_rng(0).standard_normal((IMAGES, *any_image(before)), np.float32)
  given = outputs(before, image, before.model['gelu'])
  for name, found in outputs(after, image, before.model['gelu']).items():
    difference, size = float(np.abs(found - given[name]).max()), float(np.abs(given[name]).max())
    log(f'check: {name} of {IMAGES} random images differ by at most {difference:.3g}, the largest being {size:.3g}')
    if not difference <= tolerance * max(size, 1e-30):
      raise MixerError(f'--check: {name} differ by {difference:.3g} of {size:.3g}, so nothing was written')
  if after.model['gelu'] != before.model['gelu']:
    other = outputs(after, image, after.model['gelu'])
    difference = max(float(np.abs(other[name] - given[name]).max()) for name in given)
    log(f'check: with the {after.model["gelu"]} GELU, which that layout stands for, they differ by {difference:.3g}')
