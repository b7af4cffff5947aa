"""Whole configs, and the data that they are of: a folder of images, a table, weights."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import mixer_jax
from mixer_jax import config as configs
from mixer_jax.models import params as network
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.training import settings
from mixer_jax.weights import reading, writing

ROOT = Path(mixer_jax.__file__).parents[1]
FILES = configs.bundled() | {'sharp_minima': ROOT / 'studies' / 'sharp_minima' / 'config.py'}


@pytest.fixture(scope='session')
def images(tmp_path_factory):
  """A folder of images of three classes."""
  folder = tmp_path_factory.mktemp('images')
  random = np.random.default_rng(0)
  for name in ('cat', 'dog', 'owl'):
    (folder / 'train' / name).mkdir(parents=True)
    for i in range(2):
      Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / 'train' / name / f'{i}.png')
  return folder


@pytest.fixture(scope='session')
def rows(tmp_path_factory):
  """A data directory with rows of UNSW-NB15's shape: 39 columns of numbers, 3 of text."""
  folder = tmp_path_factory.mktemp('rows')
  (folder / 'unsw_nb15').mkdir()
  random = np.random.default_rng(0)
  text = {'proto': ['tcp', 'udp'], 'service': ['-', 'dns', 'http'], 'state': ['FIN', 'INT']}
  columns = {'id': range(40)} | {f'number{i}': random.normal(size=40) for i in range(39)}
  columns |= {name: random.choice(values, 40) for name, values in text.items()} | {'label': random.integers(0, 2, 40)}
  for split in ('training', 'testing1'):
    with (folder / 'unsw_nb15' / f'UNSWNB15_{split}_coursework.csv').open('w', newline='') as file:
      csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
  return str(folder)


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
  """A model folder of a Mixer for images of 8x8."""
  model = {'name': 'mixer', 'patch': 2, 'hidden': 6, 'blocks': 2, 'token_mlp': 5, 'channel_mlp': 7, 'gelu': 'exact'}
  sizes = {name: value for name, value in model.items() if name != 'name'}
  params = nnx.state(MlpMixer(image=(8, 8, 1), classes=3, **sizes, rngs=nnx.Rngs(0)), nnx.Param)
  folder = tmp_path_factory.mktemp('weights') / 'model'
  writing.write(
    reading.Weights(
      arrays=network.arrays(params), model=model, data={'image': [8, 8, 1], 'classes': 3}, source='', kind='run'
    ),
    folder,
  )
  return folder


@pytest.fixture
def load(images, rows, weights):
  """(name, argument, flags) -> the whole config; PATH, FILE and WEIGHTS in an argument stand for those above."""
  table = f'{rows}/unsw_nb15/UNSWNB15_training_coursework.csv'
  places = {'PATH': images, 'FILE': table, 'WEIGHTS': weights}
  fill = lambda argument: re.sub('PATH|FILE|WEIGHTS', lambda name: str(places[name[0]]), argument)

  def load(name, argument='', *flags):
    return settings.resolve(configs.load([f'--config={FILES[name]}{fill(argument)}', *flags]))

  return load
