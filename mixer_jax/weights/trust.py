"""Code that weights ask for: none but this package's, unless the user trusts a module by name.

A run directory is the user's own. A model folder may come from anyone, and importing a module runs it.
"""

import argparse
from collections.abc import Collection, Iterable
from typing import Any

from mixer_jax import parts
from mixer_jax.errors import MixerError, unknown

TRUSTED: set[str] = set()  # names of modules, by the option --trust


def trust(modules: Iterable[str]) -> None:
  """Allows model folders to name what is in these modules and in the packages of that name."""
  TRUSTED.update(name for given in modules for name in given.split(',') if name)


def add_option(options: argparse.ArgumentParser) -> None:
  """--trust, for commands that read weights; its value is for `trust`."""
  options.add_argument(
    '--trust', action='append', default=[], metavar='MODULE',
    help='a module of yours that a model folder may name, for its model to be imported',
  )  # fmt: skip


def check(where: str, model: dict[str, Any], known: Collection[str]) -> None:
  """Refuses the model of a model folder if its name is not known, or any setting names code that is not trusted."""
  for value in _texts(model):
    module = value.partition(':')[0]
    if parts.NAME.fullmatch(value) and not any(f'{module}.'.startswith(f'{name}.') for name in TRUSTED):
      raise MixerError(
        f'{where} asks for {value[:200]!r}, which is not part of this package: reading it would run the module'
        f' {module[:200]}; if you know and trust that module, add --trust={module[:200]}'
      )
  if model['name'] not in known and not parts.NAME.fullmatch(model['name']):
    raise unknown(f'model of {where}', model['name'], known)


def _texts(value: Any) -> Iterable[str]:
  """All texts in a value of JSON."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, (dict, list)):
    for part in value.values() if isinstance(value, dict) else value:
      yield from _texts(part)
