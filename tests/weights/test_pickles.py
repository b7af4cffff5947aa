"""Pickles of little that stand for much are told from those that merely repeat names."""

import pickle
import time

import pytest

from mixer_jax.weights import pickles


@pytest.mark.parametrize('protocol', range(6))
def test_pickles_as_they_are(protocol):
  betas = (0.9, 0.999)
  value = {f'layer.{i}': [betas, {'x': {1, 2}, 'y': frozenset('ab')}, b'z', 2**70, None, True, ()] for i in range(300)}
  value['again'] = value['layer.1'], value['layer.1']
  data = pickle.dumps(value, protocol) * 2
  pickles.check(data + b'and more', 2)
  for size in (1, len(data) // 3):
    with pytest.raises(ValueError, match='stream|exhausted|newline'):
      pickles.check(data[:size])


def nested(step, count=60):
  return b'\x80\2' + b')q\0' + b''.join(step(i) for i in range(count)) + b'.'


@pytest.mark.parametrize(
  'data',
  [
    nested(lambda i: b'h%c\x86q%c' % (i, i + 1)),  # (x, x)
    nested(lambda i: b'0(' + b'h%c' % i * 3 + b'tq%c' % (i + 1)),  # (x, x, x) behind a mark
    nested(lambda i: b'0(K\1h%cK\2h%clq%c' % (i, i, i + 1)),  # a list
    nested(lambda i: b'2\x86'),  # twice the top of the stack
    nested(lambda i: b'0}K\1h%csq%c0h%ch%c\x86q%c' % (i, 100 + i, 100 + i, i, i + 1)),
  ],
)
def test_little_that_stands_for_much(data):
  began = time.process_time()
  with pytest.raises(ValueError, match='repeats itself'):
    pickles.check(data)
  assert time.process_time() - began < 1


def test_a_long_pickle_is_looked_at_in_time():
  data = b'\x80\2' + b'N0' * (pickles.MOST_BYTES // 20) + b'N.'
  began = time.process_time()
  pickles.check(data)
  assert time.process_time() - began < 10
