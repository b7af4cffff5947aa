"""Round trips through every layout, bit for bit; what is refused; what a broken write leaves behind."""

import dataclasses
import errno
import json
import os

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from mixer_jax.errors import MixerError
from mixer_jax.models import params as network
from mixer_jax.models.mixer import MlpMixer
from mixer_jax.weights import checking, layouts, reading, writing

MODEL = {'name': 'mixer', 'patch': [2, 3], 'hidden': 8, 'blocks': 2, 'token_mlp': 5, 'channel_mlp': 7, 'gelu': 'tanh'}
DATA = {'image': [6, 9, 2], 'classes': 4, 'mean': [0.25, 0.5], 'std': [0.125, 1.0]}


@pytest.fixture(scope='module')
def weights():
  settings = {k: tuple(v) if isinstance(v, list) else v for k, v in MODEL.items() if k != 'name'}
  model = nnx.eval_shape(lambda: MlpMixer(image=(6, 9, 2), classes=4, **settings, rngs=nnx.Rngs(0)))
  random = np.random.default_rng(0)
  shapes = network.shapes(nnx.state(model, nnx.Param))
  arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  # What no rounding may touch: denormals, the largest, a negative zero.
  arrays['head.bias'] = np.float32([1e-42, -0.0, np.finfo(np.float32).max, 1 / 3])
  return reading.Weights(
    arrays=arrays, model=MODEL, data=DATA, labels=['a', 'b', 'c', 'ü'], source='a test', kind='run'
  )


def same(a, b):
  return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.parametrize('name', ['w.npz', 'w.safetensors', 'folder'])
def test_every_layout_gives_the_arrays_back_in_every_bit(name, weights, tmp_path):
  writing.write(weights, tmp_path / name)
  again = reading.read(str(tmp_path / name))
  assert same(again.arrays, weights.arrays)
  for key, value in MODEL.items():
    assert again.model[key] == value
  assert again.data['classes'] == 4
  if name != 'w.npz':  # which has no place for these, nor for a grid that is no square
    assert {key: again.data[key] for key in DATA} == {**DATA, 'classes': 4}
    assert again.labels == weights.labels
  assert os.listdir(tmp_path) == [name]


def test_timm_through_ours_is_timm_again(weights, tmp_path):
  writing.write(weights, tmp_path / 'a.safetensors')
  writing.write(reading.read(str(tmp_path / 'a.safetensors')), tmp_path / 'folder')
  writing.write(reading.read(str(tmp_path / 'folder')), tmp_path / 'b.safetensors')
  assert (tmp_path / 'a.safetensors').read_bytes() == (tmp_path / 'b.safetensors').read_bytes()


def test_the_originals_names_and_shapes(weights, tmp_path):
  writing.write(weights, tmp_path / 'w.npz')
  with np.load(tmp_path / 'w.npz', allow_pickle=False) as file:
    assert file['stem/kernel'].shape == (2, 3, 2, 8)
    assert file['MixerBlock_1/token_mixing/Dense_0/kernel'].shape == (9, 5)
    assert len(file.files) == 2 + 2 * 12 + 4
    # The convolution of the original, written out for one patch, is the stem here.
    image = np.random.default_rng(1).normal(size=(6, 9, 2)).astype(np.float32)
    token = np.einsum('pqc,pqch->h', image[2:4, 6:9], file['stem/kernel']) + file['stem/bias']
  named = nnx.merge(*_merged(weights))(image[None], intermediates=True)[1]
  np.testing.assert_allclose(named['stem'][0, 5], token, rtol=1e-5, atol=1e-5)


def _merged(weights):
  settings = {k: tuple(v) if isinstance(v, list) else v for k, v in weights.model.items() if k != 'name'}
  model = MlpMixer(image=tuple(weights.data['image']), classes=4, **settings, rngs=nnx.Rngs(0))
  graphdef, params = nnx.split(model, nnx.Param)
  return graphdef, network.place(params, weights.arrays)


def test_the_older_naming_loads(weights, tmp_path):
  """Its dense layers have axes of one, and it may lie below `target`."""
  theirs = layouts.from_ours('older original', weights.arrays, 2, (2, 3, 2))
  wide = lambda name, x: x[None, :, None] if name.endswith(('kernel1', 'kernel2', 'bias1', 'bias2')) else x
  np.savez(tmp_path / 'old.npz', **{f'target/{name}': wide(name, array) for name, array in theirs.items()})
  again = reading.read(str(tmp_path / 'old.npz'))
  assert again.kind == 'older original'
  assert same(again.arrays, weights.arrays)


def test_what_a_layout_has_no_place_for_is_refused(weights, tmp_path):
  cnn = {'token_mlp': 0, 'mixing': {'name': 'cnn', 'kernel': 3}}
  for model, part in (({'name': 'mnist_mixer'}, 'mnist_mixer'), (cnn, 'mixing')):
    other = dataclasses.replace(weights, model=weights.model | model)
    for name in ('w.npz', 'w.safetensors'):
      with pytest.raises(MixerError, match=f'{part}.*model folder'):
        writing.write(other, tmp_path / name)
    writing.write(other, tmp_path / part)
    assert json.loads((tmp_path / part / 'config.json').read_text())['model'] == other.model
  with pytest.raises(MixerError, match='tabular, which only a model folder'):
    writing.write(dataclasses.replace(weights, model={'name': 'tabular'}), tmp_path / 'w.npz')
  assert sorted(os.listdir(tmp_path)) == ['mixing', 'mnist_mixer']


def test_places_that_are_refused(weights, tmp_path):
  (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
  (tmp_path / 'run' / 'config.json').write_text('{"model": {}}')
  (tmp_path / 'file').write_text('mine')
  (tmp_path / 'folder.npz').mkdir()
  for name, part in (
    ('w.h5', 'not .h5'), ('w.NPZ', 'not .NPZ'), ('none/w.npz', 'no folder'), ('run', 'other things in it'),
    ('file', 'is a file'), ('folder.npz', 'is a folder'),
  ):  # fmt: skip
    with pytest.raises(MixerError, match=part):
      writing.write(weights, tmp_path / name)
  assert sorted(os.listdir(tmp_path)) == ['file', 'folder.npz', 'run']
  assert (tmp_path / 'run' / 'config.json').read_text() == '{"model": {}}'


def test_an_older_folder_gives_way(weights, tmp_path):
  writing.write(weights, tmp_path / 'folder')
  changed = {name: array + 1 for name, array in weights.arrays.items()}
  writing.write(dataclasses.replace(weights, arrays=changed), tmp_path / 'folder')
  assert same(reading.read(str(tmp_path / 'folder')).arrays, changed)
  assert os.listdir(tmp_path) == ['folder']


@pytest.mark.parametrize('name', ['w.npz', 'w.safetensors', 'folder'])
def test_a_full_disk_leaves_what_was_there(name, weights, tmp_path, monkeypatch):
  writing.write(weights, tmp_path / name)
  file = tmp_path / name / 'model.safetensors' if name == 'folder' else tmp_path / name
  before = file.read_bytes()

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(writing.os, 'replace', full)
  with pytest.raises(MixerError, match=r'cannot write --to=.*No space left'):
    writing.write(weights, tmp_path / name)
  assert os.listdir(tmp_path) == [name] and file.read_bytes() == before


def test_files_have_the_permissions_that_the_user_gives_new_files(weights, tmp_path):
  before = os.umask(0o027)
  try:
    for name in ('w.npz', 'w.safetensors', 'folder'):
      writing.write(weights, tmp_path / name)
  finally:
    os.umask(before)
  for name in ('w.npz', 'w.safetensors', 'folder/model.safetensors', 'folder/config.json'):
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_another_gelu_is_reported(weights, tmp_path):
  assert any(
    'tanh GELU, but timm computes the exact' in line for line in writing.write(weights, tmp_path / 'w.safetensors')
  )
  exact = dataclasses.replace(weights, model=weights.model | {'gelu': 'exact'})
  assert writing.write(exact, tmp_path / 'x.safetensors') == ()
  assert any("exact GELU, but the original's" in line for line in writing.write(exact, tmp_path / 'x.npz'))
  assert reading.read(str(tmp_path / 'w.safetensors')).model['gelu'] == 'tanh'
  assert any('gelu: tanh' in note for note in reading.read(str(tmp_path / 'x.npz')).notes)
  assert reading.with_gelu(reading.read(str(tmp_path / 'x.npz')), 'exact').model['gelu'] == 'exact'


def test_check_finds_an_array_that_changed(weights, tmp_path):
  heard = []
  check = lambda path: checking.compare(weights, path, 1e-5, heard.append)
  writing.write(weights, tmp_path / 'good.safetensors', check)
  assert len(heard) == 2 and all('differ by at most 0,' in line for line in heard)
  wrong = {
    **weights.arrays,
    'blocks.1.channel_mixing.fc2.kernel': weights.arrays['blocks.1.channel_mixing.fc2.kernel'] * 1.01,
  }
  with pytest.raises(MixerError, match='pre_logits differ by'):
    writing.write(dataclasses.replace(weights, arrays=wrong), tmp_path / 'bad.safetensors', check)
  assert os.listdir(tmp_path) == ['good.safetensors']


def test_notes_that_are_nonsense_are_refused(weights, tmp_path):
  theirs = layouts.from_ours('timm', weights.arrays, 2, (2, 3, 2))
  for note in ('{', '[]', json.dumps({'gelu': 'relu'}), json.dumps({'gelu': 'tanh', 'image': 3})):
    (tmp_path / 'w.safetensors').write_bytes(safetensors.numpy.save(theirs, {'mixer_jax': note}))
    with pytest.raises(MixerError, match='unreadable metadata'):
      reading.read(str(tmp_path / 'w.safetensors'))
