"""Examples of any kind: a random-access data set, and batches of them."""

import concurrent.futures
import dataclasses
import operator
import os
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np

from mixer_jax.errors import MixerError

SHOWN = 20  # messages in one
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """A random-access data set: source[i] -> {'image': uint8 [height, width, channels], 'label': int32 scalar}.

  Rows of a table have 'features' and 'categories' in place of 'image'.
  """

  classes: tuple[str, ...]  # class names; the index is the label
  arrays: Arrays | None  # the whole data set where it is in memory, {'image': uint8 [n, h, w, c], 'label': int32 [n]}
  read: Callable[[int], dict[str, Any]]  # the example at an index from 0 to size - 1; picklable, for worker processes
  size: int
  notes: tuple[str, ...] = ()  # for the user, a line each: files left out, images converted, unknown cells

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index: int) -> dict[str, Any]:
    index = operator.index(index)
    if not 0 <= index < self.size:
      raise IndexError(f'example {index} of a data set of {self.size}')
    return self.read(index)


def stack(examples: Sequence[dict[str, Any]]) -> Arrays:
  """Examples as one batch, each array with the examples along its first axis."""
  return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def materialize(source: Source, threads: int | None = None) -> Arrays:
  """The whole of `source` in memory, by name, [examples, ...], read by so many threads, one for each core if None."""
  if source.arrays is not None:
    return source.arrays
  first = {name: np.asarray(value) for name, value in source[0].items()}
  arrays = {name: np.empty((len(source), *value.shape), value.dtype) for name, value in first.items()}

  def fill(start: int) -> None:
    for k in range(start, min(start + 64, len(source))):
      for name, value in source[k].items():
        arrays[name][k] = value

  with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
    for _ in pool.map(fill, range(0, len(source), 64)):
      pass
  return arrays


def check_readable(sources: Sequence[Source]) -> None:
  """Reads every example that is not in memory once, in threads; refuses, naming all that cannot be read."""

  def failure(example: tuple[Source, int]) -> str | None:
    source, index = example
    try:
      source[index]
    except MixerError as error:
      return str(error)
    return None

  examples = [(source, index) for source in sources if source.arrays is None for index in range(len(source))]
  with ThreadPool(os.cpu_count()) as pool:
    bad = [message for message in pool.imap(failure, examples, chunksize=16) if message]
  if bad:
    shown = ' '.join(sorted(bad)[:SHOWN]) + (' ...' if len(bad) > SHOWN else '')
    raise MixerError(f'{len(bad):,} of {len(examples):,} examples cannot be read: {shown}')
