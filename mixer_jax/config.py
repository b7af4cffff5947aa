"""Configs in: a Python file, or the name of a bundled one, and what the command line sets -> a dict.

Defaults come from the named parts, as do the keys that there are: see training/settings.py. Hence the flags are read
here: those of ml_collections set only keys that a file already has.
"""

import ast
import inspect
import re
import traceback
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mixer_jax.errors import MixerError, unknown
from mixer_jax.parts import Text

PACKAGE = Path(__file__).parent


def load(arguments: Sequence[str]) -> dict[str, Any]:
  """The config of `--config=FILE[:ARG] --config.key=value ...` as plain dicts.

  FILE is a path, or the name of a bundled config, with or without .py. What the command line sets are `parts.Text`.

  Refuses a missing file, one without get_config, what get_config refuses, an unknown flag.
  """
  place, values = _read_flags(arguments)
  if place is None:
    raise MixerError('no config; say which with --config=NAME[:ARG], a file or one of ' + ', '.join(bundled()))
  config = plain(_run(place))
  for key in sorted(values, key=lambda key: key.count('.')):  # whole sections first
    _set(config, key, values[key])
  return config


def bundled() -> dict[str, Path]:
  """The configs that come with the package, by name."""
  folder = PACKAGE / 'configs'  # in a wheel; in a checkout it is beside the package
  folder = folder if folder.is_dir() else PACKAGE.parent / 'configs'
  return {path.stem: path for path in sorted(folder.glob('*.py')) if not path.stem.startswith('_')}


def plain(value: Any) -> Any:
  """ConfigDicts -> dicts and tuples -> lists, all the way down: what JSON gives back."""
  if isinstance(value, (Mapping, ConfigDict)):
    return {k: plain(value[k]) for k in value}
  return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def _read_flags(arguments: Iterable[str]) -> tuple[str | None, dict[str, Text]]:
  """The value of --config, and those of --config.key by key; a value may also be the argument after its flag."""
  place, values, rest = None, {}, [*arguments]
  while rest:
    flag, equals, value = rest.pop(0).partition('=')
    match = re.fullmatch(r'--?config(?:\.([\w.:+-]+))?', flag)
    if not match:
      raise MixerError(f'unexpected argument {flag + equals + value!r}; options look like --config.key=value')
    follows = bool(rest) and not re.match(r'-[^\d]', rest[0])
    value = value if equals else rest.pop(0) if follows else None
    if key := match[1]:
      if '' in key.split('.'):
        raise MixerError(f'{flag} must be like --config.key=value')
      values[key] = Text('True' if value is None else value, values[key].given if key in values else ())
    elif not value:
      raise MixerError('--config names no config; --config=NAME[:ARG] takes a file or one of ' + ', '.join(bundled()))
    else:
      place = value
  return place, values


def _find(file: str) -> Path:
  """A path, else, for a name without a folder, a bundled config."""
  path, known = Path(file).expanduser(), bundled()
  if path.is_file():
    return path
  if file == path.name:  # './digits' is a path
    if path.name.removesuffix('.py') in known:
      return known[path.name.removesuffix('.py')]
    raise unknown('config', file, known, 'or the path of a file')
  near = sorted(p.name for p in path.parent.glob('*.py') if _is_config(p))
  raise MixerError(f'no config file {file!r}' + (f'; the folder {path.parent} has {", ".join(near)}' if near else ''))


def _is_config(path: Path) -> bool:
  try:
    text = path.read_text(encoding='utf-8', errors='replace')
  except OSError:  # a folder, a link that leads nowhere
    return False
  return re.search(r'^(def )?get_config\b', text, re.MULTILINE) is not None


def _run(place: str) -> ConfigDict | Mapping:
  """get_config() of FILE[:ARG]."""
  file, colon, argument = place.partition(':')
  path = _find(file)
  module = types.ModuleType(f'config_{path.stem}')
  module.__file__ = str(path)
  try:
    # Not imported: a file that is written anew within the second would give its old bytecode.
    exec(compile(path.read_bytes(), str(path), 'exec'), vars(module))
    get_config = getattr(module, 'get_config', None)
    if get_config is None:
      raise MixerError(f'{file} has no function get_config(arg=None)')
    if colon and not inspect.signature(get_config).parameters:
      raise MixerError(f'{file} takes no argument, not {argument!r}')
    config = get_config(argument) if colon else get_config()
  except MixerError:
    raise
  except ValueError as error:  # what a config says of its argument
    raise MixerError(f'{file}: {" ".join(str(error).split())}') from error
  except Exception as error:
    line = traceback.extract_tb(error.__traceback__)[-1].lineno
    where = '' if isinstance(error, SyntaxError) else f' (line {line})'
    raise MixerError(f'{file}: {type(error).__name__}: {" ".join(str(error).split())}{where}') from error
  if not isinstance(config, (ConfigDict, Mapping)):
    raise MixerError(f'{file}: get_config() gave {type(config).__name__}, but must give an ml_collections.ConfigDict')
  return config


def _set(config: dict[str, Any], key: str, value: Text) -> None:
  kind, *rest = key.split('.', 1)
  # The dots of `package.module:name`, an augmentation, are part of its name.
  *path, last = [kind, *(re.split(r'\.(?![\w.]*:)', rest[0]) if rest else [])]
  section = config
  for i, name in enumerate(path):
    inner = section.setdefault(name, {})
    if isinstance(inner, str):  # a part by its bare name
      inner = section[name] = {'name': inner}
    if not isinstance(inner, dict):
      raise MixerError(f'--config.{key}: {".".join(path[: i + 1])} is {inner!r} and has no keys')
    section = inner
  if value.lstrip().startswith('{'):
    section[last] = _literal(key, value)
  elif not (last == 'name' and section.get('name') == value):  # a name that stays takes the settings it had
    section[last] = value


def _literal(key: str, text: str) -> dict:
  try:
    value = ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
    raise MixerError(f"--config.{key}={text} is not a Python literal such as {{'name': 'sam', 'rho': 0.1}}") from error
  if not isinstance(value, dict):
    raise MixerError(f"--config.{key}={text} is a {type(value).__name__}, not a dict such as {{'name': 'sam'}}")
  return plain(value)
