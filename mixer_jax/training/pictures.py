"""Pictures of an auto-encoder's run: reconstructions at every evaluation, and in the end what its codes are like."""

import contextlib
from pathlib import Path

import numpy as np

from mixer_jax.analysis import reconstructions
from mixer_jax.data.examples import Source, stack
from mixer_jax.training.autoencoding import apply
from mixer_jax.training.logging import cannot_write

SHOWN, MAPPED, STEPS = 10, 1000, 8  # images in a row, codes in the map, steps from one code to another
NUMBERS = 16  # of a code, along which it is decoded


def draw_reconstructions(experiment, params, source: Source, folder: Path, step: int) -> None:
  """The first images of a split, what became of them, and the differences, as reconstructions/STEP.png."""
  image = _images(experiment, source, SHOWN)
  output = apply(experiment, params, '__call__', image)
  with _written(folder):
    (folder / 'reconstructions').mkdir(exist_ok=True)
    reconstructions.draw_pairs(image, output, folder / 'reconstructions' / f'{step:08d}.png')


def draw_codes(experiment, params, source: Source, folder: Path) -> None:
  """codes.png: a map of them; interpolations.png: what lies between two; dimensions.png: along single numbers.

  These are the NUMBERS with the largest variance, each from its lowest to its highest value in the code of the first
  image. Of a single image there is nothing to lie between.
  """
  image = _images(experiment, source, MAPPED)
  label = np.array([source[i]['label'] for i in range(len(image))])
  code = apply(experiment, params, 'encode', image)
  decode = lambda codes: apply(experiment, params, 'decode', codes.reshape(-1, codes.shape[-1])).reshape(
    *codes.shape[:-1], *image.shape[1:]
  )
  numbers = np.sort(np.argsort(-code.var(axis=0), kind='stable')[:NUMBERS])
  along = np.tile(code[0], (len(numbers), STEPS, 1))
  for row, number in zip(along, numbers, strict=True):
    row[:, number] = np.linspace(code[:, number].min(), code[:, number].max(), STEPS)
  with _written(folder):
    reconstructions.draw_codes(code, label, source.classes, folder / 'codes.png')
    titles = ['lowest', *[''] * (STEPS - 2), 'highest']
    names = [f'number {number}' for number in numbers]
    reconstructions.draw_rows(decode(along), names, titles, folder / 'dimensions.png', corner='image 0')
    if len(image) > 1:
      first, second = image[:-1:2][:SHOWN], image[1::2][:SHOWN]
      share = np.linspace(0, 1, STEPS)[:, None]
      between = code[:-1:2][:SHOWN, None] * (1 - share) + code[1::2][:SHOWN, None] * share
      lines = np.concatenate([first[:, None], decode(between), second[:, None]], axis=1)
      names = [f'{2 * i} to {2 * i + 1}' for i in range(len(lines))]
      titles = ['image', *(f'{of:.2f}' for of in share[:, 0]), 'image']
      reconstructions.draw_rows(lines, names, titles, folder / 'interpolations.png', corner='share')


@contextlib.contextmanager
def _written(folder: Path):
  try:
    yield
  except OSError as error:
    raise cannot_write(folder, error) from error


def _images(experiment, source: Source, count: int) -> np.ndarray:
  examples = [source[i] for i in range(min(count, len(source)))]
  return np.asarray(experiment.preprocess(stack(examples))['image'])
