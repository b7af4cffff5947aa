"""Image files and arrays -> uint8 pixels of the wanted shape. Pillow decodes and resizes."""

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mixer_jax.data.images import canvas
from mixer_jax.errors import MixerError
from mixer_jax.files import check_start

MODES = {1: 'L', 3: 'RGB'}


def read_file(path: str | os.PathLike, shape: tuple[int, int, int], crop_from: int) -> dict[str, np.ndarray]:
  """The image file at `path` as it stands in a raw batch: 'image' of `shape`, or on a canvas with its 'size'."""
  if not crop_from:
    return {'image': read_image(path, shape)}
  image, size = canvas.fit_canvas(read_pixels(path, shape[2]), shape[:2], crop_from)
  return {'image': image, 'size': size}


def read_image(path: str | os.PathLike, shape: tuple[int, int, int]) -> np.ndarray:
  """The image file at `path`, uint8, of `shape` = (height, width, channels); see read_pixels and fit_image."""
  return fit_image(read_pixels(path, shape[2]), shape)


def read_pixels(path: str | os.PathLike, channels: int) -> np.ndarray:
  """The image file at `path` in its own size, uint8 [height, width, channels].

  The EXIF orientation is applied, 16-bit grey is scaled to 8 bits (v / 257, rounded), transparency is laid on white. Of
  an animation it is the first frame. 1 channel becomes 3 by repetition, 3 become 1 by the luma of ITU-R 601.

  Raises MixerError naming `path` for a file that is missing, damaged, not an image or over Pillow's pixel limit.
  """
  if channels not in MODES:
    raise MixerError(f'{path}: an image file has 1 or 3 channels, the config wants {channels}; set it to 1 or 3.')
  with _named(path), Image.open(path) as picture:
    return _pixels(ImageOps.exif_transpose(picture), MODES[channels])


class Header(NamedTuple):
  """What an image file holds, as it will be read."""

  size: tuple[int, int]  # (height, width)
  channels: int  # 1 or 3
  transparent: bool  # whether any pixel may be


def read_header(path: str | os.PathLike) -> Header:
  """The header of the image file at `path`, without its pixels; raises as read_pixels."""
  with _named(path), Image.open(path) as picture:
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    grey = picture.mode in ('1', 'L', 'LA', 'F') or picture.mode.startswith('I')
    size = picture.size if turned else picture.size[::-1]
    return Header(size, 1 if grey else 3, picture.has_transparency_data)


@contextlib.contextmanager
def _named(path: str | os.PathLike) -> Iterator[None]:
  """What Pillow raises, as an error that names the file."""
  try:
    yield
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise MixerError(f'{path}: {error} Make the image smaller.') from error
  # What Pillow's decoders raise for damaged files.
  except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
    check_start(path)
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise MixerError(f'{path}: cannot be read as an image ({reason}); fix or remove it.') from error


def _pixels(picture: Image.Image, mode: str) -> np.ndarray:
  if picture.mode == 'F' or picture.mode.startswith('I'):
    values = np.asarray(picture)
    if values.dtype.kind == 'f' or values.min() < 0 or values.max() > 65535:
      raise ValueError(f'expected 8 or 16 bits per channel, found {values.dtype} up to {values.max()}')
    picture = Image.fromarray(np.round(values / 257).astype(np.uint8))
  if picture.has_transparency_data:
    picture = picture.convert('RGBA')
    picture = Image.alpha_composite(Image.new('RGBA', picture.size, 'white'), picture)
  pixels = np.asarray(picture.convert(mode))
  return pixels[:, :, None] if mode == 'L' else pixels


def fit_image(image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
  """`image`, uint8 [h, w, c], brought to `shape` = (height, width, channels), uint8.

  An image of that shape is returned as it is. Else the largest centred window of the target's aspect ratio is resized
  (bilinear, antialiased): what resizing the shorter side and cropping the centre gives, without building the uncropped
  image. 1 channel becomes 3 by repetition, 3 become 1 by the luma of ITU-R 601.

  Raises MixerError for any other change of channels.
  """
  height, width, channels = shape
  if image.dtype != np.uint8 or image.ndim != 3:
    raise MixerError(
      f'expected an image of uint8 [h, w, c], found {image.dtype} {list(image.shape)}; convert it first.'
    )
  h, w, c = image.shape
  if image.shape == tuple(shape):
    return image
  if c != channels and not {c, channels} <= set(MODES):
    raise MixerError(
      f'cannot turn an image of {c} channels into one of {channels}, only 1 into 3 and back; '
      f'set the config to {c} channels or convert the images.'
    )
  if not h or not w:
    raise MixerError(f'expected an image of at least one pixel, found the shape {image.shape}.')
  if c not in MODES:
    planes = [fit_image(image[:, :, k : k + 1], (height, width, 1)) for k in range(c)]
    return np.concatenate(planes, axis=-1)
  picture = Image.fromarray(image[:, :, 0] if c == 1 else image).convert(MODES[channels])
  scale = min(h / height, w / width)
  top, left = (h - scale * height) / 2, (w - scale * width) / 2
  if scale == 1:
    # A pure crop must not land between two pixels, where it would blur the image.
    picture = picture.crop((int(left), int(top), int(left) + width, int(top) + height))
  else:
    box = (left, top, min(left + scale * width, w), min(top + scale * height, h))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
  return np.array(picture).reshape(shape)
