"""Addresses: fetched once, kept with a checksum, and one line for whatever goes wrong; the network is a memory."""

import json
import socket
import sys
import types
from pathlib import Path

import fsspec
import numpy as np
import pytest
import weight_files

from mixer_jax.data.images import sets
from mixer_jax.errors import MixerError
from mixer_jax.weights import reading, remote

ADDRESS, DATA = 'memory://bucket/a b/w.npz', bytes(range(256)) * 20_000


@pytest.fixture
def memory(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  system = fsspec.filesystem('memory')
  system.pipe('/bucket/a b/w.npz', DATA)
  yield system
  system.store.clear()


def refused(address, *parts):
  with pytest.raises(MixerError) as caught:
    remote.fetch(address)
  message = str(caught.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message


def kept():
  return sorted(path.name for path in remote.cache_folder().iterdir()) if remote.cache_folder().exists() else []


def test_a_path_stays_a_path(monkeypatch):
  monkeypatch.setenv('HOME', '/home/of')
  assert remote.fetch('runs/a') == Path('runs/a')
  assert remote.fetch('~/a.npz') == Path('/home/of/a.npz')
  assert remote.fetch('~nobody-of-this-name/a.npz') == Path('~nobody-of-this-name/a.npz')
  assert not remote.is_address('C:\\a.npz') and not remote.is_address('a/b://c') and remote.is_address('gs://a')


def test_the_part_of_an_address(tmp_path, monkeypatch):
  assert remote.split('a/w.pth#state_dict_ema') == ('a/w.pth', 'state_dict_ema')
  assert remote.split('hf://o/n/w.pth.tar#x.y') == ('hf://o/n/w.pth.tar', 'x.y')
  for whole in ('w.pth', 'w.npz#a', 'a#b/w.pth', 'w.pth#', 'runs/#3', 'hf://o/n#a', '.pth#a'):
    assert remote.split(whole) == (whole, '')
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'w.pth#1').write_bytes(b'')
  assert remote.split('w.pth#1') == ('w.pth#1', '') and remote.split('w.pth#2') == ('w.pth', '2')


def test_no_network_without_an_address(tmp_path, monkeypatch):
  def asked(*arguments, **_):
    pytest.fail(f'the network was asked for {arguments}')

  for name in ('getaddrinfo', 'create_connection', 'gethostbyname'):
    monkeypatch.setattr(socket, name, asked)
  monkeypatch.setattr(socket.socket, 'connect', asked)
  monkeypatch.chdir(tmp_path)
  np.savez('w.npz', **weight_files.original(weight_files.mixer()))
  assert reading.read('w.npz').kind == 'original'
  shards = {'weight_map': {'a': 'https://example.com/w.safetensors'}}
  Path('w.safetensors.index.json').write_text(json.dumps(shards))
  folder = Path('folder')
  folder.mkdir()
  about = {'format': reading.FORMAT, 'model': {'name': 'tabular'}, 'data': {}, 'source': 'https://example.com/w.npz'}
  (folder / 'config.json').write_text(json.dumps(about | {'labels': None, 'schema': None}))
  missing = ('o/n/w.npz', 'example.com/w.npz', 'google.com', 'w.pth#https://example.com', 'w.safetensors.index.json')
  for path in (*missing, 'folder'):
    with pytest.raises(MixerError):
      reading.read(path)
  for name in ('tfds:mnist', 'mnist', 'cifar10'):
    with pytest.raises(MixerError):
      sets.load(name, 'train', image=(28, 28, 1), classes=10, data_dir=str(tmp_path))


def test_fetched_once_and_kept_with_its_checksum(memory, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(remote, 'CHUNK', 1000)
  place = remote.fetch(ADDRESS)
  assert place.read_bytes() == DATA and place.is_relative_to(tmp_path) and place.name.endswith('-w.npz')
  printed = capsys.readouterr()
  assert printed.out == '' and 'w.npz' in printed.err
  assert kept() == [place.name, f'{place.name}.sha256']
  memory.store.clear()
  monkeypatch.setattr(fsspec, 'open', None)
  assert remote.fetch(ADDRESS) == place and capsys.readouterr().err == ''


def test_without_a_progress_bar(memory, monkeypatch):
  bar = remote.tqdm.tqdm
  monkeypatch.setattr(remote.tqdm, 'tqdm', lambda **settings: bar(**settings, disable=True))
  assert remote.fetch(ADDRESS).read_bytes() == DATA


def test_an_address_that_does_not_end(memory, monkeypatch):
  monkeypatch.setattr(remote, 'CHUNK', 1000)
  monkeypatch.setattr(remote, 'MOST_BYTES', len(DATA))
  assert remote.fetch(ADDRESS).read_bytes() == DATA
  memory.pipe('/bucket/x/w.npz', DATA + b'x')
  before = kept()
  refused('memory://bucket/x/w.npz', 'cannot be fetched (more than 5,120,000 bytes)')
  assert kept() == before


def test_two_files_of_one_name_do_not_meet(memory):
  memory.pipe('/other/w.npz', b'other')
  assert remote.fetch(ADDRESS).read_bytes() == DATA
  assert remote.fetch('memory://other/w.npz').read_bytes() == b'other'


def test_a_kept_file_that_has_changed(memory):
  place = remote.fetch(ADDRESS)
  place.write_bytes(DATA[:-1] + b'x')
  refused(ADDRESS, str(place), 'has changed since it was downloaded; delete it to fetch it again')
  place.unlink()
  memory.pipe('/bucket/a b/w.npz', b'new')
  assert remote.fetch(ADDRESS).read_bytes() == b'new'
  assert remote.fetch(ADDRESS).read_bytes() == b'new'
  place.with_name(f'{place.name}.sha256').write_bytes(b'\xff')
  refused(ADDRESS, 'has changed since it was downloaded')
  place.with_name(f'{place.name}.sha256').unlink()  # killed before it was written
  assert remote.fetch(ADDRESS).read_bytes() == b'new'


@pytest.mark.parametrize('error', [OSError('reset\nby peer'), KeyboardInterrupt(), None])
def test_half_a_download_leaves_nothing(memory, monkeypatch, error):
  class Broken:
    size, reads = 3000, 0

    def read(self, count):
      self.reads += 1
      if self.reads == 3 and error:
        raise error
      return b'x' * 1000 if self.reads < 3 else b''

    __enter__ = lambda self: self
    __exit__ = lambda self, *_: None

  monkeypatch.setattr(fsspec, 'open', lambda *_: Broken())
  if isinstance(error, KeyboardInterrupt):
    with pytest.raises(KeyboardInterrupt):
      remote.fetch(ADDRESS)
  else:
    reason = 'reset by peer' if error else 'received 2,000 of 3,000 bytes'
    refused(ADDRESS, 'cannot be fetched', reason, 'the connection')
  assert kept() == []
  monkeypatch.undo()


@pytest.mark.parametrize(
  'address, part',
  [
    ('gs://', 'names nothing; addresses are like'),
    ('hf:///', 'names nothing'),
    ('gs://bucket', "by the end of gs://bucket, ''"),
    ('gs://bucket/w.zip', "by the end of gs://bucket/w.zip, '.zip'"),
    ('hf://owner', 'is not a hub address'),
    ('file:///a%20b/w.npz', 'is local; give the path /a b/w.npz'),
    ('nosuch://a/w.npz', 'cannot be fetched (Protocol not known: nosuch'),
    ('memory://bucket/none.npz', 'cannot be fetched (/bucket/none.npz'),
    (f'memory://bucket/{"n" * 300}.npz', 'cannot be fetched'),
  ],
)
def test_addresses_that_give_nothing(memory, address, part):
  refused(address, address, part)


def test_a_cache_that_cannot_be_written(memory, tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  refused(ADDRESS, 'cannot be fetched', 'Not a directory')


@pytest.mark.parametrize('address, name', [('hf://a/b/w.npz', 'huggingface_hub'), ('gs://a/w.npz', 'fsspec')])
def test_a_library_that_is_missing(memory, monkeypatch, address, name):
  monkeypatch.setitem(sys.modules, name, None)
  refused(address, f"{address} needs {name}: python -m pip install -e '.[remote]'")


def test_a_library_of_fsspec_that_is_missing(memory, monkeypatch):
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  refused('gs://a/w.npz', 'gs://a/w.npz needs a library', 'gcsfs', "python -m pip install -e '.[remote]'")


def test_the_hub(tmp_path, monkeypatch):
  calls = []
  hub = types.SimpleNamespace(
    hf_hub_download=lambda repo, file: calls.append((repo, file)) or str(tmp_path / file),
    snapshot_download=lambda repo, allow_patterns: calls.append((repo, allow_patterns)) or str(tmp_path),
  )
  monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
  assert remote.fetch('hf://o/n/a/w.npz') == tmp_path / 'a/w.npz'
  assert remote.fetch('hf://o/n') == remote.fetch('hf://o/n/') == tmp_path
  assert calls == [('o/n', 'a/w.npz')] + [('o/n', ['config.json', 'model.safetensors'])] * 2

  def fails(*_, **__):
    raise ValueError('404\n\nnot found ' + 'x' * 1000)

  hub.hf_hub_download = fails
  refused('hf://o/n/w.npz', 'hf://o/n/w.npz cannot be fetched (404 not found', 'look at the address')
