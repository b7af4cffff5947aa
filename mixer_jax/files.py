"""Files of a run: written whole or not at all, read or refused by name; the user's cache folder."""

import collections
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixer_jax.errors import MixerError

MOST_JSON = 2**25  # bytes of a JSON file; lists of lists take about 30 times as much memory
DEEPEST = 64  # levels of lists and dicts in a JSON file
LARGEST = 2**64  # of integers in a JSON file
START = 512  # bytes by which a file is told from what stands in its place


def cache_folder() -> Path:
  """Where this package keeps what it can make or fetch again: mixer_jax in XDG_CACHE_HOME, or in ~/.cache."""
  return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mixer_jax'


def cannot_write(path: Path | str, error: OSError, way_out: str = 'choose another --workdir') -> MixerError:
  return MixerError(f'cannot write {path} ({error.strerror or error}); free space, fix the permissions or {way_out}')


@contextlib.contextmanager
def reported(path: Path) -> Iterator[None]:
  """What the disk refuses, as an error that names the path."""
  try:
    yield
  except OSError as error:
    raise cannot_write(path, error) from error


@contextlib.contextmanager
def removed(part: Path) -> Iterator[None]:
  """Removes a file or a folder on leaving, whatever happens."""
  try:
    yield
  finally:
    if part.is_dir():
      shutil.rmtree(part)
    else:
      part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole(path: Path, part: Path | None = None) -> Iterator[Path]:
  """A place beside `path` to write a file or a folder to; it becomes `path` at the end, or is removed on an error."""
  check_no_device(path)
  part = path.with_name(f'{path.name}.part') if part is None else part
  with removed(part):
    yield part
    os.replace(part, path)


def check_no_device(path: Path) -> None:
  """Refuses /dev/full and the like, in whose place a file would be put."""
  if path.exists() and not path.is_file() and not path.is_dir():
    raise MixerError(f'{path} is neither a file nor a folder, so nothing is written there; choose another name')


def check_output(path: Path) -> None:
  """Refuses an --output that cannot be made, before any work."""
  check_no_device(path)
  if not path.absolute().parent.is_dir():
    raise MixerError(f'--output={path} lies in {path.absolute().parent}, which is no folder; make it first')


def check_writable(folder: Path) -> None:
  """Makes a folder where there is none; refuses one in which no file can be written."""
  with reported(folder):
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass


def write_text(path: Path, text: str) -> None:
  with reported(path), whole(path) as part:
    part.write_text(text, encoding='utf-8')


def write_json(path: Path, value: Any) -> None:
  """Writes what read_json reads; refuses more."""
  text = json.dumps(value, indent=2) + '\n'
  if len(text) > MOST_JSON:  # ASCII
    raise MixerError(f'{path} would have {len(text):,} bytes, above the limit of {MOST_JSON:,}; use fewer categories')
  write_text(path, text)


def read_json(path: Path) -> Any:
  """What a file of a run directory holds."""
  try:
    return load_json(path)
  except (OSError, ValueError) as error:
    raise MixerError(f'{path} cannot be read ({error}); restore it, or start again in another --workdir') from error


def load_json(path: Path) -> Any:
  """What a JSON file holds; raises OSError, or ValueError for more than MOST_JSON bytes and what parse_json refuses."""
  if (size := path.stat().st_size) > MOST_JSON:
    raise ValueError(f'it has {size:,} bytes, above the limit of {MOST_JSON:,}')
  content = path.read_bytes()
  if what := stand_in(content[:START]):
    raise ValueError(f'it is {what}')
  return parse_json(content.decode())


def parse_json(text: str) -> Any:
  """What a JSON text by anyone says; raises ValueError for a name twice, deep nesting, and integers beyond 64 bits."""
  try:
    value = json.loads(text, parse_int=_integer, object_pairs_hook=_once)
  except RecursionError as error:
    raise ValueError(f'it is nested more than {DEEPEST} deep') from error
  level = _inside([value])
  for _ in range(DEEPEST):
    level = [part for parts in level for part in _inside(parts)]
  if level:
    raise ValueError(f'it is nested more than {DEEPEST} deep')
  return value


def _inside(parts: dict | list) -> list[dict | list]:
  """The dicts and lists in a dict or a list."""
  return [part for part in (parts.values() if isinstance(parts, dict) else parts) if isinstance(part, (dict, list))]


def _integer(text: str) -> int:
  if len(text) > 21 or abs(int(text)) >= LARGEST:
    raise ValueError(f'an integer of {len(text):,} digits, {text[:20]}...')
  return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError(f'it has {collections.Counter(name for name, _ in pairs).most_common(1)[0][0]!r:.80} twice')
  return found


def stand_in(start: bytes) -> str:
  """What stands in the place of a file that begins so, and the way out, in words; '' if it seems to be the file."""
  if start.startswith(b'version https://git-lfs.github.com/spec/'):
    return 'a Git LFS pointer in place of the file; run `git lfs pull` where it was cloned'
  if start.lstrip(b'\xef\xbb\xbf \t\r\n').lower().startswith((b'<!doctype html', b'<html', b'<?xml')):
    return 'a web page in place of the file; download the file itself'
  return ''


def check_start(path: str | os.PathLike) -> None:
  """Refuses a file in whose place something else stands; says nothing of one that cannot be read."""
  with contextlib.suppress(OSError), open(path, 'rb') as file:
    if what := stand_in(file.read(START)):
      raise MixerError(f'{path} is {what}')
