"""Pixels on the device: uint8 to [0, 1], and normalised."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.errors import MixerError


def to_float(image: jax.Array) -> jax.Array:
  """uint8 pixels as float32 in [0, 1]; refuses pixels of another type."""
  if image.dtype != jnp.uint8:
    raise MixerError(f'images to be scaled by 1/255 must be uint8, got {image.dtype}; leave scaled images as they are')
  return image.astype(jnp.float32) / 255


def normalize(image: jax.Array, mean: Sequence[float] | float, std: Sequence[float] | float) -> jax.Array:
  """(image - mean) / std of [..., channels]; mean and std are finite, std positive, one a channel or one for all."""
  channels = image.shape[-1]
  for name, value in (('mean', mean), ('std', std)):
    if np.shape(value) not in ((), (channels,)):
      raise MixerError(
        f'{name} has {np.size(value)} numbers, but the images have {channels} channels;'
        ' give one a channel, or one for all'
      )
    if not np.all(np.isfinite(value)):
      raise MixerError(f'{name} must be finite, got {value}')
  if not np.all(np.asarray(std) > 0):
    raise MixerError(f'std must be positive, got {std}; a channel that never changes can have 1')
  return (image - jnp.asarray(mean, image.dtype)) / jnp.asarray(std, image.dtype)
