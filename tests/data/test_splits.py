"""Splits: what TFDS would take, every example in one part, one clear error for each mistake."""

import numpy as np
import pytest
from image_sets import digits, refused

from mixer_jax import errors
from mixer_jax.data import splits

pytestmark = pytest.mark.usefixtures('no_data')


@pytest.mark.parametrize(
  'split, expected',
  [
    ('train', range(0, 1000)),
    ('train[:]', range(0, 1000)),
    ('train[:90%]', range(0, 900)),
    ('train[10%:20%]', range(100, 200)),
    ('train[100:]', range(100, 1000)),
    ('train[-500:]', range(500, 1000)),
    ('train[-10%:]', range(900, 1000)),
    ('train[5:-5]', range(5, 995)),
    ('train[5:50%]', range(5, 500)),
    ('train[:1000]', range(0, 1000)),
    ('train[:100%]', range(0, 1000)),
  ],
)
def test_splits(split, expected):
  assert splits.parse_split(split, {'train': 1000, 'test': 10}) == ('train', expected)


@pytest.mark.parametrize('size', [7, 50, 150, 1797, 60000])
def test_percentages_partition(size):
  for percent in range(1, 100):
    first, second = f'train[:{percent}%]', f'train[{percent}%:]'
    try:
      a, b = (splits.parse_split(s, {'train': size})[1] for s in (first, second))
    except errors.MixerError as error:
      assert 'empty' in str(error)  # noqa: PT017 of 7 examples, 1% is none
      continue
    assert [*a, *b] == list(range(size))


def test_percentages_round_halves_to_even_as_tfds_does():
  ends = [splits.parse_split(f'a[:{p}%]', {'a': 50})[1].stop for p in (3, 5, 7)]
  assert ends == [2, 2, 4]  # 1.5, 2.5, 3.5


def test_tfds_takes_the_same_examples():
  library = pytest.importorskip('tensorflow_datasets')
  for size in (7, 50, 1797):
    for split in ('a[:33%]', 'a[33%:67%]', 'a[-25%:]', 'a[3:-2]', 'a[50%:]'):
      read = library.core.ReadInstruction.from_spec(split)
      info = library.core.SplitInfo(name='a', shard_lengths=[size], num_bytes=0, filename_template=None)
      (part,) = read.to_absolute({'a': info})
      ours = splits.parse_split(split, {'a': size})[1]
      assert (part.from_ or 0, part.to or size) == (ours.start, ours.stop)


@pytest.mark.parametrize(
  'split, parts',
  [
    ('train[:1001]', ('1001', '1000')),
    ('train[-1001:]', ('-1001', '1000')),
    ('train[:101%]', ('101%', '100%')),
    ('train[500:500]', ('empty', '500', '1000')),
    ('train[90%:10%]', ('empty', '900', '100')),
    ('train[1000:]', ('empty', '1000')),
    ('trian', ("unknown split 'trian'", "'train'", 'test')),
    ('train[', ("'train['", "'train[:90%]'")),
    ('train[a:b]', ("'train[a:b]'",)),
    ('train[5]', ("'train[5]'",)),
    ('train[0:10:2]', ("'train[0:10:2]'",)),
    ('train+test', ("'train+test'",)),
    ('train[:1.5%]', ("'train[:1.5%]'",)),
    ('', ("''",)),
  ],
)
def test_wrong_splits_are_refused(split, parts):
  refused(*parts, call=splits.parse_split, split=split, sizes={'train': 1000, 'test': 10})


def test_splits_of_arrays_are_views():
  source = digits('train[1000:1100]')
  assert len(source) == 100
  assert source.arrays['image'].base is not None
  np.testing.assert_array_equal(source[3]['image'], digits()[1003]['image'])
  assert source.arrays['label'][3] == digits()[1003]['label']


def test_splits_partition_the_arrays():
  parts = [digits(s).arrays['image'] for s in ('train[:80%]', 'train[80%:]')]
  np.testing.assert_array_equal(np.concatenate(parts), digits().arrays['image'])
