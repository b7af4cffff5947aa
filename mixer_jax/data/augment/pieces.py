"""What augmentations are made of: their types, draws for each example, checks of their settings."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mixer_jax.errors import MixerError

Batch = dict[str, jax.Array]
Features = Mapping[str, jax.ShapeDtypeStruct]  # what a batch holds, the batch axis first
Augment = Callable[[Batch, jax.Array], Batch]


def uniform(key, image, low, high):
  """[b]: one number per example."""
  return jax.random.uniform(key, (len(image),), minval=low, maxval=high)


def random_stretch(key, image, max_aspect):
  """[b]: the square root of an aspect that is log-uniform in [1 / max_aspect, max_aspect]."""
  return jnp.exp(uniform(key, image, -math.log(max_aspect), math.log(max_aspect)) / 2)


def chance(key, probability, shape):
  """True with a probability; jax.random.bernoulli does not take the whole numbers 0 and 1."""
  return jax.random.uniform(key, shape) < probability


def to_images(apply: Callable[[jax.Array, jax.Array], jax.Array]) -> Augment:
  return lambda batch, key: {**batch, 'image': apply(batch['image'], key)}


def box_mask(height, width, top, left, bottom, right):
  """[..., h, w]: True from top to before bottom and from left to before right, each a scalar or [...]."""
  edge = lambda value: jnp.asarray(value)[..., None]
  row, column = jnp.arange(height), jnp.arange(width)
  rows = (row >= edge(top)) & (row < edge(bottom))
  columns = (column >= edge(left)) & (column < edge(right))
  return rows[..., :, None] & columns[..., None, :]


def distribution(label, classes):
  """Labels [b] as float32 [b, classes]; distributions stay what they are."""
  return label if label.ndim == 2 else jax.nn.one_hot(label, classes, dtype=jnp.float32)


def check(setting, value, low, high=math.inf, *, above=False, note=''):
  """Refuses a number outside [low, high], or that equals low where it must be above."""
  if math.isfinite(value) and (low < value if above else low <= value) and value <= high:
    return
  wanted = f'{"above" if above else "at least"} {low}' + (f' and at most {high}' if math.isfinite(high) else '')
  raise MixerError(f'augment.{setting} must be a number {wanted}{note}, got {value!r}')


def need(name: str, what: str, key: str, features: Features):
  if key not in features:
    raise MixerError(
      f'{name} needs {what}, but a batch of this data set holds {", ".join(sorted(features))};'
      f' leave {name!r} out of augment'
    )


def image_shape(name: str, features: Features) -> tuple[int, int, int]:
  need(name, 'images', 'image', features)
  shape = features['image'].shape
  if len(shape) != 4:
    raise MixerError(f'{name} needs images of shape [batch, height, width, channels], but these have {list(shape)}')
  return shape[1:]


def check_labels(name: str, features: Features, classes: int | None):
  need(name, 'labels', 'label', features)
  label = features['label']
  if not (jnp.issubdtype(label.dtype, jnp.integer) and len(label.shape) == 1):
    raise MixerError(
      f'{name} needs integer class labels, one per example, but labels are {label.dtype} {list(label.shape)}'
    )
  if classes is None or classes < 2:
    raise MixerError(f'{name} needs at least 2 classes, got {classes}; leave {name!r} out of augment')
