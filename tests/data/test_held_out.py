"""Splits and lengths of one's own images."""

import os
import shutil

import pytest
from image_sets import folder, write_folder
from refusals import refuses

from mixer_jax.data import held_out

pytestmark = pytest.mark.usefixtures('no_data')
KINDS = ('train', 'val', 'test')
CUT = ('train[:90%]', 'train[90%:]')


def splits(root):
  data, _ = held_out.image_folder(root)
  return tuple(data.get(kind, '') for kind in KINDS)


@pytest.mark.parametrize('name', ['val', 'valid', 'validation', 'dev'])
def test_folders_of_validation_images(name, tmp_path):
  write_folder(tmp_path, n=10)
  assert splits(tmp_path) == (*CUT, '')
  write_folder(tmp_path, 'test')
  assert splits(tmp_path) == (*CUT, 'test')  # never chosen on test
  write_folder(tmp_path, name)
  assert splits(tmp_path) == ('train', name, 'test')
  assert len(folder(tmp_path, 'val')) == len(folder(tmp_path, name)) == 6
  (tmp_path / 'dev' if name != 'dev' else tmp_path / 'val').mkdir()
  with refuses(tmp_path, name, 'mean the same'):
    held_out.image_folder(tmp_path)
  with refuses(tmp_path, name, 'mean the same'):
    folder(tmp_path, name)


def test_folders_without_classes_are_no_splits(tmp_path):
  write_folder(tmp_path, n=10)
  for name in ('val/images', 'test'):
    (tmp_path / name).mkdir(parents=True)
    shutil.copy(tmp_path / 'train' / 'cat' / '0.png', tmp_path / name)
  assert splits(tmp_path) == (*CUT, '')


def test_hidden_folders_are_no_classes(tmp_path):
  write_folder(tmp_path, n=20)
  for name in ('.ipynb_checkpoints', '__MACOSX', '@eaDir'):
    shutil.copytree(tmp_path / 'train' / 'cat', tmp_path / 'train' / name)
  data, examples = held_out.image_folder(tmp_path)
  assert data['classes'] == 2 and examples == 36


def test_no_folder_train(tmp_path):
  write_folder(tmp_path, 'training')
  with pytest.raises(ValueError, match='train is not a folder.*it has training'):
    held_out.image_folder(tmp_path)
  with pytest.raises(ValueError, match='train is not a folder'):
    held_out.image_folder(os.path.join(tmp_path, 'nowhere'))


@pytest.mark.parametrize('examples', [1, 9, 36, 180, 255, 256, 640, 5000])
def test_length_fits_the_images(examples):
  length = held_out.length(examples, 20)
  batch, epochs = length['batch_size'], int(length['total'].split()[0])
  assert batch in (8, 16, 32, 64) and (4 * batch <= examples or batch == 8)
  steps = epochs * examples / batch
  assert epochs >= 20 and 300 <= steps <= max(300 + examples / batch, 20 * examples / batch)
  if examples > 960:
    assert length == {'batch_size': 64, 'total': '20 epochs'}
