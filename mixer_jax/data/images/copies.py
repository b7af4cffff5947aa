"""Files of equal bytes, and an order of examples that keeps them together and can be cut anywhere."""

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from multiprocessing.pool import ThreadPool

import numpy as np

from mixer_jax.data.images.decode import named

END = 4096  # bytes; ends of compressed images differ where their beginnings do not
MOST = 200_000  # files; more are not compared, since opening them takes minutes
THREADS = 16  # mostly waiting for the disk


def keys(paths: Sequence[str]) -> list[Hashable]:
  """A key for each file, equal where the bytes are, but always different if there are more than MOST files.

  Files are told apart by size, those of equal size by their end, only those of equal ends by all of their bytes.
  """
  if len(paths) > MOST:
    return list(paths)
  with ThreadPool(THREADS) as pool:
    states = pool.map(_state, paths, chunksize=256)
    found = [(size,) for size, _ in states]
    for length in (END, None):
      counts = Counter(found)
      again = [i for i, key in enumerate(found) if counts[key] > 1 and (length or states[i][0] > END)]
      digests = pool.starmap(_digest, [(paths[i], length, *states[i]) for i in again], chunksize=16)
      for i, digest in zip(again, digests, strict=True):
        found[i] += (digest,)
  return found


def _state(path: str) -> tuple[int, int]:
  """Size and time of the last change."""
  with named(path):
    state = os.stat(path)
  return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=2 * MOST)
def _digest(path: str, length: int | None, size: int, _time: int) -> bytes:
  """Of the last bytes of a file, or of all; kept, unless the file changes."""
  with named(path), open(path, 'rb', buffering=0) as file:
    file.seek(max(0, size - length) if length else 0)
    return hashlib.blake2b(file.read(), digest_size=16).digest()


def stratified(keys: Sequence[Hashable], labels: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """An order of which every part holds the classes in proportion, and where each group of equal keys starts in it.

  The groups of a class are shuffled and spread evenly from 0 to 1, from a random start. A class of a single group
  comes first: so it is in the part that begins there, such as train[:90%], as every class of more groups is.
  """
  numbers: dict[Hashable, int] = {}
  group = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
  label = labels[np.unique(group, return_index=True)[1]]  # of a group: that of its first example
  random = np.random.default_rng(seed)
  shuffled = np.lexsort((random.random(len(label)), label))  # class by class
  counts = np.bincount(label)
  rank = np.empty(len(label), int)
  rank[shuffled] = np.arange(len(label)) - (np.cumsum(counts) - counts)[label[shuffled]]
  place = (rank + random.random(len(counts))[label]) / counts[label]
  place[counts[label] == 1] = 0
  turn = np.argsort(np.argsort(place, kind='stable'))[group]
  order = np.argsort(turn, kind='stable')
  return order, np.flatnonzero(np.diff(turn[order], prepend=-1))
