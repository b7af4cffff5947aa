"""Shards of .safetensors by their index: all of them, or the one line that says what is wrong."""

import json

import numpy as np
import pytest
import weight_files as files
from archive_files import read, refused

from mixer_jax.errors import MixerError
from mixer_jax.weights import archives, reading, remote

OURS = files.mixer()


def write(folder, arrays, count=3):
  """The arrays in so many shards; returns the index, as a path and as a value."""
  names, shards = {}, [f'model-{i:05d}-of-{count:05d}.safetensors' for i in range(count)]
  for i, shard in enumerate(shards):
    part = dict(list(arrays.items())[i::count])
    given = {name: ('F32', list(x.shape), x.tobytes()) for name, x in part.items()}
    (folder / shard).write_bytes(files.safetensors(given, {'format': 'pt'}))
    names |= dict.fromkeys(part, shard)
  index = {'metadata': {'total_size': 1}, 'weight_map': names}
  path = folder / 'model.safetensors.index.json'
  path.write_text(json.dumps(index))
  return path, index


def test_a_mixer_in_shards(tmp_path):
  path, _ = write(tmp_path, files.timm(OURS))
  weights = reading.read(str(path))
  assert weights.kind == 'timm' and weights.arrays.keys() == OURS.keys()
  for name, x in OURS.items():
    np.testing.assert_array_equal(weights.arrays[name], x)


def test_the_checksum_is_of_all_files(tmp_path):
  path, _ = write(tmp_path, {'a': np.ones(3, np.float32), 'b': np.ones(2, np.float32)}, 2)
  before = archives.checksum(path)
  write(tmp_path, {'a': np.ones(3, np.float32), 'b': np.zeros(2, np.float32)}, 2)
  assert archives.checksum(path) != before
  write(tmp_path, {'a': np.ones(3, np.float32), 'b': np.ones(2, np.float32)}, 2)
  assert archives.checksum(path) == before


@pytest.mark.parametrize(
  'shard', [
    '../model-00000-of-00003.safetensors', '/etc/x.safetensors', 'a/b.safetensors', '..', '', 'config.json',
    'https://example.com/x.safetensors', 'a\\\\b.safetensors', 'a\nb.safetensors', 'x.pth', '.safetensors',
  ],
)  # fmt: skip
def test_shards_elsewhere(tmp_path, shard):
  path, index = write(tmp_path, files.timm(OURS))
  index['weight_map']['head.bias'] = shard
  path.write_text(json.dumps(index))
  with pytest.raises(MixerError, match='in the same folder') as caught:
    read(path)
  assert '\n' not in str(caught.value)


def test_an_index_and_shards_that_do_not_agree(tmp_path):
  path, index = write(tmp_path, files.timm(OURS))
  names = index['weight_map']
  shard = names['head.bias']
  change = lambda changed: path.write_text(json.dumps({'weight_map': changed}))
  change(names | {'more': shard})
  refused(path, f'there is no more in {shard}', 'download them again')
  change({name: shard for name, shard in names.items() if name != 'head.bias'})
  refused(path, f'there is no head.bias of {shard} in the index')
  change(names | {'head.bias': next(other for other in names.values() if other != shard)})
  refused(path, 'there is no head.bias in')
  change(names)
  (tmp_path / shard).write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
  with pytest.raises(MixerError, match=f'{shard} is a Git LFS pointer'):
    read(path)
  (tmp_path / shard).unlink()
  with pytest.raises(MixerError, match=f'there is no file .*{shard}'):
    read(path)


@pytest.mark.parametrize(
  'index', ['[]', '{}', '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": [["a", "b"]]}', '[' * 9999,
            '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', '{'],
)  # fmt: skip
def test_what_is_no_index(tmp_path, index):
  path = tmp_path / 'model.safetensors.index.json'
  path.write_text(index)
  refused(path, 'is damaged')


def test_the_limit_is_of_all_shards(tmp_path, monkeypatch):
  path, _ = write(tmp_path, {f'a{i}': np.ones(10, np.float32) for i in range(4)}, 2)
  monkeypatch.setattr(archives, 'MOST_BYTES', 150)
  refused(path, 'declares 160 bytes of arrays, above the limit of 150')


def test_an_index_at_an_address():
  for scheme in ('hf', 'gs', 'memory'):
    with pytest.raises(MixerError, match='download the folder that it lies in'):
      remote.fetch(f'{scheme}://a/b/model.safetensors.index.json')
