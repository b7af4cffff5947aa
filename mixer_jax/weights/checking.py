"""Checks that two sets of weights are one network, by its outputs."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import params
from mixer_jax.weights import reading

IMAGES = 4


def outputs(weights: reading.Weights, image: np.ndarray, gelu: str) -> dict[str, np.ndarray]:
  """`pre_logits` and, where there is a head, `logits` of a Mixer for images [batch, height, width, channels]."""
  settings = weights.model | {'gelu': gelu, 'dtype': 'float32', 'scan': False}
  head = weights.arrays.get('head.bias')
  model = reading.abstract(settings, image.shape[1:], 1 if head is None else len(head))
  graphdef, state = nnx.split(model, nnx.Param)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
  found = nnx.merge(graphdef, params.place(zeros, weights.arrays))(image, intermediates=True)[1]
  return {name: np.asarray(found[name]) for name in ('pre_logits', *(() if head is None else ('logits',)))}


def compare(before: reading.Weights, path: Path, tolerance: float, log: Callable[[str], None]) -> None:
  """Reads `path` again and compares the arrays, or of a Mixer the outputs for random images with the GELU of `before`.

  Raises MixerError where these differ by more than `tolerance` times the largest.
  """
  after = reading.read(str(path), trusted=True)  # written just now
  if not before.is_mixer:
    same = before.arrays.keys() == after.arrays.keys()
    if not same or any(not np.array_equal(before.arrays[k], after.arrays[k]) for k in before.arrays):
      raise MixerError(f'--check: what was written is not what {before.source} holds, so nothing was written')
    log('check: all arrays are equal in every bit')
    return
  size = before.data.get('image') or reading.any_image((*before.patch, before.channels), before.tokens)
  image = np.random.default_rng(0).standard_normal((IMAGES, *size), np.float32)
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
