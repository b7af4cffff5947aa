"""What a run directory is made of: its config, its classes, its table's schema, and that they are those of the run."""

import fcntl
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from mixer_jax.data.tables.schema import Schema
from mixer_jax.errors import MixerError
from mixer_jax.training.logging import cannot_write, write_json

HARDWARE = ('mesh.', 'data.workers', 'data.resident_mib')  # keys in which a resumed run may differ


def check_workdir(workdir: Path, config: dict) -> None:
  """Refuses a run directory of another config, naming the first key that differs; the hardware's may."""
  path = workdir / 'config.json'
  if workdir.exists() and not workdir.is_dir():
    raise MixerError(f'--workdir={workdir} is a file, but must be a directory')
  if not path.exists():
    return
  stored, given = (_flat(_of_run(c)) for c in (read_config(workdir), config))
  for key in sorted({*stored, *given}):
    if not key.startswith(HARDWARE) and stored.get(key) != given.get(key):
      raise MixerError(
        f'{workdir} is the run of another config: {key} is {stored.get(key, "missing")!r} there, but'
        f' {given.get(key, "missing")!r} here; choose another --workdir'
      )


def check_schema(workdir: Path, schema: Schema | None) -> None:
  """Refuses a table that teaches another schema than the run began with: its numbers would mean something else."""
  path = workdir / 'schema.json'
  if path.exists() and read_json(path) != json.loads(json.dumps(schema.to_json())):
    raise MixerError(
      f'the training rows are not those that {workdir} began with: their schema is not that of {path}; give the run'
      ' its data again, or choose another --workdir'
    )


def read_config(workdir: Path) -> dict:
  """The resolved config of a run directory."""
  if not (workdir / 'config.json').exists():
    raise MixerError(f'{workdir} is no run directory: it has no config.json')
  config = read_json(workdir / 'config.json')
  if not isinstance(config, dict):
    raise MixerError(f'{workdir}/config.json holds no config; restore it, or start again in another --workdir')
  return config


def read_json(path: Path) -> Any:
  """What a file of a run directory holds."""
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise MixerError(f'{path} cannot be read ({error}); restore it, or start again in another --workdir') from error


def start_workdir(workdir: Path, config: dict, classes: tuple[str, ...], schema: Schema | None) -> IO:
  """Makes the run directory; the file it returns is a lock, gone when it is closed or the process ends.

  Raises:
    MixerError: it cannot be written, or another process trains there now.
  """
  try:
    (workdir / 'figures').mkdir(parents=True, exist_ok=True)
    lock = (workdir / '.lock').open('w')
  except OSError as error:
    raise cannot_write(workdir, error) from error
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    lock.close()
    raise MixerError(f'another process is training in {workdir}; wait for it, or choose another --workdir') from error
  write_json(workdir / 'config.json', config)
  write_json(workdir / 'labels.json', list(classes))
  if schema is not None:
    write_json(workdir / 'schema.json', schema.to_json())
  return lock


def check_classes(workdir: Path, stored: Sequence[str], here: Sequence[str]) -> None:
  """Refuses data whose classes are not those that the run was trained on: its labels would mean something else."""
  if list(stored) != list(here):
    i = next((i for i, (a, b) in enumerate(zip(stored, here, strict=False)) if a != b), min(len(stored), len(here)))
    name = lambda names: repr(names[i]) if i < len(names) else 'missing'
    raise MixerError(
      f'class {i} is {name(stored)} in the run {workdir}, but {name(here)} in the data here; give it the data it was'
      ' trained on, or choose another --workdir'
    )


def _of_run(config: dict) -> dict:
  """A config without an init_from that names no weights: runs of before there was one are the same."""
  return {k: v for k, v in config.items() if k != 'init_from' or v.get('weights')}


def _flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  if not isinstance(tree, dict) or not tree:  # An empty section counts: {'flip': {}} is not {}.
    return {prefix: tree}
  return {k: v for name, part in tree.items() for k, v in _flat(part, f'{prefix}.{name}' if prefix else name).items()}
