"""Configs in: a Python file and its overrides -> a ConfigDict; a section of it -> a checked function call."""

import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from mixer_jax.errors import MixerError, unknown


def load(arguments: Sequence[str]) -> dict[str, Any]:
  """The config of `--config=FILE[:ARG] --config.key=value ...` as plain dicts.

  Raises:
    MixerError: no such file, a file without get_config, an unknown key, a value of another type, an unknown flag.
  """
  values = flags.FlagValues()
  arguments = ['mixer_jax', *arguments]
  holder = config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=arguments)
  named = [
    a.split('=', 1)[1] if '=' in a else ''.join(arguments[i + 1 : i + 2])
    for i, a in enumerate(arguments) if a.split('=')[0] in ('--config', '-config')
  ]  # fmt: skip
  file = named[-1].split(':', 1)[0] if named else ''
  if named and not Path(file).is_file():
    near = sorted(p.name for p in Path(file).parent.glob('*.py')) if Path(file).parent.is_dir() else []
    known = f'; the folder {Path(file).parent} has {", ".join(near)}' if near else ''
    raise MixerError(f'no config file {file!r}{known}')
  try:
    rest = values(arguments)[1:]
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise MixerError(f'{file or "config"}: {_one_line(error)}') from error
  if rest:
    raise MixerError(f'unexpected argument {rest[0]!r}; options look like --config.key=value')
  config = holder.value
  if config is None:
    raise MixerError('no config; say which with --config=configs/NAME.py[:ARG]')
  if not isinstance(config, ConfigDict):
    raise MixerError(f'{file}: get_config() gave {type(config).__name__}, but must give an ml_collections.ConfigDict')
  return plain(config)


def plain(value: Any) -> Any:
  """ConfigDicts -> dicts and tuples -> lists, all the way down: what JSON gives back."""
  if isinstance(value, (Mapping, ConfigDict)):
    return {k: plain(value[k]) for k in value}
  return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def call(function: Callable, settings: Mapping[str, Any], what: str, **context: Any) -> Any:
  """function(**settings, **context), with settings checked against the function's signature first.

  So a key that the function does not take cannot be in a config, and no key can go unread. Arguments of the
  function that the settings lack and that are not its own default come from `context`, as far as it takes them.

  Raises:
    MixerError: an unknown or missing key, or a value of another type, by name as `what.key`.
  """
  # A class is asked for its __init__: the signature of an nnx.Module itself is that of its metaclass.
  target = function.__init__ if inspect.isclass(function) else function
  parameters = {k: p for k, p in inspect.signature(target, eval_str=True).parameters.items() if k != 'self'}
  open_keys = {k: p for k, p in parameters.items() if k not in context}
  for key, value in settings.items():
    if key not in open_keys:
      raise unknown(f'key {what}.{key}: there is no', key, open_keys)
    kind = open_keys[key].annotation
    if not _fits(value, kind):
      name = kind.__name__ if isinstance(kind, type) else str(kind)
      raise MixerError(f'{what}.{key} is {value!r} ({type(value).__name__}), but must be {name}')
  for key, parameter in open_keys.items():
    if key not in settings and parameter.default is parameter.empty:
      raise MixerError(f'{what}.{key} is missing; set it in the config ({_kind(parameter.annotation)})')
  given = {k: v for k, v in context.items() if k in parameters}
  return function(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}, **given)


def named(table: Mapping[str, Callable | str], settings: Mapping[str, Any], what: str, **context: Any) -> Any:
  """call() of the function that settings['name'] names in a table, itself or as 'module:name'."""
  if 'name' not in settings:
    raise MixerError(f'{what}.name is missing; one of {", ".join(sorted(table))}')
  if not isinstance(settings['name'], str) or settings['name'] not in table:
    raise unknown(f'{what}.name', settings['name'], table)
  function = table[settings['name']]
  function = pkgutil.resolve_name(function) if isinstance(function, str) else function
  return call(function, {k: v for k, v in settings.items() if k != 'name'}, what, **context)


def _fits(value: Any, kind: Any) -> bool:
  origin = typing.get_origin(kind)
  if kind is inspect.Parameter.empty or kind is Any:
    return True
  if origin is typing.Annotated:  # a part by name, which its model makes
    return isinstance(value, (str, Mapping))
  if origin in (typing.Union, types.UnionType):
    return any(_fits(value, k) for k in typing.get_args(kind))
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      return False
    kinds = typing.get_args(kind)
    kinds = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
    return len(value) == len(kinds) and all(map(_fits, value, kinds))
  kind = origin or kind
  if kind in (int, float) and isinstance(value, bool):
    return False
  return isinstance(value, (int, float) if kind is float else kind)


def _kind(kind: Any) -> str:
  return kind.__name__ if isinstance(kind, type) else str(kind)


def _one_line(error: Exception) -> str:
  # ml_collections wraps the KeyError of an unknown key in an AttributeError.
  error = error.args[0] if error.args and isinstance(error.args[0], KeyError) else error
  text = str(f'unknown key {error.args[0]}' if isinstance(error, KeyError) and error.args else error).strip()
  # What a config says of its argument stands below the whole traceback.
  last = text.rpartition('\n')[2]
  return last.removeprefix('ValueError: ') if last.startswith('ValueError: ') else ' '.join(text.split())
