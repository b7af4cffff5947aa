"""Files of a run: written whole or not at all, read or refused by name; the user's cache folder."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixer_jax.errors import MixerError


def cache_folder() -> Path:
  """Where this package keeps what it can make or fetch again: mixer_jax in XDG_CACHE_HOME, or in ~/.cache."""
  return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mixer_jax'


def cannot_write(path: Path, error: OSError, way_out: str = 'choose another --workdir') -> MixerError:
  return MixerError(f'cannot write {path} ({error.strerror}); free space, fix the permissions or {way_out}')


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
  part = path.with_name(f'{path.name}.part') if part is None else part
  with removed(part):
    yield part
    os.replace(part, path)


def write_text(path: Path, text: str) -> None:
  with reported(path), whole(path) as part:
    part.write_text(text, encoding='utf-8')


def write_json(path: Path, value: Any) -> None:
  write_text(path, json.dumps(value, indent=2) + '\n')


def read_json(path: Path) -> Any:
  """What a file of a run directory holds."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError) as error:
    raise MixerError(f'{path} cannot be read ({error}); restore it, or start again in another --workdir') from error
