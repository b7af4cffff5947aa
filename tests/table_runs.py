"""What the tests of tables through the commands share."""

import csv
from pathlib import Path

import numpy as np

import mixer_jax

CONFIG = Path(mixer_jax.__file__).parents[1] / 'configs' / 'csv.py'
# A small Mixer for 4 steps.
SMALL = (
  '--config.model.blocks=1', '--config.model.hidden=8', '--config.model.bins=4', '--config.batch_size=16',
  '--config.eval_batch_size=16', '--config.total=4 steps', '--config.schedule.warmup=0', '--config.log_every=0',
  '--config.eval_every=0', '--config.checkpoint_every=0',
)  # fmt: skip
HEADER = ('id', 'size', 'weight', 'colour', 'label')
COLOURS = ('red', 'green', 'blue')


def rows(count=40, seed=0, classes=('0', '1')):
  """Numbers, a few of which are missing, colours, labels in turn."""
  rng = np.random.default_rng(seed)
  return [
    (
      str(i), f'{rng.lognormal(3, 2):.6g}', f'{rng.normal():.6g}' if rng.random() < 0.9 else '',
      COLOURS[rng.integers(3)], classes[i % len(classes)],
    )
    for i in range(count)
  ]  # fmt: skip


def write(path, body, header=HEADER):
  with path.open('w', newline='') as file:
    csv.writer(file, lineterminator='\n').writerows([header, *body])
  return path


def train(path, workdir, *overrides):
  return (f'--config={CONFIG}:{path}', *SMALL, *overrides, f'--workdir={workdir}')


def text(body, header=HEADER):
  return '\n'.join(','.join(row) for row in [header, *body]) + '\n'


def changed(row, column, cell):
  """The text of the table with another cell; rows count from 1."""
  body = [list(line) for line in rows()]
  body[row - 1][HEADER.index(column)] = cell
  return text(body)
