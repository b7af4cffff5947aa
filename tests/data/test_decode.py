"""Image files and arrays: what they hold, and one clear error for each way of damaging them."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from refusals import refuses

from mixer_jax.data.images import decode

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 20, 3), np.uint8)


# fit_image


def test_native_shape_is_untouched():
  assert decode.fit_image(PIXELS, (12, 20, 3)) is PIXELS


@pytest.mark.parametrize('h, w', [(7, 5), (5, 7), (40, 40), (12, 60), (1, 1), (300, 2)])
@pytest.mark.parametrize('c, channels', [(1, 1), (1, 3), (3, 1), (3, 3), (4, 4)])
def test_fit_gives_the_shape(h, w, c, channels):
  image = RNG.integers(0, 256, (12, 20, c), np.uint8)
  fitted = decode.fit_image(image, (h, w, channels))
  assert fitted.shape == (h, w, channels)
  assert fitted.dtype == np.uint8


def test_a_constant_image_stays_constant():
  assert (decode.fit_image(np.full((9, 31, 3), 77, np.uint8), (16, 16, 3)) == 77).all()


def test_crop_without_scaling_takes_the_centre_exactly():
  np.testing.assert_array_equal(decode.fit_image(PIXELS, (12, 13, 3)), PIXELS[:, 3:16])


def test_crop_is_centred_and_covers():
  # Thirds of black, white, black; only the middle third covers the square.
  image = np.zeros((10, 30, 1), np.uint8)
  image[:, 10:20] = 255
  fitted = decode.fit_image(image, (20, 20, 1))
  assert (fitted[:, 1:-1] == 255).all()


def test_halving_averages():
  # Antialiased bilinear at scale 2 has the weights 1 3 3 1, so far from edges a ramp keeps its slope.
  ramp = np.tile(np.arange(0, 160, 4, dtype=np.uint8), (40, 1))[..., None]
  fitted = decode.fit_image(ramp, (20, 20, 1))
  np.testing.assert_array_equal(fitted[0, 1:-1, 0], np.arange(2, 160, 8)[1:-1])


def test_channels_by_repetition_and_luma():
  grey = PIXELS[:, :, :1]
  np.testing.assert_array_equal(decode.fit_image(grey, (12, 20, 3)), np.repeat(grey, 3, axis=-1))
  luma = PIXELS @ np.array([0.299, 0.587, 0.114])
  np.testing.assert_allclose(decode.fit_image(PIXELS, (12, 20, 1))[..., 0], luma, atol=0.51)


@pytest.mark.parametrize('c, channels', [(4, 3), (3, 4), (2, 1), (1, 2)])
def test_other_channels_are_refused(c, channels):
  with refuses(f'{c} channels', f'into one of {channels}'):
    decode.fit_image(np.zeros((4, 4, c), np.uint8), (4, 4, channels))


@pytest.mark.parametrize('image', [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8)])
def test_other_arrays_are_refused(image):
  with refuses(str(image.dtype), str(list(image.shape))):
    decode.fit_image(image, (4, 4, 3))


def test_an_image_without_pixels_is_refused():
  with refuses('(0, 4, 3)'):
    decode.fit_image(np.zeros((0, 4, 3), np.uint8), (4, 4, 3))


# read_image


def save(path, image, **options):
  (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
  return path


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'tif'])
def test_lossless_files_come_back_bit_for_bit(tmp_path, suffix):
  path = save(tmp_path / f'a.{suffix}', PIXELS)
  np.testing.assert_array_equal(decode.read_image(path, PIXELS.shape), PIXELS)


def test_exif_orientation_is_applied(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned a quarter clockwise
  path = save(tmp_path / 'a.png', PIXELS, exif=exif)
  np.testing.assert_array_equal(decode.read_image(path, (20, 12, 3)), np.rot90(PIXELS, -1))


def test_palette_is_looked_up(tmp_path):
  image = Image.fromarray(PIXELS).quantize(16)
  path = save(tmp_path / 'a.png', image)
  np.testing.assert_array_equal(decode.read_image(path, PIXELS.shape), np.asarray(image.convert('RGB')))


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_transparency_is_laid_on_white(tmp_path, mode):
  image = Image.new(mode, (4, 4), (0,) * len(mode))
  assert (decode.read_image(save(tmp_path / 'a.png', image), (4, 4, 3)) == 255).all()


def test_transparent_palette_entry_is_laid_on_white(tmp_path):
  image = Image.new('P', (4, 4), 0)
  image.putpalette([10, 20, 30, 40, 50, 60])
  path = save(tmp_path / 'a.gif', image, transparency=0)
  assert (decode.read_image(path, (4, 4, 1)) == 255).all()


def test_sixteen_bits_are_scaled(tmp_path):
  path = save(tmp_path / 'a.png', np.array([[0, 257, 65535, 128 * 257 + 100]], np.uint16))
  np.testing.assert_array_equal(decode.read_image(path, (1, 4, 1))[0, :, 0], [0, 1, 255, 128])


def test_fewer_than_sixteen_bits_are_scaled_by_their_own_range(tmp_path):
  values = np.array([[0, 100, 4095]], np.uint16)
  path = save(tmp_path / 'a.png', values)
  np.testing.assert_array_equal(decode.read_image(path, (1, 3, 1), 12)[0, :, 0], np.round(values[0] / 4095 * 255))
  assert decode.read_header(path).deep and decode.bits_used(path) == 12
  assert not decode.read_header(save(tmp_path / 'b.png', PIXELS)).deep
  with refuses(path, '4,095', '11 bits'):
    decode.read_image(path, (1, 3, 1), 11)


def png(path, depth, colour, row, transparent=None, width=2):
  """A PNG of one row, which Pillow cannot write: of fewer than 8 bits, or 16 bits in colour."""
  chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
  header = struct.pack('>IIBBBBB', width, 1, depth, colour, 0, 0, 0)
  between = b'' if transparent is None else chunk(b'tRNS', struct.pack(f'>{len(transparent)}H', *transparent))
  rows = chunk(b'IDAT', zlib.compress(b'\0' + row))
  path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + between + rows + chunk(b'IEND', b''))
  return path


@pytest.mark.parametrize('depth, colour, row, transparent, other', [
  (1, 0, b'\x80', (1,), 0), (1, 0, b'\x40', (0,), 255), (2, 0, b'\x60', (1,), 170), (4, 0, b'\x5a', (5,), 170),
  (8, 0, b'\x00\x50', (0,), 80), (16, 0, b'\x00\x07\x50\x50', (7,), 80),
  (8, 2, b'\1\2\3\x50\x50\x50', (1, 2, 3), 80),
  (16, 2, struct.pack('>6H', 1281, 1536, 1792, *[80 * 257] * 3), (1281, 1536, 1792), 80),
])  # fmt: skip
def test_a_transparent_value_is_laid_on_white(depth, colour, row, transparent, other, tmp_path):
  path = png(tmp_path / 'a.png', depth, colour, row, transparent)
  assert decode.read_header(path).transparent
  assert decode.read_image(path, (1, 2, 1))[0, :, 0].tolist() == [255, other]


def test_sixteen_bits_of_colour(tmp_path):
  path = png(tmp_path / 'a.png', 16, 2, struct.pack('>6H', *[4095, 80, 0] * 2))
  assert decode.read_header(path) == ((1, 2), 3, False, True)
  assert decode.bits_used(path) == 12
  np.testing.assert_array_equal(decode.read_image(path, (1, 2, 3))[0, 0], [15, 0, 0])  # the upper 8 bits
  with refuses(path, '16 bits a colour channel', 'data.bits is 12'):
    decode.read_image(path, (1, 2, 3), 12)
  grey = png(tmp_path / 'b.png', 16, 4, struct.pack('>4H', 80 * 257, 65535, 0, 0))
  assert decode.read_header(grey) == ((1, 2), 1, True, True)
  assert decode.read_image(grey, (1, 2, 1))[0, :, 0].tolist() == [80, 255]


def test_one_bit_and_cmyk(tmp_path):
  path = save(tmp_path / 'a.png', Image.new('1', (4, 4), 1))
  assert (decode.read_image(path, (4, 4, 1)) == 255).all()
  path = save(tmp_path / 'a.tif', Image.new('CMYK', (4, 4), (0, 255, 255, 0)))
  assert (decode.read_image(path, (4, 4, 3)) == [255, 0, 0]).all()


def test_floating_point_is_refused(tmp_path):
  path = save(tmp_path / 'a.tif', np.full((4, 4), 0.5, np.float32))
  with refuses(path, 'float32'):
    decode.read_image(path, (4, 4, 1))


@pytest.mark.parametrize('content', [b'', b'hello, this is no image', b'\x89PNG\r\n\x1a\n'])
def test_what_is_no_image_is_refused(tmp_path, content):
  path = tmp_path / 'a.jpg'
  path.write_bytes(content)
  with refuses(path, 'cannot be read as an image'):
    decode.read_image(path, (4, 4, 3))


POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n'
ICON = b'\0\0\1\0\1\0'


@pytest.mark.parametrize('content', [POSTSCRIPT, ICON + bytes(60), b'%PDF-1.4\n'])
def test_other_formats_than_the_named_ones_are_not_opened(content, tmp_path, monkeypatch):
  monkeypatch.setattr('subprocess.check_call', None)  # what would start Ghostscript
  path = tmp_path / 'a.jpg'
  path.write_bytes(content)
  for read in (decode.read_header, lambda path: decode.read_image(path, (4, 4, 3))):
    with refuses(path, 'none of JPEG, PNG, BMP'):
      read(path)


def test_photographs_of_several_frames_are_opened_as_jpeg(tmp_path):
  image = Image.fromarray(np.full((8, 8, 3), 70, np.uint8))
  path = tmp_path / 'a.jpg'
  image.save(path, 'MPO', save_all=True, append_images=[image])
  assert abs(int(decode.read_image(path, (8, 8, 3)).mean()) - 70) <= 1


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'gif', 'bmp', 'tif', 'webp'])
def test_a_truncated_image_is_refused(tmp_path, suffix):
  path = save(tmp_path / f'a.{suffix}', PIXELS)
  path.write_bytes(path.read_bytes()[:-80])
  with refuses(path):
    decode.read_image(path, PIXELS.shape)


def test_a_missing_image_or_a_folder_is_refused(tmp_path):
  for path in (tmp_path / 'none.png', tmp_path):
    with refuses(path):
      decode.read_image(path, (4, 4, 3))


@pytest.mark.parametrize('limit', [30, 150])  # 240 pixels: an error above twice the limit, a warning above it
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
  path = save(tmp_path / 'a.png', PIXELS)
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
  with refuses(path, '240 pixels', 'smaller'):
    decode.read_image(path, PIXELS.shape)


def test_a_file_has_one_or_three_channels(tmp_path):
  with refuses('1 or 3 channels', '4'):
    decode.read_image(tmp_path / 'a.png', (4, 4, 4))


@pytest.mark.parametrize('read', [lambda path: decode.read_pixels(path, 3), decode.read_header])
def test_what_stands_in_the_place_of_an_image(tmp_path, read):
  path = tmp_path / 'a.jpg'
  path.write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n')
  with refuses(path, 'Git LFS pointer', 'git lfs pull'):
    read(path)
  path.write_bytes(b'<!doctype html><html>not found</html>')
  with refuses(str(path), 'a web page'):
    read(str(path))
