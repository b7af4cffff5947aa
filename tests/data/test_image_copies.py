"""Files of equal bytes, and the order that keeps them together and classes in proportion."""

import os

import numpy as np
import pytest
from refusals import refuses

from mixer_jax.data.images import copies

RNG = np.random.default_rng(0)


def write(folder, contents):
  paths = [folder / f'{i}.jpg' for i in range(len(contents))]
  for path, content in zip(paths, contents, strict=True):
    path.write_bytes(content)
  return list(map(str, paths))


def same(keys):
  """Where a key first stands, for each."""
  return [keys.index(key) for key in keys]


def test_keys_are_equal_where_the_bytes_are(tmp_path):
  long = RNG.bytes(3 * copies.END)
  contents = [b'short', b'other', b'short', long, long, b'x' + long[1:], long[:-1] + b'x', b'alone', b'', b'']
  assert same(copies.keys(write(tmp_path, contents))) == [0, 1, 0, 3, 3, 5, 6, 7, 8, 8]


def test_of_most_files_only_the_size_is_read(tmp_path, monkeypatch):
  opened = []
  real = copies._digest
  monkeypatch.setattr(copies, '_digest', lambda *of: opened.append(of[:2]) or real(*of))
  end = RNG.bytes(copies.END)
  paths = write(tmp_path, [b'a' * n for n in range(1, 50)] + [b'x' + end, b'y' + end, b'z' + end[::-1]])
  copies.keys(paths)
  ends, whole = ({path for path, length in opened if length == wanted} for wanted in (copies.END, None))
  assert ends == {*paths[-3:]} and whole == {*paths[-3:-1]}


def test_too_many_files_are_not_compared(tmp_path, monkeypatch):
  paths = write(tmp_path, [b'same'] * 3)
  monkeypatch.setattr(copies, 'MOST', 2)
  assert same(copies.keys(paths)) == [0, 1, 2]


def test_a_link_to_nowhere_is_refused(tmp_path):
  paths = write(tmp_path, [b'a'])
  os.symlink(tmp_path / 'gone.jpg', tmp_path / 'link.jpg')
  with refuses(tmp_path / 'link.jpg', 'No such file'):
    copies.keys([*paths, str(tmp_path / 'link.jpg')])


SIZES = (200, 40, 20, 5, 2, 1)


@pytest.mark.parametrize('seed', range(5))
def test_every_part_holds_the_classes_in_proportion(seed):
  labels = np.repeat(np.arange(len(SIZES)), SIZES)
  order, starts = copies.stratified(range(len(labels)), labels, seed)
  assert sorted(order) == list(range(len(labels)))
  assert starts.tolist() == list(range(len(labels)))
  for first, last in ((0.0, 0.1), (0.3, 0.7), (0.9, 1.0)):
    part = labels[order[round(first * len(labels)) : round(last * len(labels))]]
    counts = np.bincount(part, minlength=len(SIZES))
    assert (np.abs(counts - (last - first) * np.array(SIZES)) <= 1.5).all()
  trained = np.bincount(labels[order[: round(0.9 * len(labels))]])
  assert (trained > 0).all()  # the two classes of 2 and 1, too
  assert not np.array_equal(order, copies.stratified(range(len(labels)), labels, seed + 1)[0])


def test_equal_keys_stand_together():
  labels = RNG.integers(0, 3, 90)
  keys = [f'key{k}' for k in RNG.integers(0, 40, 90)]  # some in several classes
  order, starts = copies.stratified(keys, labels)
  groups = np.split(np.array(keys)[order], starts[1:])
  assert len(groups) == len({*keys})
  assert all(len({*group}) == 1 for group in groups)
