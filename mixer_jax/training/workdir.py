"""A run directory's config, classes and table schema, and checks that they match the run."""

import contextlib
import fcntl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mixer_jax import parts
from mixer_jax.data.tables.schema import Schema
from mixer_jax.errors import MixerError
from mixer_jax.files import read_json, reported, write_json
from mixer_jax.training.settings import outside_names, resolve, upgrade

HARDWARE = ('mesh.', 'data.workers', 'data.resident_mib')  # keys that a resumed run may change


def check_config(folder: Path, config: dict) -> None:
  """Rejects a run directory of another config, naming the first key that differs; HARDWARE keys may differ.

  Args:
    config: resolved.
  """
  if folder.exists() and not folder.is_dir():
    raise MixerError(f'--workdir={folder} is a file, but must be a directory')
  if not (folder / 'config.json').exists():
    return
  stored, given = (_flat(c) for c in (read_config(folder), config))
  for key in sorted({*stored, *given}):
    if not key.startswith(HARDWARE) and stored.get(key) != given.get(key):
      raise MixerError(
        f'{folder} is the run of another config: {key} is {stored.get(key, "missing")!r} there, but'
        f' {given.get(key, "missing")!r} here; choose another --workdir, and begin with the weights of this run by'
        f' --config.init_from.weights={folder}'
      )


def check_schema(folder: Path, schema: Schema | None) -> None:
  """Rejects training rows with another schema than the run's: the model's inputs would change their meaning."""
  path = folder / 'schema.json'
  if path.exists() and (schema is None or Schema.from_json(read_json(path)).to_json() != schema.to_json()):
    raise MixerError(
      f'the training rows are not those that {folder} began with: their schema differs from {path}; give the run its'
      ' original data, or choose another --workdir'
    )


def read_labels(folder: Path) -> list[str]:
  """The names of a run's classes."""
  labels = read_json(folder / 'labels.json')
  if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
    raise MixerError(f'{folder}/labels.json is not a list of names; restore it, or start again in another --workdir')
  return labels


def check_classes(folder: Path, here: Sequence[str]) -> None:
  """Rejects data whose classes are not those of the run: the labels would change their meaning."""
  stored = read_labels(folder) if (folder / 'labels.json').exists() else list(here)
  if stored != list(here):
    i = next((i for i, (a, b) in enumerate(zip(stored, here, strict=False)) if a != b), min(len(stored), len(here)))
    name = lambda names: repr(names[i]) if i < len(names) else 'missing'
    raise MixerError(
      f'class {i} is {name(stored)} in the run {folder}, but {name(here)} in these data; give it the data that it was'
      ' trained on, or choose another --workdir'
    )


def read_config(folder: Path) -> dict:
  """The resolved config of a run directory, also one from an earlier version.

  Raises:
    MixerError: no run directory, or a user module that the run needs is missing (the message tells where it was).
  """
  if not (folder / 'config.json').exists():
    raise MixerError(f'{folder} is no run directory: it has no config.json')
  config = read_json(folder / 'config.json')
  if not isinstance(config, dict):
    raise MixerError(f'{folder}/config.json is not a config; restore it, or start again in another --workdir')
  modules = folder / 'modules.json'
  for module, place in (read_json(modules) if modules.exists() else {}).items():
    try:
      parts.import_module(module)
    except (Exception, SystemExit) as error:  # A module of the user's raises what it likes.
      lost = isinstance(error, ModuleNotFoundError) and f'{module}.'.startswith(f'{error.name}.')
      reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
      why = f'found now ({error}); run in its folder, or put that on PYTHONPATH' if lost else f'imported now ({reason})'
      raise MixerError(
        f'the run {folder} was trained with the module {module!r}, then at {place}, which cannot be {why}'
      ) from error
  try:
    config = upgrade(config)
  except (AttributeError, KeyError, TypeError, ValueError) as error:  # of sections of other kinds than expected
    raise MixerError(f'{folder}/config.json is not a config ({error}); restore it, or start again elsewhere') from error
  try:
    return resolve(config)
  except MixerError as error:
    if not modules.exists():
      raise
    raise MixerError(f'{error} The run {folder} was trained with {", ".join(read_json(modules).values())}.') from error


@contextlib.contextmanager
def open_for_training(folder: Path, config: dict, classes: Sequence[str], schema: Schema | None) -> Iterator[None]:
  """Creates the run directory and locks it against other training processes.

  Raises:
    MixerError: it cannot be written, or another process is training there.
  """
  with reported(folder):
    (folder / 'figures').mkdir(parents=True, exist_ok=True)
    lock = (folder / '.lock').open('wb')
  with lock:  # closing the file, or the end of the process, releases the lock
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise MixerError(f'another process is training in {folder}; wait for it, or choose another --workdir') from error
    write_json(folder / 'config.json', config)
    write_json(folder / 'labels.json', list(classes))
    if schema is not None:
      write_json(folder / 'schema.json', schema.to_json())
    if modules := {name.partition(':')[0] for name in outside_names(config)}:
      places = {name: str(getattr(parts.import_module(name), '__file__', None)) for name in sorted(modules)}
      write_json(folder / 'modules.json', places)
    yield


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  if not isinstance(tree, dict) or not tree:  # an empty section counts: {'flip': {}} is not {}
    return {prefix: tree}
  return {k: v for name, part in tree.items() for k, v in _flat(part, f'{prefix}.{name}' if prefix else name).items()}
