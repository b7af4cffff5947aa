"""Figures of auto-encoders, looked at pixel by pixel: what stands where, and how dark."""

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from mixer_jax.analysis import reconstructions


def grey_levels(path):
  """The grey levels that fill many pixels of a picture, darkest first, but for the white around."""
  with Image.open(path) as picture:
    values, counts = np.unique(np.asarray(picture.convert('L')), return_counts=True)
  return [int(v) for v, n in zip(values, counts, strict=True) if n > 400 and v < 254]


def test_pairs_are_image_output_and_difference(tmp_path):
  image = np.full((3, 6, 5, 1), 0.2, np.float32)
  reconstructions.draw_pairs(image, image + 0.1, tmp_path / 'pairs.png')
  # 0.2, 0.3, and grey plus twice the difference: 0.7.
  assert grey_levels(tmp_path / 'pairs.png') == pytest.approx([51, 76, 178], abs=1)


def test_differences_of_colour_do_not_cancel(tmp_path):
  image = np.full((3, 6, 5, 3), 0.5, np.float32)
  output = image + np.array([0.1, 0.1, -0.2], np.float32)
  reconstructions.draw_pairs(image, output, tmp_path / 'pairs.png')
  with Image.open(tmp_path / 'pairs.png') as picture:
    pixels = np.asarray(picture.convert('RGB')).reshape(-1, 3)
  assert (abs(pixels.astype(int) - (178, 178, 26)) <= 1).all(axis=1).sum() > 1000


def test_no_difference_is_grey_and_values_beyond_are_clipped(tmp_path):
  image = np.stack([np.full((6, 5, 1), v, np.float32) for v in (0.0, 1.5)])
  reconstructions.draw_pairs(image, image, tmp_path / 'pairs.png')
  assert grey_levels(tmp_path / 'pairs.png') == pytest.approx([0, 127], abs=1)


@pytest.mark.parametrize('size', [(96, 96), (28, 28), (8, 5), (100, 130)])
def test_every_pixel_becomes_a_square_of_whole_pixels(size, tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (2, *size, 3)) / np.float32(255)
  reconstructions.draw_pairs(image, image, tmp_path / 'pairs.png')
  zoom = max(1, 84 // max(size))
  with Image.open(tmp_path / 'pairs.png') as picture:
    pixels = np.asarray(picture)
  wanted = np.round(255 * image[1]).astype(np.uint8).repeat(zoom, axis=0).repeat(zoom, axis=1)
  left = 80 + zoom * size[1] + 4
  np.testing.assert_array_equal(pixels[4 : 4 + zoom * size[0], left : left + zoom * size[1]], wanted)


def test_colours_stay_colours(tmp_path):
  image = np.zeros((2, 6, 5, 3), np.float32)
  image[..., 0] = 1
  reconstructions.draw_pairs(image, image, tmp_path / 'pairs.png')
  with Image.open(tmp_path / 'pairs.png') as picture:
    pixels = np.asarray(picture.convert('RGB')).reshape(-1, 3)
  assert (pixels == (255, 0, 0)).all(axis=1).sum() > 1000


def test_rows_have_a_label_each(tmp_path):
  rows = np.stack([np.full((4, 5, 5, 1), v, np.float32) for v in (0.2, 0.4)])
  reconstructions.draw_rows(rows, ['one', 'two'], list('abcd'), tmp_path / 'rows.png', corner='which')
  assert grey_levels(tmp_path / 'rows.png') == pytest.approx([51, 102], abs=1)
  with pytest.raises(ValueError, match='zip'):
    reconstructions.draw_rows(rows, ['one'], list('abcd'), tmp_path / 'rows.png')


@pytest.mark.parametrize('examples, size', [(40, 5), (40, 1), (2, 5), (1, 3)])
def test_codes_are_at_their_principal_components(examples, size, tmp_path, monkeypatch):
  drawn = []
  plot = reconstructions.Figure.subplots

  def subplots(figure, *arguments, **options):
    axes = plot(figure, *arguments, **options)
    drawn.append(axes)
    return axes

  monkeypatch.setattr(reconstructions.Figure, 'subplots', subplots)
  rng = np.random.default_rng(0)
  code = rng.normal(size=(examples, size)) * np.arange(1, size + 1)
  label = rng.integers(0, 3, examples)
  reconstructions.draw_codes(code, label, ['a', 'b', 'c'], tmp_path / 'codes.png')
  lines = drawn[0].get_lines()
  assert [line.get_label() for line in lines] == ['a', 'b', 'c']
  assert len({line.get_marker() for line in lines}) == 3
  wanted = np.zeros((examples, 2))
  if examples > 1:
    wanted[:, : min(2, size)] = PCA(min(2, size), random_state=0).fit_transform(code)
  for k, line in enumerate(lines):
    np.testing.assert_allclose(np.stack(line.get_data(), axis=1), wanted[label == k], atol=1e-9)


def test_equal_codes_have_no_components(tmp_path):
  reconstructions.draw_codes(np.ones((5, 3)), np.zeros(5, int), ['a'], tmp_path / 'codes.png')
  assert (tmp_path / 'codes.png').is_file()
