"""Addresses: fetched once, kept with a checksum, never half; fsspec's file system in memory stands for the others."""

import sys
import types

import files
import fsspec
import pytest

from mixer_jax.errors import MixerError
from mixer_jax.weights import reading, remote


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'mixer_jax' / 'weights'


@pytest.fixture
def stored(tmp_path):
  """The address of an .npz in fsspec's memory."""
  files.write_npz(tmp_path / 'w.npz', files.theirs('original', files.mixer_arrays()))
  fsspec.filesystem('memory').pipe('/bucket/w.npz', (tmp_path / 'w.npz').read_bytes())
  yield 'memory://bucket/w.npz'
  fsspec.filesystem('memory').rm('/bucket', recursive=True)


def test_paths_stay_as_they_are(tmp_path):
  assert remote.fetch(str(tmp_path)) == tmp_path
  assert not remote.is_address('C:/x') and not remote.is_address('a/b') and remote.is_address('gs://b/w.npz')


def test_fetched_once_and_kept_with_its_checksum(stored, cache, capsys, monkeypatch):
  found = reading.read(stored)
  assert found.source == stored and len(found.arrays) == 30
  assert f'{stored}: sha256 {found.sha256}' in capsys.readouterr().out
  monkeypatch.setattr(fsspec, 'open', lambda *_: pytest.fail('fetched again'))
  assert reading.read(stored).sha256 == found.sha256
  kept = sorted(path.name.partition('-')[2] for path in cache.iterdir())
  assert kept == ['w.npz', 'w.npz.sha256']


def test_files_of_one_name_do_not_meet(stored):
  system = fsspec.filesystem('memory')
  other = files.theirs('original', {name: array + 1 for name, array in files.mixer_arrays().items()})
  system.pipe('/bucket/other/w.npz', files.npz_bytes(**other))
  first, second = (reading.read(address) for address in (stored, 'memory://bucket/other/w.npz'))
  assert first.sha256 != second.sha256


def test_what_was_kept_and_has_changed_is_refused(stored):
  path = remote.fetch(stored)
  path.write_bytes(path.read_bytes()[:-1] + b'x')
  with pytest.raises(MixerError, match='is not what it was; delete it'):
    remote.fetch(stored)


@pytest.mark.parametrize('error', [OSError('gone'), KeyboardInterrupt()], ids=['broken', 'ctrl-c'])
def test_half_a_download_is_not_used(error, stored, cache, monkeypatch):
  class Broken:
    size = 100

    def __enter__(self):
      self.chunks = iter([b'half'])
      return self

    def __exit__(self, *_):
      return False

    def read(self, _):
      try:
        return next(self.chunks)
      except StopIteration:
        raise error from None

  with monkeypatch.context() as patch:
    patch.setattr(fsspec, 'open', lambda *_: Broken())
    with pytest.raises((MixerError, KeyboardInterrupt)):
      remote.fetch(stored)
  assert list(cache.iterdir()) == []
  assert len(reading.read(stored).arrays) == 30


def test_a_file_that_came_short_is_not_used(stored, cache, monkeypatch):
  data = fsspec.filesystem('memory').cat('/bucket/w.npz')

  class Short:
    size = len(data)

    def __init__(self):
      self.chunks = iter([data[:100], b''])

    def __enter__(self):
      return self

    def __exit__(self, *_):
      return False

    def read(self, _):
      return next(self.chunks)

  monkeypatch.setattr(fsspec, 'open', lambda *_: Short())
  with pytest.raises(MixerError, match='100 bytes came of'):
    remote.fetch(stored)
  assert list(cache.iterdir()) == []


@pytest.mark.parametrize('address, part', [
  ('memory://bucket/none.npz', 'cannot be fetched'), ('gs://', 'names nothing'), ('hf://', 'names nothing'),
  ('file:///tmp/w.npz', 'give the path /tmp/w.npz'), ('nowhere://x/w.npz', 'cannot be fetched'),
  ('hf://name', 'no address of the hub'),
])  # fmt: skip
def test_addresses_that_lead_nowhere(address, part):
  with pytest.raises(MixerError, match=part) as caught:
    remote.fetch(address)
  assert '\n' not in str(caught.value)


def test_the_hub(monkeypatch, tmp_path):
  asked = []
  hub = types.ModuleType('huggingface_hub')
  hub.hf_hub_download = lambda repository, name: asked.append((repository, name)) or str(tmp_path / name)
  hub.snapshot_download = lambda repository, allow_patterns: asked.append((repository, allow_patterns)) or str(tmp_path)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
  assert remote.fetch('hf://me/mixer/a/w.safetensors') == tmp_path / 'a' / 'w.safetensors'
  assert remote.fetch('hf://me/mixer') == tmp_path
  assert asked == [('me/mixer', 'a/w.safetensors'), ('me/mixer', ['config.json', 'model.safetensors'])]

  def offline(*_):
    raise ConnectionError('no\nnetwork')

  hub.hf_hub_download = offline
  with pytest.raises(MixerError, match=r'cannot be fetched \(no network\)'):
    remote.fetch('hf://me/mixer/w.npz')


def test_a_library_that_is_missing_is_named_with_the_way_to_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(MixerError, match=r"needs huggingface_hub: python -m pip install -e '.\[remote\]'"):
    remote.fetch('hf://me/mixer/w.npz')
