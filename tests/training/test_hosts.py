"""What several processes agree on, and how they end together, with a store in place of jax's coordinator."""

import os
import signal
import subprocess
import sys
import time

import jax
import kill
import numpy as np
import pytest

from mixer_jax.data.examples import Source
from mixer_jax.errors import MixerError
from mixer_jax.training import hosts, loop
from mixer_jax.training.last_words import NO_COORDINATOR, NOT_JOINED


class Store:
  """As much of jax's client as is used: a dict that all processes share."""

  def __init__(self, values):
    self.values, self.is_gone = values, False

  def key_value_set(self, key, value, allow_overwrite=False):
    assert allow_overwrite or key not in self.values
    self.values[key] = value

  def key_value_dir_get(self, place):
    if self.is_gone:
      raise RuntimeError('UNAVAILABLE')
    return [(key, value) for key, value in self.values.items() if key.startswith(f'{place}/')]


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still unless it is moved; sleeping moves it."""
  now = [1000.0]
  monkeypatch.setattr(hosts.time, 'monotonic', lambda: now[0])
  monkeypatch.setattr(hosts.time, 'sleep', lambda seconds: now.__setitem__(0, now[0] + seconds))
  return now


@pytest.fixture
def three(clock):
  """The watches of three processes, and the codes with which they end."""
  values, ended = {}, {}
  watches = [hosts.Watch(Store(values), i, 3, end=lambda code, i=i: ended.__setitem__(i, code)) for i in range(3)]
  return watches, ended


def test_signs_of_life_keep_everyone_going(three, clock):
  watches, _ = three
  for _ in range(100):
    clock[0] += 5.0
    assert [watch.look() for watch in watches] == [None] * 3


def test_a_silent_process_is_named_with_its_host(three, clock):
  watches, _ = three
  assert [watches[i].look() for i in (1, 0, 2)] == [None] * 3
  clock[0] += hosts.SILENT - 1
  assert watches[0].look() is None and watches[2].look() is None
  clock[0] += 2
  for watch in (watches[0], watches[2]):
    assert f'process 1 ({hosts.socket.gethostname()}) has given no sign for {hosts.SILENT + 1:.0f} s' in watch.look()


def test_a_process_that_never_gave_a_sign_is_named_too(three, clock):
  watches, _ = three
  clock[0] += hosts.SILENT + 1
  watches[0].look()
  assert 'process 1 has given no sign' in watches[2].look()


def test_a_failure_reaches_the_others_with_its_reason(three, capsys):
  watches, ended = three
  watches[1].fail(MixerError('no mnist\nin /data'))
  assert ended == {1: 1} and capsys.readouterr().err == 'error: no mnist in /data\n'
  for watch in (watches[0], watches[2]):
    assert f'process 1 ({hosts.socket.gethostname()}) failed: no mnist in /data' in watch.look()
  watches[0].fail(ZeroDivisionError('by 0'))
  assert capsys.readouterr().err == 'error: ZeroDivisionError: by 0\n'


@pytest.mark.parametrize('error', [ValueError('UNKNOWN: Gloo AllGather failed'), MixerError('x')])
def test_what_another_process_caused_waits_for_its_name(three, clock, error):
  watches, _ = three
  error.__cause__ = None if isinstance(error, ValueError) else RuntimeError('DEADLINE_EXCEEDED: barrier timed out')
  began = clock[0]
  watches[0].fail(error)
  assert clock[0] - began > hosts.SILENT_BROKEN
  began = clock[0]
  watches[2].fail(MixerError('a typo'))
  assert clock[0] == began


def test_no_coordinator(three, clock):
  watches, _ = three
  for _ in range(3):  # a store that does not answer for a moment is no reason to end
    watches[1]._client.is_gone = True
    assert watches[1].look() is None
    clock[0] += hosts.SILENT_BROKEN - 1
    watches[1]._client.is_gone = False
    assert watches[1].look() is None
  watches[1]._client.is_gone = True
  assert watches[1].look() is None
  clock[0] += hosts.SILENT_BROKEN + 1
  assert watches[1].look() == NO_COORDINATOR


def test_finished_processes_may_be_silent(three, clock):
  watches, _ = three
  for watch in watches:
    watch._finished = True
    watch.look()
  clock[0] += 10 * hosts.SILENT
  assert [watch.look() for watch in watches] == [None] * 3


def test_they_wait_for_each_other_at_the_end():
  values, ended = {}, []
  watches = [hosts.Watch(Store(values), i, 2, end=ended.append) for i in range(2)]
  for watch in watches:
    watch.start()
  watches[0]._finished = True
  time.sleep(0.1)
  assert watches[0].is_alive()
  for watch in watches:
    watch._finished = True
  for watch in watches:
    watch.finish()
  assert ended == [] and not any(watch.is_alive() for watch in watches)


def test_the_first_difference():
  config = {'seed': 0, 'model': {'name': 'mixer', 'patch': [2, 2]}, 'augment': {}}
  flat = hosts._flat(config)
  assert flat == {'seed': 0, 'model.name': 'mixer', 'model.patch.0': 2, 'model.patch.1': 2, 'augment': {}}
  assert hosts.first_difference([flat, flat, dict(flat)]) is None
  assert hosts.first_difference([flat, flat, flat | {'model.patch.1': 3}]) == (
    'model.patch.1 is 2 in process 0, but 3 in process 2'
  )
  assert hosts.first_difference([flat, flat | {'more': 1}]) == "more is 'missing' in process 0, but 1 in process 1"


def test_facts_of_data():
  random = np.random.default_rng(0)
  arrays = {'image': random.integers(0, 256, (100, 4, 4, 1), np.uint8), 'label': np.arange(100, dtype=np.int32) % 3}
  of = lambda arrays, size=100: hosts.facts_of(
    Source(('a', 'b', 'c'), None, lambda i: {name: array[i] for name, array in arrays.items()}, size)
  )
  facts = of(arrays)
  assert facts['examples'] == 100 and facts['classes'] == ['a', 'b', 'c'] and facts == of(arrays)
  last = arrays['image'].copy()
  last[-1, 0, 0, 0] ^= 1
  assert of({**arrays, 'image': last}) != facts
  assert of({**arrays, 'label': arrays['label'].astype(np.int64)}) != facts
  assert of(arrays, 1)['examples'] == 1


class Enough(Exception):
  pass


def test_a_run_compares_its_config_its_data_and_its_weights_first(monkeypatch, tmp_path):
  told = {}

  def agree(what, facts):
    told[what] = hosts._flat(facts())
    if what == 'weights':
      raise Enough

  monkeypatch.setattr(hosts, 'agree', agree)
  with pytest.raises(Enough):
    loop.train_and_evaluate(kill.tiny(seed=5), tmp_path / 'run')
  assert list(told) == ['config', 'data', 'weights'] and not (tmp_path / 'run').exists()
  assert told['config']['seed'] == 5 and told['config']['jax'] == jax.__version__
  assert told['config']['checkpoints'] == [] and 'data.workers' not in told['config']
  assert told['data']['train.examples'] == 1438 and told['data']['test.classes.9'] == '9'
  assert len(told['data']['train.checksum of a sample']) == 64 and 'checksum of the schema' in told['data']


ABORTS = """
import os, sys
from mixer_jax.training import last_words
last_words.shorten()
print('W1128 04:47:30 coordination_service.cc:185] a warning', file=sys.stderr, flush=True)
os.write(2, b'E1128 04:47:31 931 coordination_service_agent.cc:289] Polled an error\\n*** stack trace ***\\n  @ 0x1\\n')
{then}
os.abort()
"""


@pytest.mark.parametrize(
  'then, last',
  [
    ('', f'error: {NO_COORDINATOR}'),
    ("os.write(2, b'error: known\\n')", 'error: known'),
    ("os.write(2, b'RPC: /xla.coordination.CoordinationService/RegisterTask\\n')", f'error: {NOT_JOINED}'),
  ],
)
def test_a_stack_trace_becomes_one_line(then, last):
  found = subprocess.run(
    [sys.executable, '-c', ABORTS.format(then=then)], stderr=subprocess.PIPE, text=True, timeout=60
  )
  assert found.returncode == -signal.SIGABRT
  assert found.stderr.splitlines() == ['W1128 04:47:30 coordination_service.cc:185] a warning', last]
  assert 'jax' not in subprocess.run(
    [sys.executable, '-c', 'import sys; from mixer_jax.training import last_words; print(*sys.modules)'],
    capture_output=True, text=True, env=os.environ, check=True,
  ).stdout.split()  # fmt: skip
