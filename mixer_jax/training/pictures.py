"""Pictures of an auto-encoder's run: reconstructions at every evaluation, and in the end what its codes are like."""

import contextlib
from pathlib import Path

import numpy as np

from mixer_jax.analysis import reconstructions
from mixer_jax.data.sources import Source
from mixer_jax.training.autoencoding import apply
from mixer_jax.training.logging import cannot_write

SHOWN, MAPPED, STEPS = 10, 1000, 8  # images in a row, codes in the map, steps from one code to another


def draw_reconstructions(experiment, params, source: Source, folder: Path, step: int) -> None:
  """The first images of a split, what became of them, and the differences, as reconstructions/STEP.png."""
  image = _images(experiment, source, SHOWN)
  output = apply(experiment, params, '__call__', image)
  with _written(folder):
    (folder / 'reconstructions').mkdir(exist_ok=True)
    reconstructions.draw_pairs(image, output, folder / 'reconstructions' / f'{step:08d}.png')


def draw_codes(experiment, params, source: Source, folder: Path) -> None:
  """codes.png: a map of them; interpolations.png: what lies between two; dimension.png: along one number of the code.

  That is the number with the largest variance, from its lowest to its highest value. Of a single image there is nothing
  to lie between.
  """
  image = _images(experiment, source, MAPPED)
  label = np.array([source[i]['label'] for i in range(len(image))])
  code = apply(experiment, params, 'encode', image)
  decode = lambda codes: apply(experiment, params, 'decode', codes.reshape(-1, codes.shape[-1])).reshape(
    *codes.shape[:-1], *image.shape[1:]
  )
  number = int(code.var(axis=0).argmax())
  values = np.linspace(code[:, number].min(), code[:, number].max(), STEPS)
  along = np.repeat(code[:5, None], STEPS, axis=1)
  along[..., number] = values
  with _written(folder):
    reconstructions.draw_codes(code, label, source.classes, folder / 'codes.png')
    names, titles = [f'image {i}' for i in range(len(along))], [f'{value:.2g}' for value in values]
    path = folder / 'dimension.png'
    reconstructions.draw_rows(decode(along), names, titles, path, corner=f'number {number}')
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
  batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
  return np.asarray(experiment.prepare(batch)['image'])
