"""Figures of a run: one that cannot be drawn is a warning, one that the disk refuses an error."""

import pytest

from mixer_jax import config as configs
from mixer_jax.analysis import classes, curves
from mixer_jax.errors import MixerError
from mixer_jax.training import hooks, loop, summary

SMALL = (
  '--config=breast_cancer', '--config.total=2 steps', '--config.model.hidden=4', '--config.model.blocks=1',
  '--config.schedule.warmup=0', *(f'--config.{name}_every=0' for name in ('log', 'eval', 'checkpoint')),
)  # fmt: skip


def fails(*_, **__):
  raise RuntimeError('no\nroom')


def test_what_fails_is_a_warning(tmp_path, capsys):
  with hooks.drawn(tmp_path / 'curves.png'):
    fails()
  shown = capsys.readouterr().err
  assert shown == (
    f'warning: a figure is missing in {tmp_path}/curves.png (RuntimeError: no room); the run goes on without it\n'
  )


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), MixerError('no space')])
def test_what_the_disk_refuses_is_an_error(error, tmp_path):
  with pytest.raises(MixerError, match='(?i)no space'), hooks.drawn(tmp_path):
    raise error


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit])
def test_an_interruption_goes_through(error, tmp_path):
  with pytest.raises(error), hooks.drawn(tmp_path):
    raise error


def test_a_run_ends_without_its_figures(tmp_path, monkeypatch, capsys):
  """With its checkpoint and its summary, that is."""
  monkeypatch.setattr(classes, 'draw_confusion', fails)
  monkeypatch.setattr(curves, 'draw', fails)
  done = loop.train_and_evaluate(configs.load(SMALL), tmp_path / 'run')
  assert done['steps'] == 2 and (tmp_path / 'run/summary.json').is_file() and 'test/accuracy' in done['metrics']
  assert [path.name for path in (tmp_path / 'run/checkpoints').iterdir() if path.name.isdigit()]
  assert capsys.readouterr().err.count('a figure is missing in') == 2


def test_unfinished_runs_are_named(tmp_path, capsys):
  for name, files in {
    'a': ('metrics.jsonl', 'summary.json'),
    'b': ('metrics.jsonl',),
    'deep/c': ('metrics.jsonl',),
  }.items():
    (tmp_path / name).mkdir(parents=True)
    for file in files:
      (tmp_path / name / file).write_text('{}')
  assert summary.finished(tmp_path) == [tmp_path / 'a' / 'summary.json']
  shown = capsys.readouterr().err
  assert shown == f'warning: 2 runs below {tmp_path} are not finished and left out: {tmp_path}/b, {tmp_path}/deep/c\n'
  summary.check_finished(tmp_path / 'a')
  with pytest.raises(MixerError, match='b is not a finished run: it has no summary.json'):
    summary.check_finished(tmp_path / 'b')
  assert len(summary.finished(tmp_path / 'a')) == 1 and capsys.readouterr().err == ''
