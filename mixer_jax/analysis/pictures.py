"""Figures of an auto-encoder run: reconstructions at every evaluation, codes at the end."""

import numpy as np

from mixer_jax.analysis import reconstructions

SHOWN, MAPPED, STEPS = 10, 1000, 8  # images in a row, codes in the map, interpolation steps
NUMBERS = 16  # dimensions of the code to traverse


def draw_reconstructions(view) -> None:
  """Draws the first images of a split, their reconstructions and the differences into reconstructions/STEP.png.

  Args:
    view: a tasks.task.View.
  """
  image = view.examples(SHOWN)['image']
  (view.folder / 'reconstructions').mkdir(exist_ok=True)
  path = view.folder / 'reconstructions' / f'{view.step:08d}.png'
  reconstructions.draw_pairs(image, view.apply('__call__', image), path)


def draw_codes(view) -> None:
  """Draws codes.png (PCA), interpolations.png (between pairs of images) and dimensions.png (along single dimensions).

  dimensions.png varies the first image's code along the NUMBERS dimensions of largest variance, each from its lowest to
  its highest value. Interpolations need at least two images.
  """
  batch = view.examples(MAPPED)
  image, label = batch['image'], batch['label']
  code = view.apply('encode', image)
  decode = lambda codes: view.apply('decode', codes.reshape(-1, codes.shape[-1])).reshape(
    *codes.shape[:-1], *image.shape[1:]
  )
  numbers = np.sort(np.argsort(-code.var(axis=0), kind='stable')[:NUMBERS])
  along = np.tile(code[0], (len(numbers), STEPS, 1))
  for row, number in zip(along, numbers, strict=True):
    row[:, number] = np.linspace(code[:, number].min(), code[:, number].max(), STEPS)
  reconstructions.draw_codes(code, label, view.classes, view.folder / 'codes.png')
  titles = ['lowest', *[''] * (STEPS - 2), 'highest']
  names = [f'number {number}' for number in numbers]
  reconstructions.draw_rows(decode(along), names, titles, view.folder / 'dimensions.png', corner='image 0')
  if len(image) > 1:
    first, second = image[:-1:2][:SHOWN], image[1::2][:SHOWN]
    share = np.linspace(0, 1, STEPS)[:, None]
    between = code[:-1:2][:SHOWN, None] * (1 - share) + code[1::2][:SHOWN, None] * share
    lines = np.concatenate([first[:, None], decode(between), second[:, None]], axis=1)
    names = [f'{2 * i} to {2 * i + 1}' for i in range(len(lines))]
    titles = ['image', *(f'{of:.2f}' for of in share[:, 0]), 'image']
    reconstructions.draw_rows(lines, names, titles, view.folder / 'interpolations.png', corner='share')
