"""The parts that a config names: a short name, or `module:name` of anything importable -> a call, its settings checked.

What a part takes is its signature. Keyword arguments without a default must be in the config, those with one may be;
arguments that the run itself knows (`context`: the shape of an image, a schedule, random numbers) are never settings.
"""

import ast
import importlib
import inspect
import os
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mixer_jax.errors import MixerError, unknown

Table = Mapping[str, Callable | str]  # short names -> parts, or where they are: 'module:name'


class Text(str):
  """A value from the command line: text until a signature says what it is."""


class Missing(MixerError):
  """Settings without a default that a config lacks, all of them in `keys`."""

  def __init__(self, keys: Collection[str]):
    super().__init__(f'the config lacks {", ".join(keys)}; set {"it" if len(keys) == 1 else "them"}')
    self.keys = tuple(keys)


def find(name: Any, table: Table, what: str) -> Callable:
  """What a name stands for: an entry of a table, or `module:name` of anything importable, the current folder included.

  Raises:
    MixerError: an unknown short name, a module that cannot be imported, a name that it does not have.
  """
  if not isinstance(name, str) or (name not in table and ':' not in name):
    raise unknown(what, name, table, 'or module:name of your own')
  target = table.get(name, name)
  return _imported(target, what) if isinstance(target, str) else target


def is_outside(name: str, table: Table) -> bool:
  """Whether a name is `module:name`, so that opening it imports a user's module."""
  return name not in table and ':' in name


def _imported(target: str, what: str) -> Callable:
  module = target.partition(':')[0]
  here = os.getcwd()
  if here not in sys.path:  # `python -m` has it there, an installed command has not
    sys.path.insert(0, here)
  try:
    importlib.import_module(module)
  except ModuleNotFoundError as error:
    if error.name and (module == error.name or module.startswith(f'{error.name}.')):
      raise MixerError(
        f'{what} is {target!r}, but there is no module {error.name!r} in {here} or on the path of Python; run where it'
        ' lies, or set PYTHONPATH to its folder'
      ) from error
    raise MixerError(f'{what} is {target!r}, but {module} needs {error.name}, which is not installed') from error
  except Exception as error:  # A module of the user's raises what it likes.
    raise MixerError(f'{what} is {target!r}, but importing {module} fails: {type(error).__name__}: {error}') from error
  try:
    found = pkgutil.resolve_name(target)
  except (AttributeError, ValueError) as error:
    public = [name for name in vars(sys.modules[module]) if not name.startswith('_')]
    raise unknown(f'{what}: name in the module {module}', target.partition(':')[2], public) from error
  if not callable(found):
    raise MixerError(f'{what} is {target!r}, which is a {type(found).__name__} and cannot be called')
  return found


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
  """What a function or class takes by name."""
  # A class is asked for its __init__: the signature of an nnx.Module itself is that of its metaclass.
  target = function.__init__ if inspect.isclass(function) else function
  try:
    found = inspect.signature(target, eval_str=True).parameters
  except NameError:  # annotations for type checkers alone
    found = inspect.signature(target).parameters
  fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
  return {k: p for k, p in found.items() if k != 'self' and p.kind not in fixed}


def resolve(
  function: Callable, settings: Mapping[str, Any], what: str, context: Collection[str] = ()
) -> dict[str, Any]:
  """All settings of a part, checked against its signature: those given, and the defaults of the others.

  A parameter annotated `Annotated[dict, table]` is a part itself, `{'name': ...}`, and resolved likewise.

  Args:
    what: the name of the section in the config, for messages.
    context: the names of arguments that are not settings.

  Raises:
    Missing: settings without a default that are not given.
    MixerError: an unknown key, or a value of another type, by name as `what.key`.
  """
  takes = {k: p for k, p in parameters(function).items() if k not in context}
  unknown_keys = [key for key in settings if key not in takes]
  if unknown_keys:
    raise unknown(f'key {what}.{unknown_keys[0]}: there is no', unknown_keys[0], takes)
  result, missing = {}, []
  for key, parameter in takes.items():
    if key not in settings and parameter.default is parameter.empty:
      missing.append(f'{what}.{key} ({_kind(parameter.annotation)})')
      continue
    result[key] = _checked(settings.get(key, parameter.default), parameter.annotation, f'{what}.{key}')
  if missing:
    raise Missing(missing)
  return result


def resolve_named(table: Table, settings: Any, what: str, context: Collection[str] = ()) -> dict[str, Any]:
  """resolve() of the part that settings['name'] names, `name` first; a bare name is a part with its defaults."""
  settings = {'name': settings} if isinstance(settings, str) else settings
  if not isinstance(settings, Mapping):
    raise MixerError(f"{what} is {settings!r}, but must be a dict, {{'name': ...}}")
  if 'name' not in settings:
    raise Missing([f'{what}.name (one of {", ".join(sorted(table))}, or module:name)'])
  function = find(settings['name'], table, f'{what}.name')
  rest = {k: v for k, v in settings.items() if k != 'name'}
  return {'name': str(settings['name']), **resolve(function, rest, what, context)}


def call(function: Callable, settings: Mapping[str, Any], what: str, **context: Any) -> Any:
  """function(**settings, **context): settings resolved, of the context what the function takes.

  Raises:
    MixerError: what `resolve` refuses.
  """
  given = {k: tuple(v) if isinstance(v, list) else v for k, v in resolve(function, settings, what, context).items()}
  takes = parameters(function)
  return function(**given, **{k: v for k, v in context.items() if k in takes})


def named(table: Table, settings: Any, what: str, **context: Any) -> Any:
  """call() of the part that settings['name'] names; a bare name is a part with its defaults."""
  settings = resolve_named(table, settings, what, context)
  function = find(settings['name'], table, f'{what}.name')
  return call(function, {k: v for k, v in settings.items() if k != 'name'}, what, **context)


def _checked(value: Any, kind: Any, what: str) -> Any:
  if typing.get_origin(kind) is typing.Annotated:
    _, table, *_ = typing.get_args(kind)
    value = _read(value) if isinstance(value, Text) else value
    return resolve_named(table, value, what, getattr(table, 'context', ()))
  value = _typed(value, kind) if isinstance(value, Text) else value
  if not _fits(value, kind):
    raise MixerError(f'{what} is {value!r} ({type(value).__name__}), but must be {_kind(kind)}')
  return value


def _typed(text: Text, kind: Any) -> Any:
  """Text of the command line as a value of that kind, if it can be one."""
  options = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
  value = _read(text)
  if str in options and not any(_fits(value, k) for k in options if k is not str):
    return str(text)
  tuples = [k for k in options if typing.get_origin(k) is tuple or k is tuple]
  if tuples and not _fits(value, kind):  # one of several, or a word
    return tuple(map(_read, text.split(','))) if ',' in text else (value,)
  return value


def _read(text: str) -> Any:
  """A Python literal, true and false in any case, or the text itself."""
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return str(text)


def _fits(value: Any, kind: Any) -> bool:
  origin = typing.get_origin(kind)
  if kind is inspect.Parameter.empty or kind is Any or isinstance(kind, (str, typing.TypeVar)):
    return True
  if origin in (typing.Union, types.UnionType):
    return any(_fits(value, k) for k in typing.get_args(kind))
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      return False
    kinds = typing.get_args(kind)
    kinds = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
    return len(value) == len(kinds) and all(map(_fits, value, kinds))
  kind = type(None) if kind is None else origin or kind
  if kind in (int, float) and isinstance(value, bool):
    return False
  return isinstance(value, (int, float) if kind is float else kind) if isinstance(kind, type) else True


def _kind(kind: Any) -> str:
  if kind is inspect.Parameter.empty:
    return 'any value'
  return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
