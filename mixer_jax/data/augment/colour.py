"""Augmentations of colour, random boxes and noise."""

import jax
import jax.numpy as jnp
from einops import rearrange

from mixer_jax.data.augment import pieces
from mixer_jax.data.augment.pieces import Augment, Features, box_mask, chance, check, image_shape, to_images, uniform
from mixer_jax.errors import MixerError


def color_jitter(
  features: Features, *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
) -> Augment:
  """Changes brightness, contrast, saturation and hue by random factors, clipped to [0, 1] after each.

  The factors are those of torchvision's ColorJitter: uniform in [max(0, 1 - setting), 1 + setting], the hue shifted by
  up to +-hue of the colour circle (at most 0.5). Deviation: always in this order, where torchvision shuffles it. Images
  with one channel have no saturation and no hue; both must then be 0.
  """
  channels = image_shape('color_jitter', features)[-1]
  for name, value in (('brightness', brightness), ('contrast', contrast), ('saturation', saturation)):
    check(f'color_jitter.{name}', value, 0)
  check('color_jitter.hue', hue, 0, 0.5)
  if channels not in (1, 3):
    raise MixerError(f'color_jitter needs images of 1 or 3 channels, but these have {channels}; leave it out')
  if channels != 3 and (saturation or hue):
    raise MixerError(
      f'color_jitter.saturation = {saturation} and hue = {hue} need images of 3 channels,'
      f' but these have {channels}; set both to 0'
    )

  def apply(image, key):
    keys = jax.random.split(key, 4)
    factor = lambda key, setting: rearrange(uniform(key, image, max(0, 1 - setting), 1 + setting), 'b -> b 1 1 1')
    if brightness:
      image = _blend(image, 0, factor(keys[0], brightness))
    if contrast:
      image = _blend(image, _grey(image.mean((1, 2), keepdims=True)), factor(keys[1], contrast))
    if saturation:
      image = _blend(image, _grey(image), factor(keys[2], saturation))
    if hue:
      image = _shift_hue(image, rearrange(uniform(keys[3], image, -hue, hue), 'b -> b 1 1'))
    return image

  return to_images(apply)


def erasing(
  features: Features, *, probability: float = 0.5, min_area: float = 0.02, max_area: float = 0.4,
  max_aspect: float = 1 / 0.3,
) -> Augment:  # fmt: skip
  """Fills a random box of an image with a random colour, with a probability.

  The box has an area uniform in [min_area, max_area] of the image's and an aspect log-uniform in
  [1 / max_aspect, max_aspect].

  Zhong et al. 2020, "Random erasing data augmentation". Deviations: one colour per box; the paper draws each pixel,
  which takes longer than a small network's step; the aspect is log-uniform, as in later code; a side longer than the
  image's is cut to it, where the paper draws again.
  """
  height, width, channels = image_shape('erasing', features)
  check('erasing.probability', probability, 0, 1)
  check('erasing.max_area', max_area, 0, 1)
  check('erasing.min_area', min_area, 0, max_area, note=' (max_area)')
  check('erasing.max_aspect', max_aspect, 1)

  def apply(image, key):
    chosen_key, area_key, aspect_key, row_key, column_key, colour_key = jax.random.split(key, 6)
    chosen = chance(chosen_key, probability, (len(image),))
    area = uniform(area_key, image, min_area, max_area) * height * width
    stretch = pieces.random_stretch(aspect_key, image, max_aspect)
    rows = jnp.clip(jnp.round(jnp.sqrt(area) / stretch), 0, height)
    columns = jnp.clip(jnp.round(jnp.sqrt(area) * stretch), 0, width)
    top = jnp.floor(uniform(row_key, image, 0, 1) * (height - rows + 1))
    left = jnp.floor(uniform(column_key, image, 0, 1) * (width - columns + 1))
    box = box_mask(height, width, top, left, top + rows, left + columns) & rearrange(chosen, 'b -> b 1 1')
    colour = jax.random.uniform(colour_key, (len(image), 1, 1, channels), image.dtype)
    return jnp.where(box[..., None], colour, image)

  return to_images(apply)


def noise(features: Features, *, deviation: float) -> Augment:
  """Adds normal noise to every pixel, without clipping, after all others.

  For a denoising auto-encoder set `noise` of its task instead, which keeps the target clean.
  """
  image_shape('noise', features)
  check('noise.deviation', deviation, 0)
  return to_images(lambda image, key: image + deviation * jax.random.normal(key, image.shape, image.dtype))


def _blend(image, other, share):
  """share * image + (1 - share) * other, clipped: a share above 1 moves away from the other."""
  return jnp.clip(share * image + (1 - share) * other, 0, 1)


def _grey(image):
  """[b, h, w, 1]: the brightness, weighed as by torchvision and Pillow (ITU-R 601)."""
  if image.shape[-1] == 1:
    return image
  red, green, blue = jnp.split(image, 3, axis=-1)
  return 0.2989 * red + 0.587 * green + 0.114 * blue


def _shift_hue(image, shift):
  """Turns the colour circle by a shift in [-1, 1] (1 is the whole circle), [b, 1, 1]; image [b, h, w, 3]."""
  red, green, blue = image[..., 0], image[..., 1], image[..., 2]
  value = image.max(-1)
  chroma = value - image.min(-1)
  divisor = jnp.where(chroma > 0, chroma, 1)
  # Comparisons, not `value == red`: where XLA computes a pixel twice the two can differ in the last bit, and
  # a hue that hangs on equality would be that of another colour. Where two channels tie, both cases agree.
  sextant = jnp.where(
    (red >= green) & (red >= blue),
    (green - blue) / divisor,
    jnp.where(green >= blue, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
  )
  sextant = sextant[..., None] + 6 * shift[..., None]
  # https://en.wikipedia.org/wiki/HSL_and_HSV, "HSV to RGB alternative": no branches.
  distance = jnp.array([5, 3, 1]) + sextant
  # The remainder by 6, several times faster on a CPU than `%`.
  distance = distance - 6 * jnp.floor(distance / 6)
  shade = jnp.clip(jnp.minimum(distance, 4 - distance), 0, 1)
  return jnp.clip(value[..., None] - chroma[..., None] * shade, 0, 1)
