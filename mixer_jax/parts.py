"""The parts that a config names: a short name, or `module:name` of anything importable -> a call, its settings checked.

What a part takes is its signature. Keyword arguments without a default must be in the config, those with one may be;
arguments that the run itself knows (`context`: the shape of an image, a schedule, random numbers) are never settings.
"""

import ast
import importlib
import inspect
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mixer_jax.errors import MixerError, unknown
from mixer_jax.ranges import Within

NAME = re.compile(r'[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*')  # module:name, each with dots or without
UNIONS = (typing.Union, types.UnionType)
FIXED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)


class Table(dict):
  """Short names -> parts, or where they are: 'module:name'. Any mapping will do where nothing of this is needed.

  `context` are the arguments of these parts that the run gives, which are never settings. `package` is a library whose
  parts may be named with a dot, such as `optax` for `optax.lion`. `adapt` (part, its name, what) -> a part, checks or
  wraps those that are not in the table.
  """

  def __init__(self, names: Mapping[str, Callable | str], *, context=(), package='', adapt=None):
    super().__init__(names)
    self.context, self.package, self.adapt = tuple(context), package, adapt or (lambda part, _name, _what: part)


class Text(str):
  """A value from the command line: text until a signature says what it is; `given` are all values of its key."""

  def __new__(cls, text: str, earlier: tuple[str, ...] = ()):
    self = super().__new__(cls, text)
    self.given = (*earlier, str(text))
    return self


class Missing(MixerError):
  """Settings without a default that a config lacks, all of them in `keys`."""

  def __init__(self, keys: Collection[str]):
    super().__init__(f'the config lacks {", ".join(keys)}; set {"it" if len(keys) == 1 else "them"}')
    self.keys = tuple(keys)


class Lacking(MixerError):
  """Arguments of the context that a part needs and that this run does not have, in `keys`."""

  def __init__(self, what: str, keys: Collection[str]):
    super().__init__(f'{what} needs {", ".join(keys)}, which this run does not have')
    self.keys = tuple(keys)


def find(name: Any, table: Mapping[str, Callable | str], what: str) -> Callable:
  """What a name stands for: an entry of a table, or `module:name` of anything importable, the current folder included.

  Refuses an unknown short name, a module that cannot be imported or lacks the name.
  """
  package = getattr(table, 'package', '')
  if isinstance(name, str) and name in table:
    return _imported(table[name], what) if isinstance(table[name], str) else table[name]
  if isinstance(name, str) and package and name.startswith(f'{package}.'):
    part = _imported(name.replace('.', ':', 1), what)
  elif isinstance(name, str) and ':' in name:
    part = _imported(name, what)
  else:
    raise unknown(what, name, table, f'{package}.NAME, or module:name' if package else 'or module:name of your own')
  return table.adapt(part, str(name), what) if isinstance(table, Table) else part


def import_module(module: str) -> types.ModuleType:
  """A module by name, the current folder included; raises what importing it raises."""
  here = os.getcwd()
  if here not in sys.path:  # `python -m` has it there, an installed command has not
    sys.path.insert(0, here)
  if module not in sys.modules:
    importlib.invalidate_caches()  # the file may be younger than the last look at its folder
  return importlib.import_module(module)


def _imported(target: str, what: str) -> Callable:
  if not NAME.fullmatch(target):
    raise MixerError(f'{what} is {target!r}, but must be like module:name')
  target = str(target)
  module, _, name = target.partition(':')
  try:
    import_module(module)
  except ModuleNotFoundError as error:
    if error.name and (module == error.name or module.startswith(f'{error.name}.')):
      raise MixerError(
        f'{what} is {target!r}, but there is no module {error.name!r} in {os.getcwd()} or on the path of Python; run'
        ' this in the folder of the module, or set PYTHONPATH to it'
      ) from error
    raise MixerError(f'{what} is {target!r}, but {module} needs {error.name}, which is not installed') from error
  except (Exception, SystemExit) as error:  # A module of the user's raises what it likes.
    reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
    raise MixerError(f'{what} is {target!r}, but importing {module} fails: {reason}') from error
  found, place = sys.modules[module], module
  for entry in name.split('.'):
    try:
      found, place = getattr(found, entry), f'{place}.{entry}'
    except (AttributeError, ImportError) as error:
      public = [known for known in getattr(found, '__dict__', ()) if not known.startswith('_')]
      raise unknown(f'{what}: {place} has no', entry, public) from error
  if not callable(found):
    raise MixerError(f'{what} is {target!r}, which is a {type(found).__name__} and cannot be called')
  return found


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
  """What a function or class takes by name."""
  # A class is asked for its __init__: the signature of an nnx.Module itself is that of its metaclass.
  by_init = inspect.isclass(function) and function.__init__ is not object.__init__
  target = function.__init__ if by_init else function
  try:
    try:
      found = inspect.signature(target, eval_str=True).parameters
    except Exception:  # Annotations for type checkers alone may fail in any way.
      found = inspect.signature(target).parameters
  except (TypeError, ValueError) as error:  # some that are written in C
    raise MixerError(f'{function!r} does not say what it takes, so a config cannot call it') from error
  taken = list(found.items())[1 if by_init else 0 :]
  return {k: p for k, p in taken if p.kind not in FIXED}


def resolve(
  function: Callable, settings: Mapping[str, Any], what: str, context: Collection[str] = (),
  notes: list[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
  """All settings of a part, checked against its signature: those given, and the defaults of the others.

  A parameter annotated `Annotated[dict, table]` is a part itself, `{'name': ...}`, and resolved likewise. A default
  that JSON cannot hold, a function say, is left to the part.

  Args:
    what: the name of the section in the config, for messages.
    context: the names of arguments that are not settings.
    notes: gets a line for whatever is left out, see `without_leftovers`.

  Raises Missing for settings without a default that are not given; refuses an unknown key, or a value of another type,
  by name as `what.key`.
  """
  takes = {k: p for k, p in parameters(function).items() if k not in context}
  for key in settings:
    if key not in takes:
      raise unknown(f'key {what}.{key}: there is no', key, takes)
  result, missing = {}, []
  for key, parameter in takes.items():
    if key not in settings and parameter.default is parameter.empty:
      missing.append(f'{what}.{key} ({_kind(parameter.annotation)})')
    elif key in settings or _is_plain(parameter.default):
      try:
        value = settings.get(key, parameter.default)
        result[key] = _checked(value, parameter, f'{what}.{key}', notes)
      except Missing as error:
        missing += error.keys
  if missing:
    raise Missing(missing)
  return result


def resolve_named(
  table: Mapping[str, Callable | str], settings: Any, what: str, context: Collection[str] = (),
  notes: list[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
  """resolve() of the part that settings['name'] names, `name` first; a bare name is a part with its defaults."""
  settings = {'name': settings} if isinstance(settings, str) else settings
  if not isinstance(settings, Mapping):
    raise MixerError(f"{what} is {settings!r}, but must be a dict, {{'name': ...}}")
  if 'name' not in settings:
    raise Missing([f'{what}.name (one of {", ".join(sorted(table))}, or module:name)'])
  name = settings['name']
  function = find(name, table, f'{what}.name')
  context = {*context, *getattr(table, 'context', ())}
  rest = {k: v for k, v in settings.items() if k != 'name'}
  if isinstance(name, Text):
    rest = without_leftovers(rest, {*parameters(function)} - context, f'{what} {str(name)!r}', notes)
  return {'name': str(name), **resolve(function, rest, what, context, notes)}


def without_leftovers(
  settings: Mapping[str, Any], takes: Collection[str], what: str, notes: list[str] | None
) -> dict[str, Any]:
  """Settings less those of the config file that a part named on the command line does not take.

  What the command line itself gives stays, to be refused.
  """
  left = [key for key, value in settings.items() if key not in takes and not _has_text(value)]
  if left and notes is not None:
    notes.append(f'{what} does not take {", ".join(left)} of the config file: left out')
  return {key: value for key, value in settings.items() if key not in left}


def _has_text(value: Any) -> bool:
  return any(map(_has_text, value.values())) if isinstance(value, Mapping) else isinstance(value, Text)


def call(function: Callable, settings: Mapping[str, Any], what: str, /, *, context: Collection[str] = (), **given: Any):
  """function(**settings, **given): settings resolved, of what is given that which the function takes.

  `context` are further names that are not settings. Raises Lacking for one that the function needs and does not get.
  """
  settings = resolve(function, settings, what, {*context, *given})
  takes = parameters(function)
  needed = {k for k, p in takes.items() if p.default is p.empty}
  if lacking := [k for k in context if k in needed and k not in given]:
    raise Lacking(what, lacking)
  return function(**{k: _tuples(v) for k, v in settings.items()}, **{k: v for k, v in given.items() if k in takes})


def named(table: Mapping[str, Callable | str], settings: Any, what: str, /, **given: Any) -> Any:
  """call() of the part that settings['name'] names; a bare name is a part with its defaults."""
  settings = resolve_named(table, settings, what, given)
  function = find(settings.pop('name'), table, f'{what}.name')
  return call(function, settings, what, context=getattr(table, 'context', ()), **given)


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _is_plain(value: Any) -> bool:
  """Whether JSON can hold a value."""
  if isinstance(value, Mapping):
    return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
  if isinstance(value, (tuple, list)):
    return all(map(_is_plain, value))
  return value is None or type(value) in (bool, int, float, str)


def _checked(value: Any, parameter: inspect.Parameter, what: str, notes: list[str] | None) -> Any:
  kind, default, about = parameter.annotation, parameter.default, None
  if typing.get_origin(kind) is typing.Annotated:
    kind, about, *_ = typing.get_args(kind)
    if isinstance(about, Mapping):
      default = {'name': default} if isinstance(default, str) else default
      if isinstance(value, Mapping) and 'name' not in value and isinstance(default, Mapping):
        value = {**default, **value}
      return resolve_named(about, value, what, (), notes)
  value = _typed(value, kind) if isinstance(value, Text) else value
  # A default may be of another type than it says, such as None for an int.
  if not _fits(value, kind) and not (_is_plain(default) and type(value) is type(default) and value == default):
    raise MixerError(f'{what} is {value!r:.80} ({type(value).__name__}), but must be {_kind(kind)}')
  if isinstance(about, Within) and value not in about:
    raise MixerError(f'{what} is {value!r:.80}, but must be in {about.interval}')
  return _number(value, kind, what)


def _number(value: Any, kind: Any, what: str) -> Any:
  """The value, whole numbers as floats where the setting is one; refuses what no computation can use."""
  for number in value if isinstance(value, (tuple, list)) else [value]:
    if isinstance(number, float) and math.isnan(number):
      raise MixerError(f'{what} is {value!r:.80}, but must be a number')
    if isinstance(number, int) and not -(2**63) <= number < 2**63:
      raise MixerError(f'{what} is {value!r:.80}, but must fit into 64 bits')
  return float(value) if kind is float and isinstance(value, int) else value


def _typed(text: Text, kind: Any) -> Any:
  """Text of the command line as a value of that kind, if it can be one."""
  options = typing.get_args(kind) if typing.get_origin(kind) in UNIONS else (kind,)
  value = _read(text)
  tuples = [k for k in options if tuple in (k, typing.get_origin(k))]
  if tuples and len(text.given) > 1:  # given again and again, for one entry each
    return tuple(entry for part in text.given for entry in _entries(part, tuples[0]))
  others = [k for k in options if k is not str and k not in tuples]
  if any(_fits(value, k) for k in others):
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and not any(_fits(value, k) for k in others if k is not float) else value
  if float in others and text.strip().lower() in ('inf', '-inf', 'nan'):
    return float(text)
  if tuples and (str not in options or isinstance(value, (tuple, list))):
    return _entries(text, tuples[0])
  return str(text) if str in options else value


def _entries(text: str, kind: Any) -> tuple:
  """'(1, 2)', '1,2', '1' and '' -> the entries of a tuple of that kind."""
  value = _read(text)
  if isinstance(value, (tuple, list)) and text.strip()[:1] in ('(', '['):
    return tuple(value)
  entries = [entry.strip() for entry in text.split(',') if entry.strip()]
  kinds = typing.get_args(kind) or (Any, ...)
  kinds = kinds[:1] * len(entries) if kinds[1:] == (...,) else kinds
  return tuple(_typed(Text(entry), kinds[i] if i < len(kinds) else Any) for i, entry in enumerate(entries))


def _read(text: str) -> Any:
  """A Python literal, true and false in any case, or the text itself."""
  if text.strip().lower() in ('true', 'false'):
    return text.strip().lower() == 'true'
  try:
    return ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
    return str(text)


def _fits(value: Any, kind: Any) -> bool:
  origin = typing.get_origin(kind)
  if kind is inspect.Parameter.empty or kind is Any or isinstance(kind, (str, typing.TypeVar)):
    return True
  if origin in UNIONS:
    return any(_fits(value, k) for k in typing.get_args(kind))
  if origin is typing.Literal:
    return value in typing.get_args(kind)
  if origin is tuple:
    if not isinstance(value, (tuple, list)):
      return False
    kinds = typing.get_args(kind)
    kinds = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
    return len(value) == len(kinds) and all(map(_fits, value, kinds))
  kind = type(None) if kind is None else origin or kind
  if kind in (int, float) and isinstance(value, bool):
    return False
  kind = {float: (int, float), tuple: (tuple, list), list: (tuple, list)}.get(kind, kind)
  try:
    return isinstance(value, kind)
  except TypeError:  # nothing that isinstance knows
    return True


def _kind(kind: Any) -> str:
  if kind is inspect.Parameter.empty:
    return 'any value'
  if typing.get_origin(kind) is typing.Annotated:
    kind = typing.get_args(kind)[0]
  return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
