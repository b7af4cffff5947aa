"""Pictures of an auto-encoder's run: reconstructions at every evaluation, and in the end what its codes are like."""

import numpy as np

from mixer_jax.analysis import reconstructions

SHOWN, MAPPED, STEPS = 10, 1000, 8  # images in a row, codes in the map, steps from one code to another
NUMBERS = 16  # of a code, along which it is decoded


def draw_reconstructions(view) -> None:
  """The first images of a split, what became of them, and the differences, as reconstructions/STEP.png.

  Args:
    view: tasks.task.View of a run.
  """
  image = view.examples(SHOWN)['image']
  (view.folder / 'reconstructions').mkdir(exist_ok=True)
  path = view.folder / 'reconstructions' / f'{view.step:08d}.png'
  reconstructions.draw_pairs(image, view.apply('__call__', image), path)


def draw_codes(view) -> None:
  """codes.png: a map of them; interpolations.png: what lies between two; dimensions.png: along single numbers.

  These are the NUMBERS with the largest variance, each from its lowest to its highest value in the code of the first
  image. Of a single image there is nothing to lie between.
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
