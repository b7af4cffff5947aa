"""Files of weights of any kind, and .safetensors: what is read, and what is refused."""

import hashlib
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import weight_files as files
from archive_files import FLOATS, FOUR, read, refused
from weight_files import npy, write_zip

from mixer_jax.errors import MixerError
from mixer_jax.weights import archives

# ---- any kind


def test_an_end_in_capitals(tmp_path):
  np.savez(tmp_path / 'w.npz', a=FLOATS)
  (tmp_path / 'w.npz').rename(tmp_path / 'W.NPZ')
  np.testing.assert_array_equal(read(tmp_path / 'W.NPZ')['a'], FLOATS)


@pytest.mark.parametrize('name', ['w.npy', 'w', 'w.npz.part', '.npz', 'w.tar', '.pth.tar', 'index.json'])
def test_another_end(tmp_path, name):
  (tmp_path / name).write_bytes(b'x')
  with pytest.raises(MixerError, match=r'by the end of the name, .* Known: \.bin, \.ckpt, \.npz, \.pt, \.pth, \.pth'):
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
  for text in (b'\0' * 5000, b'PK\3\4', b'{"error": "not found"}'):
    path.write_bytes(text)
    refused(path, 'is damaged, or not the kind that its name says')

  def not_allowed(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(Path, 'open', not_allowed)
  refused(path, 'cannot be read (Permission denied)')
  with pytest.raises(MixerError, match='Permission denied'):
    archives.checksum(path)


@pytest.mark.parametrize('end', ['.npz', '.safetensors', '.safetensors.index.json', '.pth'])
def test_what_stands_in_the_place_of_weights(tmp_path, end):
  path = tmp_path / f'w{end}'
  path.write_bytes(b'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n')
  with pytest.raises(MixerError, match=f'{path} is a Git LFS pointer .*git lfs pull'):
    archives.read(path)
  path.write_bytes(b'\n<!DOCTYPE html><html>404')
  with pytest.raises(MixerError, match=f'{path} is a web page'):
    archives.read(path)


@pytest.mark.parametrize('end', ['.npz', '.safetensors'])
def test_more_arrays_than_any_mixer(tmp_path, end, monkeypatch):
  monkeypatch.setattr(archives, 'MOST_ARRAYS', 3)
  for count in (3, 4):
    arrays = {f'a{i}': np.zeros(1, np.float32) for i in range(count)}
    if end == '.npz':
      np.savez(tmp_path / 'w.npz', **arrays)
    else:
      (tmp_path / 'w.safetensors').write_bytes(files.safetensors({k: ('F32', [1], bytes(4)) for k in arrays}))
    if count == 3:
      assert len(read(tmp_path / f'w{end}')) == 3
  refused(tmp_path / f'w{end}', '4 arrays, above the limit of 3')


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
    _with_header(
      b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "a": {"dtype": "F16", "shape": [8],'
      b' "data_offsets": [0, 16]}}'
    ),
    _with_header(b'{"__metadata__": {"a": "b", "a": "c"}}', b''),
    _with_header(b'{"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}'),
    _with_header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', FOUR + b'more'),
  ],
)
def test_safetensors_headers_of_nonsense(tmp_path, content):
  (tmp_path / 'w.safetensors').write_bytes(content)
  refused(tmp_path / 'w.safetensors', 'is damaged')


def test_safetensors_headers_beyond_the_limit(tmp_path):
  """They are not read: 100 MB of names would become gigabytes."""
  path = tmp_path / 'w.safetensors'
  with path.open('wb') as file:
    file.write(struct.pack('<Q', 100_000_000) + b'{')
    file.truncate(100_000_008)
  tracemalloc.start()
  refused(path, 'a header of 100,000,000 bytes, above the limit of 16,777,216')
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()
