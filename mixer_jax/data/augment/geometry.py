"""Augmentations that move pixels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.scipy.ndimage import map_coordinates

from mixer_jax.data.augment import pieces
from mixer_jax.data.augment.pieces import Augment, Features, chance, check, image_shape, to_images, uniform
from mixer_jax.data.images.canvas import cut


def flip(features: Features, *, probability: float = 0.5) -> Augment:
  """Mirrors an image left to right with a probability."""
  image_shape('flip', features)
  check('flip.probability', probability, 0, 1)

  def apply(image, key):
    mirrored = chance(key, probability, (len(image),))
    return jnp.where(rearrange(mirrored, 'b -> b 1 1 1'), image[:, :, ::-1], image)

  return to_images(apply)


def resized_crop(features: Features, *, min_area: float = 0.08, max_aspect: float = 4 / 3) -> Augment:
  """A random part of an image, enlarged to the size of the whole: the Inception crop.

  The crop has an area uniform in [min_area, 1] of the image's, and sides stretched against the image's by an aspect
  that is log-uniform in [1 / max_aspect, max_aspect].

  Szegedy et al. 2015, "Going deeper with convolutions". Deviations: a side longer than the image's is cut to it, where
  other code draws again; the crop's corners are not rounded to pixels; aspect is relative to that of the image;
  interpolation also uses pixels just outside the crop, where they exist.
  """
  height, width, _ = image_shape('resized_crop', features)
  check('resized_crop.min_area', min_area, 0, 1, above=True)
  check('resized_crop.max_aspect', max_aspect, 1)

  def apply(image, key):
    area_key, aspect_key, row_key, column_key = jax.random.split(key, 4)
    area = uniform(area_key, image, min_area, 1)
    stretch = pieces.random_stretch(aspect_key, image, max_aspect)
    rows = jnp.minimum(jnp.sqrt(area) / stretch, 1) * height
    columns = jnp.minimum(jnp.sqrt(area) * stretch, 1) * width
    top = uniform(row_key, image, 0, 1) * (height - rows)
    left = uniform(column_key, image, 0, 1) * (width - columns)
    return _enlarge(image, top, left, rows, columns)

  return to_images(apply)


def crop(features: Features, *, padding: int) -> Augment:
  """Moves an image by up to `padding` pixels along each side, zero outside (He et al. 2016, arXiv 1512.03385)."""
  height, width, _ = image_shape('crop', features)
  check('crop.padding', padding, 0, min(height, width) - 1, note=f'; the images are {height} x {width}')

  def apply(image, key):
    start = jax.random.randint(key, (len(image), 2), 0, 2 * padding + 1)
    padded = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return cut(padded, start, (height, width))

  return to_images(apply)


def rotation(features: Features, *, degrees: float) -> Augment:
  """Turns an image about its centre by an angle uniform in +-degrees: `affine` with nothing else."""
  image_shape('rotation', features)
  check('rotation.degrees', degrees, 0, 180)
  return affine(features, degrees=degrees)


def affine(
  features: Features, *, degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0, shear: float = 0.0
) -> Augment:
  """Shears, scales, turns and moves an image in one bilinear warp, zero outside.

  Args:
    degrees: the angle is uniform in +-degrees.
    translate: the shift is uniform in +-translate of the height, and of the width.
    scale: the size is log-uniform in [1 / (1 + scale), 1 + scale]: growing is as likely as shrinking.
    shear: the angle of a horizontal shear is uniform in +-shear degrees.
  """
  height, width, _ = image_shape('affine', features)
  check('affine.degrees', degrees, 0, 180)
  check('affine.translate', translate, 0, 1)
  check('affine.scale', scale, 0)
  check('affine.shear', shear, 0, 80)

  def apply(image, key):
    degrees_key, row_key, column_key, scale_key, shear_key = jax.random.split(key, 5)
    return _affine_warp(
      image,
      degrees=uniform(degrees_key, image, -degrees, degrees),
      down=uniform(row_key, image, -translate, translate) * height,
      right=uniform(column_key, image, -translate, translate) * width,
      scale=jnp.exp(uniform(scale_key, image, -math.log1p(scale), math.log1p(scale))),
      shear=uniform(shear_key, image, -shear, shear),
    )

  return to_images(apply)


def elastic(features: Features, *, alpha: float, sigma: float) -> Augment:
  """Moves every pixel by a smooth random field, bilinearly, zero outside.

  Each component of the field is uniform noise in [-1, 1], blurred by a Gaussian of `sigma` pixels (noise is zero
  outside the image) and multiplied by `alpha` pixels. Far from the border its standard deviation is
  alpha / (sigma * sqrt(12 * pi)): 1.4 pixels for the paper's alpha = 34 and sigma = 4 on 29 x 29 MNIST digits.

  Simard et al. 2003, "Best practices for convolutional neural networks applied to visual document analysis".
  """
  height, width, _ = image_shape('elastic', features)
  check('elastic.alpha', alpha, 0)
  check('elastic.sigma', sigma, 0, above=True)
  row_blur, column_blur = _gaussian(height, sigma), _gaussian(width, sigma)

  def apply(image, key):
    # Both components from the halves of one draw: threefry is most of what this costs on a CPU.
    bits = jax.random.bits(key, (len(image), height, width), jnp.uint32)
    noise = jnp.stack([bits >> 16, bits & 0xFFFF], axis=1).astype(jnp.float32) / 2**15 - 1
    field = alpha * jnp.einsum('ip,bcpq,qj->bcij', row_blur, noise, column_blur)
    return _warp(image, jnp.arange(height)[:, None] + field[:, 0], jnp.arange(width) + field[:, 1])

  return to_images(apply)


def _warp(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """image [b, h, w, c] read bilinearly at rows and columns [b, h, w], zero outside."""
  one_channel = lambda plane, at: map_coordinates(plane, at, order=1, mode='constant')
  one_image = jax.vmap(one_channel, in_axes=(-1, None), out_axes=-1)
  return jax.vmap(one_image)(image, [rows, columns])


def _affine_warp(image, *, degrees, down, right, scale, shear):
  """Shear, scale, turn counter-clockwise about the centre, shift in pixels; one number [b] an image."""
  height, width = image.shape[1:3]
  column = lambda value: rearrange(value, 'b -> b 1 1')
  # From each output pixel back to its source: the steps undone, the last one first.
  y = jnp.arange(height)[:, None] - (height - 1) / 2 - column(down)
  x = jnp.arange(width) - (width - 1) / 2 - column(right)
  cos, sin = jnp.cos(jnp.radians(column(degrees))), jnp.sin(jnp.radians(column(degrees)))
  x, y = (cos * x - sin * y) / column(scale), (sin * x + cos * y) / column(scale)
  x = x - jnp.tan(jnp.radians(column(shear))) * y
  return _warp(image, y + (height - 1) / 2, x + (width - 1) / 2)


def _enlarge(image, top, left, rows, columns):
  """The box of rows x columns at (top, left), in pixels, [b], enlarged bilinearly to the image's size."""
  height, width = image.shape[1:3]

  def weights(start, length, size):
    at = jnp.clip(start[:, None] + (jnp.arange(size) + 0.5) * length[:, None] / size - 0.5, 0, size - 1)
    return jnp.maximum(0, 1 - jnp.abs(at[..., None] - jnp.arange(size))).astype(image.dtype)

  # Products with matrices are faster than gathers; in full precision, for an accelerator's default rounds the pixels.
  row_weights, column_weights = weights(top, rows, height), weights(left, columns, width)
  return jnp.einsum('bip,bjq,bpqc->bijc', row_weights, column_weights, image, precision='highest')


def _gaussian(size: int, sigma: float) -> np.ndarray:
  """[size, size]: the blur of a line whose neighbourhood is zero, as a matrix."""
  density = lambda distance: np.exp(-0.5 * (distance / sigma) ** 2)
  reach = math.ceil(10 * sigma)
  distances = np.arange(size)[:, None] - np.arange(size)
  return np.float32(density(distances) / density(np.arange(-reach, reach + 1)).sum())
