"""Random crops of images of any size, in two steps: a canvas that keeps more than the crop, and a window of it.

The canvas is made on the host, when a file is read; the window is cut on the device, inside the step.
"""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image


def fit_canvas(image: np.ndarray, crop: tuple[int, int], side: int) -> tuple[np.ndarray, np.ndarray]:
  """`image`, uint8 [h, w, c], in the corner of a square canvas, and the (height, width) that it takes of it, int32.

  It is shrunk until its longer side is `side`, but neither shrunk nor enlarged beyond what the later `crop`, (height,
  width), needs; what does not fit on the canvas is cut off on both sides alike.
  """
  channels = image.shape[2]
  scale, size = _scaled(image.shape[:2], crop, side)
  picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
  picture = picture if scale == 1 else picture.resize(size[::-1], Image.Resampling.BILINEAR)
  pixels = np.array(picture).reshape(*size, channels)
  top, left = (max(0, n - side) // 2 for n in size)
  pixels = pixels[top : top + side, left : left + side]
  canvas = np.zeros((side, side, channels), np.uint8)
  canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
  return canvas, np.array(pixels.shape[:2], np.int32)


def cut_off(size: tuple[int, int], crop: tuple[int, int], side: int) -> bool:
  """Whether fit_canvas cuts off something of an image of this (height, width)."""
  return max(_scaled(size, crop, side)[1]) > side


def _scaled(size: tuple[int, int], crop: tuple[int, int], side: int) -> tuple[float, tuple[int, int]]:
  height, width = size
  scale = max(min(1, side / max(height, width)), crop[0] / height, crop[1] / width)
  return scale, (max(crop[0], round(height * scale)), max(crop[1], round(width * scale)))


def crop(image: jax.Array, size: jax.Array, shape: tuple[int, int], key: jax.Array | None) -> jax.Array:
  """Windows of `shape` of canvases [batch, side, side, channels], at random, or with no key in the middle.

  `size` [batch, 2] is the filled (height, width) of each, from its first corner on.
  """
  room = size - jnp.array(shape)
  return cut(image, room // 2 if key is None else jax.random.randint(key, size.shape, 0, room + 1), shape)


def cut(image: jax.Array, start: jax.Array, shape: tuple[int, int]) -> jax.Array:
  """Windows of `shape` of images [batch, height, width, channels] from (row, column) = start [batch, 2] on."""
  one = lambda picture, at: jax.lax.dynamic_slice(picture, (*at, 0), (*shape, picture.shape[-1]))
  return jax.vmap(one)(image, start)
