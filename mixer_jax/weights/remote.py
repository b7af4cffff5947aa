"""Files at hf://, gs:// and other addresses: fetched when the user gives one, kept, and checked when used again.

`hf://OWNER/NAME/PATH` is the Hugging Face hub's, through huggingface_hub, which has its own cache and checks; a model
folder is `hf://OWNER/NAME`. All else, such as gs://, goes through fsspec into the user's cache, beside its SHA-256.
Both are in the extra `remote`.
"""

import contextlib
import hashlib
import os
import re
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import tqdm

from mixer_jax import files
from mixer_jax.errors import MixerError, unknown
from mixer_jax.weights.archives import INDEX, READERS, checksum, end_of

CHUNK = 2**22
MOST_BYTES = 2**34  # of a file: twice what archives.MOST_BYTES allows of arrays
INSTALL = "python -m pip install -e '.[remote]' where this project lies"


def is_address(path: str) -> bool:
  return re.match(r'[a-z][a-z0-9+.-]+://', path) is not None


def split(address: str) -> tuple[str, str]:
  """('w.pth', 'state_dict_ema') of w.pth#state_dict_ema; whatever else, and the name of a file, stays whole."""
  match = re.fullmatch(r'(.+\.(?:pth|pt|bin|ckpt|pth\.tar))#([^/#]+)', address, re.IGNORECASE | re.DOTALL)
  return (match[1], match[2]) if match and not os.path.exists(address) else (address, '')


def fetch(address: str) -> Path:
  """The local path of an address, fetched where it is not kept yet; a path is returned as it is."""
  if not is_address(address):
    return Path(os.path.expanduser(address))  # Path.expanduser() raises where there is no such user
  scheme, _, rest = address.partition('://')
  if not rest.strip('/'):
    raise MixerError(f'{address} names nothing; addresses are like hf://OWNER/NAME/PATH and gs://BUCKET/PATH')
  if scheme == 'file':
    raise MixerError(f'{address} is local; give the path {urllib.parse.unquote(rest)}')
  if end_of(rest) == INDEX:
    raise MixerError(f'{address} is an index of shards; download the folder that it lies in, and name the index there')
  return _from_hub(address, rest) if scheme == 'hf' else _from_fsspec(address)


def cache_folder() -> Path:
  """Where fetched files are kept."""
  return files.cache_folder() / 'weights'


def _from_hub(address: str, rest: str) -> Path:
  owner, _, rest = rest.strip('/').partition('/')
  name, _, path = rest.partition('/')
  if not name:
    raise MixerError(f'{address} is not a hub address; expected hf://OWNER/NAME/PATH')
  with _reported(address):
    import huggingface_hub as hub

    if path:
      return Path(hub.hf_hub_download(f'{owner}/{name}', path))
    return Path(hub.snapshot_download(f'{owner}/{name}', allow_patterns=['config.json', 'model.safetensors']))


def _from_fsspec(address: str) -> Path:
  if not end_of(address.rpartition('/')[2]):  # before a long download
    raise unknown(f'kind of weights, by the end of {address},', Path(address).suffix, READERS)
  with _reported(address):
    import fsspec

    # The whole address in the name: two files of one name must not meet.
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    place = cache_folder() / f'{key}-{address.rpartition("/")[2]}'
    kept = place.with_name(f'{place.name}.sha256')
    if place.is_file() and kept.is_file():
      if checksum(place) != kept.read_text(encoding='ascii', errors='replace').strip():
        raise MixerError(
          f'{place}, fetched from {address}, has changed since it was downloaded; delete it to fetch it again'
        )
      return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with fsspec.open(address, 'rb') as source, tempfile.TemporaryDirectory(dir=place.parent) as folder:
      part = Path(folder, 'part')
      total = getattr(source, 'size', None)
      with part.open('wb') as target, tqdm.tqdm(total=total, unit='B', unit_scale=True, desc=place.name) as bar:
        while chunk := source.read(CHUNK):
          if target.tell() + len(chunk) > MOST_BYTES:
            raise OSError(f'more than {MOST_BYTES:,} bytes')
          target.write(chunk)
          bar.update(len(chunk))
      if total is not None and part.stat().st_size != total:
        raise OSError(f'received {part.stat().st_size:,} of {total:,} bytes')
      digest = checksum(part)
      kept.unlink(missing_ok=True)  # of an earlier file
      os.replace(part, place)
    kept.write_text(f'{digest}\n', encoding='ascii')
  return place


@contextlib.contextmanager
def _reported(address: str) -> Iterator[None]:
  """Turns errors of an address into one-line MixerErrors."""
  try:
    yield
  except MixerError:
    raise
  except ImportError as error:
    if error.name in ('fsspec', 'huggingface_hub'):
      raise MixerError(f'{address} needs {error.name}: {INSTALL}') from error
    # fsspec imports what a kind of address needs when it sees one.
    raise MixerError(
      f'{address} needs a library ({_words(error)}); {INSTALL} brings those of hf:// and gs://'
    ) from error
  except Exception as error:  # A file system can raise anything: its own errors, those of requests, of the disk.
    raise MixerError(
      f'{address} cannot be fetched ({_words(error)}); look at the address and the connection'
    ) from error


def _words(error: Exception) -> str:
  return ' '.join(str(error).split())[:300] or type(error).__name__
