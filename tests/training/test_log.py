"""The log of a run: its bar below what was said before, its speed without compilation, its time over stops."""

import json
import re
import sys
import time

import pytest

from mixer_jax.messages import logger
from mixer_jax.training import log


@pytest.fixture
def clock(monkeypatch):
  """The seconds of time.monotonic, to be set."""
  now = [100.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  return now


def lines(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def test_the_bar_appears_with_the_first_step_and_shows_loss_and_rate(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  of_run = log.Log(tmp_path, step=0, total=8, write=True)
  logger.info('of what the run is made')
  shown = capsys.readouterr()
  assert shown.err == '' and shown.out == 'of what the run is made\n'
  of_run.progress(1, 2.34567)
  assert '1/8' in (first := capsys.readouterr().err) and 'loss 2.346' in first and 'rate' not in first
  of_run.write(4, {'train/loss': 1.5, 'train/learning_rate': 0.0125})
  of_run.progress(5, 1.25)
  of_run.close()
  assert re.search(r'5/8 .*loss 1\.25, rate 0\.013', capsys.readouterr().err)


def test_no_bar_where_no_terminal_is(tmp_path, capsys):
  of_run = log.Log(tmp_path, step=0, total=8, write=True)
  of_run.progress(1, 2.0)
  of_run.close()
  assert capsys.readouterr().err == ''


def test_the_speed_leaves_compilation_out(tmp_path, clock, capsys):
  of_run = log.Log(tmp_path, step=10, total=100, write=True)
  clock[0] += 60  # compiling
  of_run.progress(11, 2.0)
  of_run.write(11, {'train/loss': 2.0})
  assert 'steps/s' not in capsys.readouterr().out  # of one step nobody knows
  clock[0] += 2
  of_run.progress(31, 2.0)
  of_run.write(31, {'train/loss': 2.0})
  of_run.close()
  assert '10.0 steps/s  7 s left' in capsys.readouterr().out
  assert [line['time/seconds'] for line in lines(tmp_path)] == [60, 62]


def test_the_time_until_a_stop_counts(tmp_path, clock):
  of_run = log.Log(tmp_path, step=0, total=100, write=True)
  clock[0] += 5
  of_run.write(10, {'train/loss': 2.0})
  clock[0] += 30
  of_run.stopped(17)
  of_run.close()
  assert lines(tmp_path)[-1] == {'step': 17, 'time/seconds': 35}
  clock[0] += 1000
  resumed = log.Log(tmp_path, step=17, total=100, write=True)
  clock[0] += 2
  assert resumed.seconds == 37
  resumed.close()


def test_other_hosts_say_nothing(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
  other = log.Log(tmp_path, step=0, total=8, write=False)
  for act in (lambda: other.progress(1, 2.0), lambda: other.write(1, {}), lambda: other.stopped(1), other.close):
    act()
  other.note('compiling ...')
  assert capsys.readouterr() == ('', '') and not any(tmp_path.iterdir())
