"""Files at hf://, gs:// and other addresses: fetched when the user gives one, kept, and checked when used again.

`hf://OWNER/NAME/PATH` is the Hugging Face hub's, through huggingface_hub, which has its own cache and checks; a model
folder is `hf://OWNER/NAME`. All else, such as gs://, goes through fsspec into the user's cache, beside its SHA-256.
Both are in the extra `remote`.
"""

import contextlib
import hashlib
import importlib
import os
import re
import tempfile
import urllib.parse
from pathlib import Path
from types import ModuleType

import tqdm

from mixer_jax.errors import MixerError
from mixer_jax.weights.archives import checksum

CHUNK = 2**22


def is_address(path: str) -> bool:
  return re.match(r'[a-z][a-z0-9+.-]+://', path) is not None


def fetch(address: str) -> Path:
  """The local path of an address; a path is returned as it is.

  Raises:
    MixerError: an address that cannot be fetched, a library that is missing, a file kept that has changed.
  """
  if not is_address(address):
    return Path(address).expanduser()
  scheme, _, rest = address.partition('://')
  if not rest.strip('/'):
    raise MixerError(f'{address} names nothing; addresses are like hf://OWNER/NAME/PATH and gs://BUCKET/PATH')
  if scheme == 'file':
    raise MixerError(f'{address} is here; give the path {urllib.parse.unquote(rest)}')
  return _from_hub(address, rest) if scheme == 'hf' else _from_fsspec(address)


def cache_folder() -> Path:
  """Where fetched files are kept."""
  home = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
  return home / 'mixer_jax' / 'weights'


def _from_hub(address: str, rest: str) -> Path:
  owner, name, *path = rest.strip('/').split('/')[:2] + ['/'.join(rest.strip('/').split('/')[2:])]
  if not name:
    raise MixerError(f'{address} is no address of the hub; they are like hf://OWNER/NAME/PATH')
  hub = _library('huggingface_hub', address)
  try:
    if path[0]:
      return Path(hub.hf_hub_download(f'{owner}/{name}', path[0]))
    return Path(hub.snapshot_download(f'{owner}/{name}', allow_patterns=['config.json', 'model.safetensors']))
  except Exception as error:  # The hub's, of requests, of the disk: whatever it is, the address did not give a file.
    raise _cannot(address, error) from error


def _from_fsspec(address: str) -> Path:
  fsspec = _library('fsspec', address)
  # The whole address in the name: two files of one name must not meet.
  key = hashlib.sha256(address.encode()).hexdigest()[:16]
  place = cache_folder() / f'{key}-{address.rstrip("/").rpartition("/")[2]}'
  kept = place.with_name(f'{place.name}.sha256')
  if place.is_file() and kept.is_file():
    if checksum(place) != kept.read_text().strip():
      raise MixerError(f'{place}, fetched from {address}, is not what it was; delete it to fetch it again')
    return place
  part = None
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    with (
      fsspec.open(address, 'rb') as source,
      tempfile.NamedTemporaryFile(dir=place.parent, suffix='.part', delete=False) as target,
      tqdm.tqdm(total=getattr(source, 'size', None), unit='B', unit_scale=True, desc=place.name) as bar,
    ):
      part = Path(target.name)
      while chunk := source.read(CHUNK):
        target.write(chunk)
        bar.update(len(chunk))
      if bar.total is not None and bar.n != bar.total:
        raise OSError(f'{bar.n:,} bytes came of {bar.total:,}')
    digest = checksum(part)
    os.replace(part, place)
    kept.write_text(f'{digest}\n')
  except Exception as error:  # Each file system of fsspec raises what it likes.
    raise _cannot(address, error) from error
  finally:
    if part is not None:
      with contextlib.suppress(FileNotFoundError):
        part.unlink()
  print(f'{address}: sha256 {digest}, kept as {place}')
  return place


def _cannot(address: str, error: Exception) -> MixerError:
  reason = ' '.join(str(error).split())[:300] or type(error).__name__
  return MixerError(f'{address} cannot be fetched ({reason}); look at the address and the connection')


def _library(name: str, address: str) -> ModuleType:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise MixerError(f"{address} needs {name}: python -m pip install -e '.[remote]' where this project lies") from error
