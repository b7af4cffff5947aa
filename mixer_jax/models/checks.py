"""Checks of settings that models share; each names the key of config.model."""

from collections.abc import Collection

import jax.numpy as jnp

from mixer_jax.errors import MixerError, unknown


def sizes(least: int = 1, **given: int) -> None:
  """Refuses sizes below `least`."""
  for key, size in given.items():
    if size < least:
      raise MixerError(f'model.{key} is {size}, but must be at least {least}')


def positive(**given: float) -> None:
  """Refuses numbers that are not above 0."""
  for key, number in given.items():
    if number <= 0:
      raise MixerError(f'model.{key} is {number}, but must be above 0')


def rates(**given: float) -> None:
  """Refuses rates outside [0, 1)."""
  for key, rate in given.items():
    if not 0 <= rate < 1:
      raise MixerError(f'model.{key} is {rate}, but a rate must be in [0, 1)')


def choice(key: str, value: str, known: Collection[str]) -> None:
  """Refuses a value that is not among the known ones."""
  if value not in known:
    raise unknown(f'model.{key}', value, known)


def dtype(name: str) -> jnp.dtype:
  """What a model computes in."""
  choice('dtype', name, ('float32', 'bfloat16'))
  return jnp.dtype(name)
