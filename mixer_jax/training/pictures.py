"""Pictures of an auto-encoder's run: reconstructions at every evaluation, and in the end what its codes are like."""

import contextlib
from pathlib import Path

import numpy as np

from mixer_jax.analysis import reconstructions
from mixer_jax.data.sources import Source
from mixer_jax.training.autoencoding import apply
from mixer_jax.training.logging import cannot_write

SHOWN, MAPPED, BETWEEN = 10, 1000, 8  # images in a row, codes in the map, steps from one code to another


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
  count = min(MAPPED, len(source))
  image = _images(experiment, source, count)
  label = np.array([source[i]['label'] for i in range(count)])
  code = apply(experiment, params, 'encode', image)
  widest = int(code.var(axis=0).argmax())
  values = np.linspace(code[:, widest].min(), code[:, widest].max(), BETWEEN)
  around = np.repeat(code[: min(5, count)], BETWEEN, axis=0)
  around[:, widest] = np.tile(values, len(around) // BETWEEN)
  moved = apply(experiment, params, 'decode', around).reshape(-1, BETWEEN, *image.shape[1:])
  with _written(folder):
    reconstructions.draw_codes(code, label, source.classes, folder / 'codes.png')
    if len(image) > 1:
      reconstructions.draw_rows(*_between(experiment, params, image, code), folder / 'interpolations.png')
    names = [f'image {i}' for i in range(len(moved))]
    reconstructions.draw_rows(moved, names, folder / 'dimension.png')


def _between(experiment, params, image: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, list[str]]:
  """Rows of an image, what codes on the way from its own to another's become, and that image; what they are called."""
  pairs = min(SHOWN, len(image) // 2)
  share = np.linspace(0, 1, BETWEEN)[:, None]
  codes = np.concatenate([code[2 * i] * (1 - share) + code[2 * i + 1] * share for i in range(pairs)])
  lines = apply(experiment, params, 'decode', codes).reshape(pairs, BETWEEN, *image.shape[1:])
  first, second = image[: 2 * pairs : 2, None], image[1 : 2 * pairs : 2, None]
  return np.concatenate([first, lines, second], axis=1), [f'{2 * i} to {2 * i + 1}' for i in range(pairs)]


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
