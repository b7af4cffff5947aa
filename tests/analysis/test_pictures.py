"""Pictures of an auto-encoder whose code is known: the numbers that its decoder is asked for, and few images."""

import functools
from pathlib import Path

import numpy as np
import pytest

from mixer_jax.analysis import pictures, reconstructions
from mixer_jax.tasks.task import View


@pytest.fixture
def drawn(monkeypatch):
  """What is drawn, by file name."""

  def note(seen, *given, **more):
    path = next(part for part in given if isinstance(part, Path))
    seen[path.name] = [part for part in given if part is not path] + list(more.values())

  seen = {}
  for name in ('draw_pairs', 'draw_rows', 'draw_codes'):
    monkeypatch.setattr(reconstructions, name, functools.partial(note, seen))
  return seen


def apply(method, x):
  """The code of an image is its first row of pixels, and a code becomes rows of itself."""
  encode = lambda image: image[:, 0, :, 0]
  decode = lambda code: np.repeat(code[:, None, :, None], 4, axis=1)
  return {'encode': encode, 'decode': decode, '__call__': lambda image: decode(encode(image))}[method](x)


def make(count, folder, step=1):
  image = np.random.default_rng(0).uniform(size=(count, 4, 3, 1)).astype(np.float32)
  examples = lambda most: {'image': image[:most], 'label': np.arange(count)[:most] % 2}
  view = View(
    split='test', examples=examples, apply=apply, kept=None, classes=('even', 'odd'), folder=folder, step=step,
    last=True, first_split=True,
  )  # fmt: skip
  return view, image


def test_reconstructions_are_of_the_first_images(drawn, tmp_path):
  view, image = make(30, tmp_path, step=70)
  pictures.draw_reconstructions(view)
  shown, output = drawn['00000070.png']
  np.testing.assert_array_equal(shown, image[:10])
  np.testing.assert_array_equal(output, np.repeat(image[:10, :1], 4, axis=1))


def test_between_codes_and_along_one_number(drawn, tmp_path):
  view, image = make(30, tmp_path)
  pictures.draw_codes(view)
  code, label, names = drawn['codes.png']
  np.testing.assert_array_equal(code, image[:, 0, :, 0])
  assert list(label) == [0, 1] * 15 and names == ('even', 'odd')

  lines, labels, titles, corner = drawn['interpolations.png']
  assert titles[:3] == ['image', '0.00', '0.14'] and titles[-1] == 'image' and corner == 'share'
  assert lines.shape == (10, 10, 4, 3, 1) and labels[1] == '2 to 3'
  np.testing.assert_array_equal(lines[1, [0, -1]], image[2:4])
  np.testing.assert_allclose(lines[1, 1, 0, :, 0], code[2], rtol=1e-6)
  np.testing.assert_allclose(lines[1, 3, 0, :, 0], code[2] * 5 / 7 + code[3] * 2 / 7, rtol=1e-5)
  np.testing.assert_allclose(lines[1, 8, 0, :, 0], code[3], rtol=1e-6)

  moved, labels, titles, corner = drawn['dimensions.png']
  assert titles == ['lowest', *[''] * 6, 'highest'] and corner == 'image 0'
  assert moved.shape == (3, 8, 4, 3, 1) and labels == [f'number {i}' for i in range(3)]
  for i, row in enumerate(moved[:, :, 0, :, 0]):
    np.testing.assert_allclose(row[:, i], np.linspace(code[:, i].min(), code[:, i].max(), 8), rtol=1e-6)
    np.testing.assert_allclose(np.delete(row, i, axis=1), np.tile(np.delete(code[0], i), (8, 1)))


def test_of_long_codes_the_numbers_that_vary_most(drawn, tmp_path, monkeypatch):
  monkeypatch.setattr(pictures, 'NUMBERS', 2)
  view, image = make(30, tmp_path)
  image[:, 0, 1] /= 1000
  pictures.draw_codes(view)
  assert drawn['dimensions.png'][1] == ['number 0', 'number 2']


@pytest.mark.parametrize('count', [1, 2, 3])
def test_few_images(count, drawn, tmp_path):
  view, _ = make(count, tmp_path)
  pictures.draw_reconstructions(view)
  pictures.draw_codes(view)
  assert ('interpolations.png' in drawn) == (count > 1)
  assert len(drawn['dimensions.png'][0]) == 3
