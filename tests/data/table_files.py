"""What the tests of tables share: a small table and its file."""

import csv

import numpy as np

from mixer_jax.data.tables import schema as schemas
from mixer_jax.data.tables import sets

HEADER = ('size', 'colour', 'flag', 'label')
COLOURS = ('red', 'green', 'blue')


def rows(count=40, seed=0):
  rng = np.random.default_rng(seed)
  return [
    (f'{rng.lognormal(3, 4):.6g}', COLOURS[rng.integers(3)], str(rng.integers(2)), str(i % 2)) for i in range(count)
  ]


def write(path, body, header=HEADER, delimiter=','):
  with path.open('w', newline='') as file:
    csv.writer(file, delimiter=delimiter).writerows([header, *body])
  return path


def read(path, **changes):
  return sets.load(
    f'csv:{path}', 'train', **{'label': 'label', 'drop': (), 'categorical': None, 'data_dir': None, **changes}
  )


def fitted(table, scaling='standard', **changes):
  return schemas.fit(
    table, **{'label': 'label', 'dropped': (), 'categorical': ['colour'], 'scaling': scaling, **changes}
  )
