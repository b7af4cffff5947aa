"""Augmentations that mix an image, and its label, with its neighbour in the batch."""

import jax
import jax.numpy as jnp

from mixer_jax.data.augment import pieces
from mixer_jax.data.augment.pieces import Augment, Features, chance, check


def cutmix(features: Features, classes: int, *, alpha: float = 1.0, probability: float = 1.0) -> Augment:
  """Puts a box of the image before it in the batch into every image, and mixes the labels by area.

  One box for the whole batch, with a probability: its area is 1 - lambda of the image's with lambda ~ Beta(alpha,
  alpha), its centre uniform; it is cut at the border, and the labels are weighed by the area that is left.

  Yun et al. 2019, "CutMix". Deviation: the partner is the neighbour in a shuffled batch, not a random one.
  """
  height, width, _ = pieces.image_shape('cutmix', features)
  pieces.check_labels('cutmix', features, classes)
  check('cutmix.alpha', alpha, 0, above=True)
  check('cutmix.probability', probability, 0, 1)

  def apply(batch, key):
    image, label = batch['image'], pieces.distribution(batch['label'], classes)
    chosen_key, share_key, row_key, column_key = jax.random.split(key, 4)
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
    side = jnp.where(chance(chosen_key, probability, ()), side, 0)
    rows, columns = jnp.floor(side * height), jnp.floor(side * width)
    top = jax.random.randint(row_key, (), 0, height) - rows // 2
    left = jax.random.randint(column_key, (), 0, width) - columns // 2
    box = pieces.box_mask(height, width, top, left, top + rows, left + columns)
    share = box.mean(dtype=jnp.float32)
    image = jnp.where(box[..., None], jnp.roll(image, 1, axis=0), image)
    return {**batch, 'image': image, 'label': _mix(label, 1 - share)}

  return apply


def mixup(features: Features, classes: int, *, alpha: float, probability: float = 1.0) -> Augment:
  """Blends every image, and its label, with the one before it in the batch.

  lambda * own + (1 - lambda) * neighbour, with one lambda ~ Beta(alpha, alpha) for the whole batch.

  Zhang et al. 2018, "mixup: Beyond empirical risk minimization". Deviations: the partner is the neighbour in a shuffled
  batch, not a random one; a batch is left alone with 1 - probability.
  """
  pieces.image_shape('mixup', features)
  pieces.check_labels('mixup', features, classes)
  check('mixup.alpha', alpha, 0, above=True)
  check('mixup.probability', probability, 0, 1)

  def apply(batch, key):
    chosen_key, share_key = jax.random.split(key)
    share = jax.random.beta(share_key, alpha, alpha)
    share = jnp.where(chance(chosen_key, probability, ()), share, 1)
    label = pieces.distribution(batch['label'], classes)
    return {**batch, 'image': _mix(batch['image'], share), 'label': _mix(label, share)}

  return apply


def _mix(values, share):
  """share of each example and 1 - share of the one before it in the batch."""
  return share * values + (1 - share) * jnp.roll(values, 1, axis=0)
