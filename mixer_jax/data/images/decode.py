"""Image files and arrays -> uint8 pixels of the wanted shape. Pillow decodes and resizes."""

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from mixer_jax.data.images import canvas
from mixer_jax.errors import MixerError
from mixer_jax.files import check_start

MODES = {1: 'L', 3: 'RGB'}
# What files of images are called, and their format in Pillow. Only these formats are opened, whatever a file is called:
# for PostScript, Pillow would start Ghostscript.
SUFFIXES = {
  '.jpg': 'JPEG', '.jpeg': 'JPEG', '.jpe': 'JPEG', '.jfif': 'JPEG', '.png': 'PNG', '.bmp': 'BMP', '.webp': 'WEBP',
  '.gif': 'GIF', '.tif': 'TIFF', '.tiff': 'TIFF', '.ppm': 'PPM', '.pgm': 'PPM', '.pbm': 'PPM', '.pnm': 'PPM',
  '.avif': 'AVIF', '.heic': 'HEIF', '.heif': 'HEIF',
}  # fmt: skip
LIBRARIES = {'JPEG': 'jpg', 'PNG': 'zlib', 'WEBP': 'webp', 'AVIF': 'avif'}  # that Pillow may have been built without
# A value of fewer than 8 bits is scaled when it is read; the transparent one of a PNG is not, nor are its 16 bits cut.
TRANSPARENT = {
  'L;2': lambda grey: grey * 85, 'L;4': lambda grey: grey * 17, 'RGB;16B': lambda rgb: tuple(v >> 8 for v in rgb),
}  # fmt: skip


def formats() -> tuple[str, ...]:
  """The formats of SUFFIXES that Pillow can read here."""
  Image.init()
  known = dict.fromkeys(SUFFIXES.values())
  return tuple(f for f in known if f in Image.OPEN and (f not in LIBRARIES or features.check(LIBRARIES[f])))


def read_file(
  path: str | os.PathLike, shape: tuple[int, int, int], crop_from: int, bits: int = 16
) -> dict[str, np.ndarray]:
  """The image file at `path` as it stands in a raw batch: 'image' of `shape`, or on a canvas with its 'size'."""
  if not crop_from:
    return {'image': read_image(path, shape, bits)}
  image, size = canvas.fit_canvas(read_pixels(path, shape[2], bits), shape[:2], crop_from)
  return {'image': image, 'size': size}


def read_image(path: str | os.PathLike, shape: tuple[int, int, int], bits: int = 16) -> np.ndarray:
  """The image file at `path`, uint8, of `shape` = (height, width, channels); see read_pixels and fit_image."""
  return fit_image(read_pixels(path, shape[2], bits), shape)


def read_pixels(path: str | os.PathLike, channels: int, bits: int = 16) -> np.ndarray:
  """The image file at `path` in its own size, uint8 [height, width, channels].

  The EXIF orientation is applied, 16-bit grey is scaled to 8 bits (255 v / (2^bits - 1), rounded; larger values are
  refused), of 16-bit colour the upper 8 are kept, transparency is laid on white. Of an animation it is the first frame.
  1 channel becomes 3 by repetition, 3 become 1 by the luma of ITU-R 601.

  Raises MixerError naming `path` for a file that is missing, damaged, not an image or over Pillow's pixel limit.
  """
  if channels not in MODES:
    raise MixerError(f'{path}: an image file has 1 or 3 channels, the config wants {channels}; set it to 1 or 3.')
  with named(path), Image.open(path, formats=formats()) as picture:
    return _pixels(picture, MODES[channels], bits)


class Header(NamedTuple):
  """What an image file holds, as it will be read."""

  size: tuple[int, int]  # (height, width)
  channels: int  # 1 or 3
  transparent: bool  # whether any pixel may be
  deep: bool  # whether it has 16 bits a channel


def read_header(path: str | os.PathLike) -> Header:
  """The header of the image file at `path`, without its pixels; raises as read_pixels."""
  with named(path), Image.open(path, formats=formats()) as picture:
    # For EXIF at the end of a PNG, Pillow would read all of it.
    exif = picture.getexif() if picture.format != 'PNG' or 'exif' in picture.info else {}
    turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    is_grey = picture.mode in ('1', 'L', 'LA', 'F') or picture.mode.startswith('I')
    grey = is_grey or _raw_mode(picture).startswith('L')
    size = picture.size if turned else picture.size[::-1]
    return Header(size, 1 if grey else 3, picture.has_transparency_data, _is_deep(picture))


def bits_used(path: str | os.PathLike) -> int:
  """How many of its 16 bits the largest value of a deep image needs."""
  with named(path), Image.open(path, formats=formats()) as picture:
    if picture.mode.startswith('I'):
      return int(np.asarray(picture).max()).bit_length()
    return 8 + int(np.asarray(picture.convert('RGB')).max()).bit_length()  # Pillow keeps the upper 8


@contextlib.contextmanager
def named(path: str | os.PathLike) -> Iterator[None]:
  """What Pillow raises, as an error that names the file."""
  try:
    yield
  except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
    raise MixerError(f'{path}: {error} Make the image smaller.') from error
  except UnidentifiedImageError as error:
    check_start(path)
    raise MixerError(
      f'{path}: cannot be read as an image (it is none of {", ".join(formats())}); convert, fix or remove it.'
    ) from error
  # What Pillow's decoders raise for damaged files.
  except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error) as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise MixerError(f'{path}: cannot be read as an image ({reason}); fix or remove it.') from error


def _raw_mode(picture: Image.Image) -> str:
  """How a file that has been opened, but not yet read, stores its pixels, such as RGB;16B; '' where Pillow hides it."""
  arguments = picture.tile[0].args if picture.tile else ''
  raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
  return raw if isinstance(raw, str) else ''


def _is_deep(picture: Image.Image) -> bool:
  return picture.mode.startswith('I') or ';16' in _raw_mode(picture)


def _pixels(picture: Image.Image, mode: str, bits: int) -> np.ndarray:
  raw, deep, transparent = _raw_mode(picture), _is_deep(picture), picture.info.get('transparency')
  picture = ImageOps.exif_transpose(picture)
  if picture.mode == 'F' or picture.mode.startswith('I'):
    values = np.asarray(picture)
    if values.dtype.kind == 'f' or values.min() < 0 or values.max() > 65535:
      raise ValueError(f'expected 8 or 16 bits per channel, found {values.dtype} up to {values.max()}')
    if values.max() >= 2**bits:
      raise ValueError(f'its values go up to {values.max():,}, beyond the {bits} bits of data.bits')
    picture = Image.fromarray(np.round(values / ((2**bits - 1) / 255)).astype(np.uint8))
    if isinstance(transparent, int):
      picture.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
  elif deep and bits < 16:
    raise ValueError(f'it has 16 bits a colour channel, of which the upper 8 are kept, but data.bits is {bits}')
  elif transparent is not None and raw in TRANSPARENT:
    picture.info['transparency'] = TRANSPARENT[raw](transparent)
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
