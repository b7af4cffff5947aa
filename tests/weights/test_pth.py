""".pth: read by torch, where it is; refused with the way out where it is not."""

import argparse
import pickle
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from archive_files import FLOATS, read, refused
from weight_files import write_zip

from mixer_jax.errors import MixerError
from mixer_jax.weights import archives, pickles


class Tensor:
  """As much of a tensor as is asked for."""

  def __init__(self, values, dtype='float32'):
    self._values, self.dtype = np.asarray(values), f'torch.{dtype}'
    self.shape = self._values.shape

  def detach(self):
    return self

  def float(self):
    return Tensor(self._values.astype(np.float32))

  def numpy(self):
    assert self.dtype != 'torch.bfloat16', 'torch cannot do that'
    return self._values


@pytest.fixture
def torch(monkeypatch):
  """A stand-in for torch: (what torch.load gives, or raises) -> None."""

  def torch(content):
    def load(path, *, map_location, weights_only):
      assert map_location == 'cpu' and weights_only is True
      assert isinstance(path, Path)
      if isinstance(content, Exception):
        raise content
      return content

    monkeypatch.setitem(sys.modules, 'torch', types.SimpleNamespace(load=load, Tensor=Tensor))

  return torch


def some_file(tmp_path, name='w.pth'):
  (tmp_path / name).write_bytes(b'\x80\2N.' * 5 + b'torch reads it')
  return tmp_path / name


@pytest.mark.parametrize('name', ['w.pth', 'w.pt', 'w.bin', 'w.PTH', 'w.pth.tar', 'w.ckpt'])
@pytest.mark.parametrize('nest', [lambda x: x, lambda x: {'state_dict': x}, lambda x: {'model': x, 'epoch': 3}])
def test_pth_is_read_by_torch(tmp_path, torch, name, nest):
  values = {'a': Tensor(FLOATS), 'b': Tensor([[1, 2]], 'int64'), 'c': Tensor(FLOATS[:3], 'bfloat16'), 'd': Tensor(7.0)}
  torch(nest(values))
  opened = archives.read(some_file(tmp_path, name)).arrays
  assert [opened[name].dtype for name in 'abcd'] == ['float32', 'int64', 'bfloat16', 'float32']
  assert [opened[name].shape for name in 'abcd'] == [(6,), (1, 2), (3,), ()]
  found = {name: array.read() for name, array in opened.items() if name != 'd'}
  assert found['c'].dtype == ml_dtypes.bfloat16 and found['c'].tolist() == [1.5, -2, 0.25]
  np.testing.assert_array_equal(found['a'], FLOATS)
  found['a'][:] = 0  # a copy
  np.testing.assert_array_equal(opened['a'].read(), FLOATS)


A, B, C = ({'a': Tensor(FLOATS + i)} for i in range(3))


@pytest.mark.parametrize(
  'content, part, wanted, told',
  [
    (A, '', A, ''),
    ({'state_dict': A, 'epoch': 3}, '', A, 'read state_dict of the checkpoint, not epoch'),
    ({'state_dict': A, 'state_dict_ema': B, 'epoch': 3}, '', A, 'not epoch, state_dict_ema; '),
    ({'state_dict_ema': B, 'state_dict': A}, 'state_dict_ema', B, 'read state_dict_ema of the checkpoint, not'),
    ({'model': A, 'model_ema': B, 'optimizer': {'state': {0: {'m': 1}}}}, '', A, 'not model_ema, optimizer; '),
    ({'net': C, 'epoch': 3}, '', C, 'read net of the checkpoint, not epoch'),
    ({'a': A, 'b': B}, 'b', B, 'read b'),
    (
      {'state_dict': A, **{f'k{i}': i for i in range(20)}},
      '',
      A,
      'not k0, k1, k10, k11, k12, k13, k14, k15, ... (20 in',
    ),
  ],
)
def test_which_state_dict_of_a_checkpoint(tmp_path, torch, content, part, wanted, told):
  torch(content)
  path = some_file(tmp_path)
  archive = archives.read(path, part)
  np.testing.assert_array_equal(archive.arrays['a'].read(), wanted['a'].numpy())
  assert len(archive.told) == bool(told) and told in ''.join(archive.told)
  other = 'state_dict' if part == 'state_dict_ema' else 'state_dict_ema'
  assert (f'{path}#{other} would read {other}' in ''.join(archive.told)) == ('state_dict_ema' in content)


def test_state_dicts_that_are_not_told_apart(tmp_path, torch):
  torch({'a': A, 'b': B})
  refused(some_file(tmp_path), 'several networks: a, b; choose one, as', 'w.pth#a')
  torch({'state_dict': A, 'state_dict_ema': B})
  with pytest.raises(MixerError, match="'ema'.*Known: state_dict, state_dict_ema"):
    archives.read(some_file(tmp_path), 'ema')


def test_pth_without_torch(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  message = refused(some_file(tmp_path), 'needs torch', "'.[torch]'", 'convert it where torch is')
  saved = {}
  monkeypatch.setattr('builtins.FILE', tmp_path / 'w.pth', raising=False)

  class Convertible(Tensor):
    contiguous = clone = lambda self: self

  load = lambda path, weights_only: {'model': {'a': Convertible(FLOATS)}} if weights_only else None
  save_file = lambda weights, path: saved.update({path: list(weights)})
  code = message.split('is trusted: ')[1]
  modules = {'torch': types.SimpleNamespace(load=load)}
  exec(code, modules | {'safetensors': types.SimpleNamespace(torch=types.SimpleNamespace(save_file=save_file))})
  assert saved == {'weights.safetensors': ['a']}


@pytest.mark.parametrize(
  'content, parts',
  [
    (
      pickle.UnpicklingError('Weights only load failed.\n\tUnsupported global: GLOBAL argparse.Namespace was not'),
      [
        'holds more than weights (Unsupported global: GLOBAL argparse.Namespace',
        'file is trusted',
        'weights_only=False',
      ],
    ),
    (pickle.UnpicklingError('invalid load key'), ['is damaged or holds more than weights (invalid load key)']),
    (RuntimeError('PytorchStreamReader failed\nlong text'), ['is damaged', '(PytorchStreamReader failed)']),
    (EOFError(), ['is damaged']),
    ([1, 2], ['does not hold a state dict']),
    ({'model': {'a': 1}}, ['does not hold a state dict']),
    (Tensor(FLOATS), ['does not hold a state dict']),
    ({}, ['does not hold a state dict']),
    ({'a': Tensor(FLOATS), 'epoch': 3}, ["'epoch' is not a tensor"]),
    ({7: Tensor(FLOATS)}, ['7 is not a tensor']),
    ({'a\nb': Tensor(FLOATS)}, ['the name']),
  ],
)
def test_pth_that_holds_other_things(tmp_path, torch, content, parts):
  torch(content)
  refused(some_file(tmp_path), *parts)


def test_pth_zips_that_torch_does_not_write(tmp_path, torch):
  torch(AssertionError('not asked'))
  path = write_zip(tmp_path / 'w.pth', {'archive/data/0': bytes(2**22)}, zipfile.ZIP_DEFLATED)
  refused(path, 'would unpack from')


def test_pth_whose_pickle_is_large(tmp_path, torch, monkeypatch):
  torch(AssertionError('not asked'))
  monkeypatch.setattr(pickles, 'MOST_BYTES', 1000)
  data = b'\x80\2' + b'N0' * pickles.MOST_BYTES
  (tmp_path / 'w.pth').write_bytes(data)
  refused(tmp_path / 'w.pth', 'is damaged')
  refused(write_zip(tmp_path / 'w.pth', {'w/data.pkl': data, 'w/data/0': bytes(10)}), 'is damaged')


@pytest.mark.parametrize('key', ['w/data.pkl', 'W/DATA.PKL'])
def test_pth_whose_pickle_torch_would_never_end(tmp_path, torch, key):
  torch(AssertionError('not asked'))
  data = b'\x80\2})q\0' + b''.join(b'h%c\x86q%c' % (i, i + 1) for i in range(60)) + b'K\1s.'
  refused(write_zip(tmp_path / 'w.pth', {key: data, 'w/data/0': bytes(10)}), 'its pickle repeats itself')
  (tmp_path / 'w.pth').write_bytes(b'\x80\2N.' * 3 + data + b'N.')
  refused(tmp_path / 'w.pth', 'its pickle repeats itself')


def test_pth_tar_that_is_a_tar(tmp_path, torch):
  torch(AssertionError('not asked'))
  with tarfile.open(tmp_path / 'w.pth.tar', 'w') as tar:
    tar.add(some_file(tmp_path), 'w.pth')
  refused(tmp_path / 'w.pth.tar', 'is a tar archive', 'unpack it')


def test_pth_of_more_than_any_mixer(tmp_path, torch, monkeypatch):
  torch({f'a{i}': Tensor(np.zeros(4000, np.float32)) for i in range(20)})
  monkeypatch.setattr(archives, 'MOST_BYTES', 100_000)
  refused(some_file(tmp_path), 'declares 320,000 bytes of arrays, above the limit of 100,000')


def test_pth_by_torch_itself(tmp_path):
  torch = pytest.importorskip('torch')
  values = {
    'a': torch.nn.Parameter(torch.tensor(FLOATS)),
    'b': torch.tensor(FLOATS[:3]).bfloat16(),
    't': torch.arange(4.0).reshape(2, 2).T,
  }
  for new in (False, True):
    torch.save({'state_dict': values}, tmp_path / 'w.pth', _use_new_zipfile_serialization=new)
    found = read(tmp_path / 'w.pth')
  np.testing.assert_array_equal(found['a'], FLOATS)
  assert found['b'].astype(np.float32).tolist() == [1.5, -2, 0.25] and found['t'].tolist() == [[0, 2], [1, 3]]
  whole = (tmp_path / 'w.pth').read_bytes()
  for size in (len(whole) // 3, len(whole) - 1):
    (tmp_path / 'w.pth').write_bytes(whole[:size])
    refused(tmp_path / 'w.pth', 'is damaged')
  for bad in ({'a': torch.tensor(FLOATS), 'args': argparse.Namespace(x=1)}, Path('x')):
    torch.save(bad, tmp_path / 'w.pth')
    refused(tmp_path / 'w.pth', 'holds more than weights (', 'convert it where torch is')
