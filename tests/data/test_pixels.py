"""Bytes to floats, and their normalisation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from augmented import random_batch

from mixer_jax.data.images.pixels import normalize, to_float
from mixer_jax.errors import MixerError

# ---- pixels


def test_to_float():
  image = np.random.default_rng(0).integers(256, size=(2, 3, 3, 1), dtype=np.uint8)
  result = to_float(jnp.asarray(image))
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, image / 255, rtol=1e-6)
  with pytest.raises(MixerError, match='must be uint8, got float32'):
    to_float(result)


def test_normalize():
  image = random_batch()['image']
  mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
  expected = (np.asarray(image) - np.array(mean)) / np.array(std)
  result = jax.jit(lambda image: normalize(image, mean, std))(image)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(normalize(image, 0.5, 0.25), (np.asarray(image) - 0.5) / 0.25, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'mean, std, message',
  [
    ([0.5], 1, 'mean has 1 numbers, but the images have 3 channels'),
    (0.5, [1, 1], 'std has 2 numbers, but the images have 3 channels'),
    (0.5, [1, 0, 1], r'std must be positive, got \[1, 0, 1\]'),
    (0.5, -1, 'std must be positive, got -1'),
    (math.nan, 1, 'mean must be finite, got nan'),
    (0, math.inf, 'std must be finite, got inf'),
  ],
)
def test_normalize_refuses(mean, std, message):
  with pytest.raises(MixerError, match=message):
    normalize(random_batch()['image'], mean, std)
