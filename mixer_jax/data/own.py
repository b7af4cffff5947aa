"""Data sets that are a function (split, *, data_dir=None): the bundled ones, and the user's own, `module:function`."""

import inspect
from collections.abc import Callable
from typing import Any

from mixer_jax import parts

FORMS = ('csv:PATH', 'image_folder:PATH', 'images:PATH', 'tfds:NAME')  # names that are not functions
KINDS = tuple(form.partition(':')[0] for form in FORMS)
TABLES = ('Table', 'DataFrame')  # what a function of a table says it returns


def is_form(name: str) -> bool:
  """Whether a name is one of FORMS, such as csv:PATH."""
  kind, _, rest = name.partition(':')
  return bool(rest) and kind in KINDS


def is_function(name: str) -> bool:
  """Whether a name is `module:function`."""
  return ':' in name and name.partition(':')[0] not in KINDS


def returns_table(name: str) -> bool:
  """Whether the function of that name is annotated to return a table; imports its module."""
  function = parts.find(name, {}, 'data.name')
  try:
    kind = inspect.signature(function, eval_str=True).return_annotation
  except NameError:  # annotations for type checkers alone
    kind = inspect.signature(function).return_annotation
  return str(getattr(kind, '__name__', kind)).rpartition('.')[2] in TABLES


def call(function: Callable, split: str, data_dir: str | None) -> Any:
  """What a function gives for a base split such as `train`."""
  return function(split, **({'data_dir': data_dir} if 'data_dir' in parts.parameters(function) else {}))
