"""What the tests of augmentations share: settings, batches, one compiled program for each."""

import ast
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.data.augment import make_augment
from mixer_jax.errors import MixerError

CLASSES = 5
# One that changes images for sure, for every name: a new augmentation without one fails below.
SETTINGS = {
  'flip': {},
  'resized_crop': {'min_area': 0.3},
  'crop': {'padding': 2},
  'rotation': {'degrees': 30},
  'affine': {'degrees': 20, 'translate': 0.1, 'scale': 0.2, 'shear': 10},
  'elastic': {'alpha': 10.0, 'sigma': 2.0},
  'color_jitter': {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1},
  'erasing': {'probability': 0.9},
  'noise': {'deviation': 0.1},
  'cutmix': {},
  'mixup': {'alpha': 0.4},
}


def random_batch(seed=0, batch=8, height=9, width=12, channels=3):
  rng = np.random.default_rng(seed)
  return {
    'image': jnp.asarray(rng.uniform(size=(batch, height, width, channels)), jnp.float32),
    'label': jnp.asarray(rng.integers(CLASSES, size=batch), jnp.int32),
    'mask': jnp.asarray(rng.uniform(size=batch) < 0.8),
  }


def spec(batch):
  return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch.items()}


def images(height=8, width=8, channels=3):
  return {
    'image': jax.ShapeDtypeStruct((4, height, width, channels), jnp.float32),
    'label': jax.ShapeDtypeStruct((4,), jnp.int32),
  }


@functools.cache
def compiled(settings, shapes):
  features = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in shapes}
  return jax.jit(make_augment(ast.literal_eval(settings), features=features, classes=CLASSES))


def run(settings, batch, seed=0):
  # Compiling is nearly all the time these tests take.
  shapes = tuple((name, value.shape, value.dtype) for name, value in batch.items())
  return jax.device_get(compiled(repr(settings), shapes)(batch, jax.random.key(seed)))


def draws(batch, seed):
  """numbers an example, as the augmentations take them."""
  return np.random.default_rng(seed).uniform(size=batch).astype(np.float32)


def refused(settings, features=None, classes=CLASSES):
  with pytest.raises(MixerError) as error:
    make_augment(settings, features=features or images(), classes=classes)
  assert '\n' not in str(error.value)
  return str(error.value)
