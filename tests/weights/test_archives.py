"""Files of arrays from strangers: what is in them to the bit, and one line for whatever else they are."""

import argparse
import hashlib
import io
import pickle
import re
import struct
import sys
import types
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import weight_files as files
from weight_files import npy, write_zip

from mixer_jax.errors import MixerError
from mixer_jax.weights import archives

FLOATS = np.array([1.5, -2, 0.25, 65504, 0, -0.0], np.float32)
FOUR = struct.pack('<4f', 1, 2, 3, 4)


def read(path):
  """All arrays of a file."""
  return {name: array.read() for name, array in archives.read(path).arrays.items()}


def refused(path, *parts):
  """The message of a file that is refused, be it when opened or when read."""
  with pytest.raises(MixerError) as caught:
    read(path)
  message = str(caught.value)
  assert str(path) in message and '\n' not in message and len(message) < 2000, message
  assert re.search(r'get (it again|another|a file)|choose|look at|convert it|save ', message), message
  for part in parts:
    assert part in message, message
  return message


# ---- any kind


def test_an_end_in_capitals(tmp_path):
  np.savez(tmp_path / 'w.npz', a=FLOATS)
  (tmp_path / 'w.npz').rename(tmp_path / 'W.NPZ')
  np.testing.assert_array_equal(read(tmp_path / 'W.NPZ')['a'], FLOATS)


@pytest.mark.parametrize('name', ['w.npy', 'w', 'w.npz.part', '.npz'])
def test_another_end(tmp_path, name):
  (tmp_path / name).write_bytes(b'x')
  with pytest.raises(MixerError, match=r'by the end of the name, .* Known: \.bin, \.npz, \.pt, \.pth, \.safetensors'):
    archives.read(tmp_path / name)


@pytest.mark.parametrize('end', ['.npz', '.safetensors'])
def test_what_is_no_file_of_weights(tmp_path, end, monkeypatch):
  path = tmp_path / f'w{end}'
  refused(path, 'there is no file')
  path.mkdir()
  refused(path, 'cannot be read (Is a directory)')
  path.rmdir()
  path.write_bytes(b'')
  refused(path, 'is empty')
  for text in (b'<!DOCTYPE html><html>404', b'version https://git-lfs.github.com/spec/v1\n', b'\0' * 5000, b'PK\3\4'):
    path.write_bytes(text)
    refused(path, 'is damaged, or not the kind that its name says')

  def not_allowed(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(Path, 'open', not_allowed)
  refused(path, 'cannot be read (Permission denied)')
  with pytest.raises(MixerError, match='Permission denied'):
    archives.checksum(path)


@pytest.mark.parametrize('end', ['.npz', '.safetensors'])
def test_a_pickle_in_disguise(tmp_path, end, capfd):
  path = tmp_path / f'w{end}'
  path.write_bytes(b'cos\nsystem\n' + pickle.dumps('echo it ran', 2)[2:-1] + b'\x85R.')
  refused(path, 'is damaged')
  assert capfd.readouterr().out == ''


@pytest.mark.parametrize('kind', ['npz', 'compressed', 'safetensors'])
def test_half_a_download(tmp_path, kind):
  arrays = {f'a{i}': x for i, x in enumerate(np.random.default_rng(0).standard_normal((4, 30, 5), np.float32))}
  path = tmp_path / {'compressed': 'w.npz'}.get(kind, f'w.{kind}')
  if kind in ('npz', 'compressed'):
    (np.savez if kind == 'npz' else np.savez_compressed)(path, **arrays)
  else:
    path.write_bytes(files.safetensors({k: ('F32', x.shape, x.tobytes()) for k, x in arrays.items()}))
  for name, x in read(path).items():
    np.testing.assert_array_equal(x, arrays[name])
  whole = path.read_bytes()
  for tenth in range(1, 10):
    path.write_bytes(whole[: len(whole) * tenth // 10])
    refused(path, 'is damaged')
  path.write_bytes(whole[:-1])
  refused(path, 'is damaged')


def test_the_checksum(tmp_path):
  (tmp_path / 'w').write_bytes(b'abc' * 1000)
  assert archives.checksum(tmp_path / 'w') == hashlib.sha256(b'abc' * 1000).hexdigest()
  with pytest.raises(MixerError, match='there is no file'):
    archives.checksum(tmp_path / 'v')


def test_names_that_would_break_a_line_or_a_terminal(tmp_path):
  for name in ('a\nb', 'a\x1b[2J'):
    refused(write_zip(tmp_path / 'w.npz', {f'{name}.npy': npy()}), 'the name')
    (tmp_path / 'w.safetensors').write_bytes(files.safetensors({name: ('F32', [1], bytes(4))}))
    refused(tmp_path / 'w.safetensors', 'the name')


# ---- .npz


@pytest.mark.parametrize('version', [1, 2])
@pytest.mark.parametrize('order', 'CF')
@pytest.mark.parametrize('dtype', ['<f4', '>f4', '<f8', '>f8', '<f2', '>f2', '>i8', '|u1', '|b1'])
def test_npz_dtypes_orders_and_versions(tmp_path, dtype, order, version):
  rng, arrays = np.random.default_rng(1), {}
  for name, shape in (('a', (2, 3, 4)), ('b/c', (5,)), ('d', ()), ('e', (0, 3))):
    arrays[name] = np.asarray(rng.integers(0, 100, shape), dtype, order=order)
  members = {}
  for name, x in arrays.items():
    file = io.BytesIO()
    np.lib.format.write_array(file, x, (version, 0))
    members[f'{name}.npy'] = file.getvalue()
  found = read(write_zip(tmp_path / 'w.npz', members))
  assert list(found) == ['a', 'b/c', 'd', 'e']
  for name, x in arrays.items():
    np.testing.assert_array_equal(found[name], x)
    assert (
      found[name].shape == x.shape and found[name].dtype.isnative and found[name].dtype == x.dtype.newbyteorder('=')
    )


def test_npz_bfloat16(tmp_path):
  np.savez(tmp_path / 'w.npz', a=FLOATS.astype(ml_dtypes.bfloat16), b=FLOATS.astype(np.float16))
  opened = archives.read(tmp_path / 'w.npz').arrays
  assert {name: array.dtype for name, array in opened.items()} == {'a': 'bfloat16', 'b': 'float16'}
  assert opened['a'].read().astype(np.float32).tolist() == [1.5, -2, 0.25, 65536, 0, -0.0]


def test_npz_header_by_python_2(tmp_path):
  header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 2L), }"
  found = read(write_zip(tmp_path / 'w.npz', {'a.npy': npy(header=header, data=FOUR)}))
  assert found['a'].tolist() == [[1, 2], [3, 4]]


def test_npz_dtypes_that_are_no_numbers_are_named_and_not_read(tmp_path):
  np.savez(tmp_path / 'w.npz', a=np.array(['ab', 'c']), b=np.zeros(2, [('x', 'f4'), ('y', 'i8')]))
  opened = archives.read(tmp_path / 'w.npz').arrays
  assert opened['a'].dtype == 'str64' and opened['b'].dtype == 'void96'


def test_npz_objects(tmp_path, capfd):
  class Bad:
    def __reduce__(self):
      return print, ('it ran',)

  np.savez(tmp_path / 'w.npz', a=np.array([Bad()], object))
  capfd.readouterr()
  refused(tmp_path / 'w.npz', 'a.npy holds Python objects')
  assert capfd.readouterr().out == ''


@pytest.mark.parametrize(
  'member, part',
  [
    (npy(shape='(10000000000,)'), 'a.npy has 8 bytes for (10000000000,) float32'),
    (npy(shape='(3,)'), 'a.npy has 8 bytes for (3,) float32'),
    (npy(shape='(1,)'), 'a.npy has 8 bytes for (1,) float32'),
    (npy(shape='(-1, -2)'), 'shape (-1, -2)'),
    (npy(shape='(-2,)'), 'shape (-2,)'),
    (npy(shape='2'), 'shape is not valid'),
    (npy(shape='(2.0,)'), 'shape is not valid'),
    (npy(version=3), 'version (3, 0)'),
    (npy(version=9), 'version (9, 0)'),
    (npy(descr="'<f40'"), 'descr is not a valid dtype'),
    (npy(descr="'(2,'"), 'is damaged'),
    (npy(descr='[]'), 'is damaged'),
    (npy(descr='7'), 'is damaged'),
    (npy(header='{' * 150), 'is damaged'),
    (npy(header='('), 'is damaged'),
    (npy(header='-' * 9000 + '1'), 'a.npy'),
    (npy(header='1+' * 3000 + '1'), 'is damaged'),
    (npy(header="{'descr': '<f4'}"), 'correct keys'),
    (npy(header="__import__('os').system('true')"), 'is damaged'),
    (npy(header=' ' * 20_000), 'is large'),
    (npy()[:40], 'is damaged'),
    (b'', 'is damaged'),
    (b'README', 'is damaged'),
  ],
)
def test_npz_members_that_are_no_arrays(tmp_path, member, part):
  path = write_zip(tmp_path / 'w.npz', {'b.npy': npy(), 'a.npy': member})
  message = refused(path, part.replace('a.npy', '') if '-' * 9 in str(member) else part)
  assert 'allow_pickle' not in message


def test_npz_of_folders(tmp_path):
  refused(write_zip(tmp_path / 'w.npz', {'a/': b'', 'a/b.npy': npy()}), 'is damaged')
  assert list(read(write_zip(tmp_path / 'w.npz', {'a/b/c.npy': npy(), '../d.npy': npy()}))) == ['a/b/c', '../d']


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('second', ['a.npy', 'a'])
def test_npz_a_name_twice(tmp_path, second):
  with zipfile.ZipFile(tmp_path / 'w.npz', 'w') as archive:
    archive.writestr('a.npy', npy())
    archive.writestr(second, npy())
  refused(tmp_path / 'w.npz', 'twice')


@pytest.mark.parametrize(
  'local, central, value, part',
  [(6, 8, 1, 'encrypted'), (8, 10, 97, 'compression'), (8, 10, 12, 'Invalid data stream')],
)
def test_npz_flags_of_the_zip(tmp_path, local, central, value, part):
  path = write_zip(tmp_path / 'w.npz', {'a.npy': npy()})
  data = bytearray(path.read_bytes())
  for start, offset in ((0, local), (data.index(b'PK\1\2'), central)):
    data[start + offset : start + offset + 2] = struct.pack('<H', value)
  path.write_bytes(data)
  refused(path, part)


@pytest.mark.parametrize('compression', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_that_unpacks_to_far_more_than_it_is(tmp_path, compression):
  member = npy(shape=f'({2**20},)', data=bytes(2**22))
  path = write_zip(tmp_path / 'w.npz', {'a.npy': member}, compression)
  refused(path, f'would unpack from {path.stat().st_size:,} to {len(member):,} bytes')


def test_npz_of_more_bytes_than_any_mixer(tmp_path, monkeypatch):
  monkeypatch.setattr(archives, 'MOST_BYTES', 400)
  np.savez(tmp_path / 'w.npz', a=np.zeros(100, np.float32))
  refused(tmp_path / 'w.npz', 'would unpack to 528 bytes, more than 400')


def test_npz_whose_directory_lies_about_sizes(tmp_path):
  path = write_zip(tmp_path / 'w.npz', {'a.npy': npy(shape=f'({2**20},)', data=bytes(8))})
  data = bytearray(path.read_bytes())
  start = data.index(b'PK\1\2') + 24
  told = struct.unpack('<I', data[start : start + 4])[0] - 8 + 2**22
  data[start : start + 4] = struct.pack('<I', told)
  path.write_bytes(data + bytes(2**17))  # so that it is no bomb by its size
  refused(path)


def test_npz_changed_between_opening_and_reading(tmp_path):
  np.savez(tmp_path / 'w.npz', a=np.ones(4, np.float32))
  opened = archives.read(tmp_path / 'w.npz').arrays
  np.savez(tmp_path / 'w.npz', a=np.ones(3, np.float32))
  with pytest.raises(MixerError, match='is damaged'):
    opened['a'].read()
  (tmp_path / 'w.npz').unlink()
  with pytest.raises(MixerError, match='there is no file'):
    opened['a'].read()


# ---- .safetensors


def test_safetensors_dtypes_and_notes(tmp_path):
  given = {
    'a': ('F32', [2, 2], FOUR),
    'b': ('BF16', [2], b'\x80\x3f\x20\xc0'),
    'c': ('F16', [2], struct.pack('<2e', 1.5, -2)),
    'd': ('F64', [], struct.pack('<d', 1e300)),
    'e': ('I64', [1], struct.pack('<q', -7)),
    'f': ('U8', [2], b'\1\2'),
    'g': ('BOOL', [1], b'\1'),
    'h': ('I8', [0], b''),
  }
  (tmp_path / 'w.safetensors').write_bytes(files.safetensors(given, {'format': 'pt', 'x': 'y'}))
  opened = archives.read(tmp_path / 'w.safetensors')
  assert opened.notes == {'format': 'pt', 'x': 'y'}
  dtypes = ['float32', 'bfloat16', 'float16', 'float64', 'int64', 'uint8', 'bool', 'int8']
  assert [opened.arrays[name].dtype for name in given] == dtypes
  values = [[[1, 2], [3, 4]], [1, -2.5], [1.5, -2], 1e300, [-7], [1, 2], [True], []]
  assert [opened.arrays[name].read().tolist() for name in given] == values


def test_safetensors_dtypes_that_numpy_has_not(tmp_path):
  (tmp_path / 'w.safetensors').write_bytes(
    files.safetensors({'a': ('F8_E4M3', [2], b'12'), 'b': ('F32', [1], FOUR[:4])})
  )
  assert archives.read(tmp_path / 'w.safetensors').arrays['a'].dtype == 'f8_e4m3'
  refused(tmp_path / 'w.safetensors', 'is damaged')


def _with_header(text, data=FOUR):
  return struct.pack('<Q', len(text)) + text + data


@pytest.mark.parametrize(
  'content',
  [
    struct.pack('<Q', 2**62) + b'{}',
    struct.pack('<Q', 2**64 - 1) + b'{}',
    _with_header(b'[]'),
    _with_header(b'{'),
    _with_header(b'\xff\xfe{}'),
    _with_header(b'[' * 100_000),
    _with_header(b'{"a": 3}'),
    _with_header(b'{"__metadata__": {"a": 3}}', b''),
    _with_header(b'{"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 160]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 16]}}'),
    _with_header(b'{"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', FOUR + b'more'),
  ],
)
def test_safetensors_headers_of_nonsense(tmp_path, content):
  (tmp_path / 'w.safetensors').write_bytes(content)
  refused(tmp_path / 'w.safetensors', 'is damaged')


# ---- .pth


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
  (tmp_path / name).write_bytes(b'torch reads it')
  return tmp_path / name


@pytest.mark.parametrize('name', ['w.pth', 'w.pt', 'w.bin', 'w.PTH'])
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


def test_pth_without_torch(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  message = refused(some_file(tmp_path), 'takes torch to read', "'.[torch]'", 'convert it where torch is')
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
      ['holds more than weights (Unsupported global: GLOBAL argparse.Namespace', 'convert it where torch is'],
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


def test_pth_of_more_than_any_mixer(tmp_path, torch, monkeypatch):
  torch({f'a{i}': Tensor(np.zeros(4000, np.float32)) for i in range(20)})
  monkeypatch.setattr(archives, 'MOST_BYTES', 100_000)
  refused(some_file(tmp_path), 'announces 320,000 bytes of arrays, more than 100,000')


def test_pth_by_torch_itself(tmp_path):
  torch = pytest.importorskip('torch')
  values = {
    'a': torch.nn.Parameter(torch.tensor(FLOATS)),
    'b': torch.tensor(FLOATS[:3]).bfloat16(),
    't': torch.arange(4.0).reshape(2, 2).T,
  }
  torch.save({'state_dict': values}, tmp_path / 'w.pth')
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
