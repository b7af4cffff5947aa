"""The sweep command: its tables and figures, what it says of what failed."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from mixer_jax import sweep
from mixer_jax.errors import MixerError

DIGITS = f'{Path(__file__).parents[1]}/configs/digits.py'
SMALL = [
  '--config.augment={}', '--config.model.blocks=1', '--config.model.hidden=8', '--config.model.token_mlp=4',
  '--config.model.channel_mlp=6', '--config.total=3 steps', '--config.schedule.warmup=0',
]  # fmt: skip


def run(tmp_path, *arguments):
  sweep.main([f'--config={DIGITS}', *SMALL, f'--workdir={tmp_path}', *arguments])


def test_tables_and_curves_of_what_is_done(tmp_path, capsys):
  run(tmp_path, '--over=model.patch=4,8', '--metrics=test/loss')
  out = capsys.readouterr().out
  text = (tmp_path / 'table.md').read_text()
  assert text in out and text.startswith('| model.patch | parameters | seeds | examples/s | test/loss |')
  with (tmp_path / 'table.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['model.patch'] for row in rows] == ['4', '8']
  assert f'{float(rows[0]["test/loss"]):.5f}' in text
  assert out.endswith('table.md, table.csv, table.png, curves.png\n')
  for name in ('table.png', 'curves.png'):
    with Image.open(tmp_path / name) as image:
      assert image.width > 500


def test_many_combinations_have_no_curves(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(sweep, 'MOST_CURVES', 1)
  run(tmp_path, '--over=model.patch=4,8')
  assert not (tmp_path / 'curves.png').exists() and capsys.readouterr().out.endswith('table.csv, table.png\n')


def test_a_metric_that_no_run_has_is_refused_and_named(tmp_path):
  with pytest.raises(MixerError, match="unknown metric 'test/los'; did you mean 'test/loss'.*test/accuracy"):
    run(tmp_path, '--metrics=test/los', '--config.eval_every=0')
  summary = json.loads((tmp_path / 'as_it_stands' / 'seed0' / 'summary.json').read_text())
  # Of one evaluation, the last is the best.
  best = {name: value for name, value in summary['metrics'].items() if name.startswith('test/')}
  assert summary['best'] == {'chosen_by': 'test/accuracy', 'step': 3, **best}


def test_runs_without_held_out_data_are_compared_by_their_training_loss(tmp_path, refused):
  run(tmp_path, '--config.data.test=')
  assert (tmp_path / 'table.md').read_text().startswith('| parameters | seeds | examples/s | train/loss |')
  assert (tmp_path / 'curves.png').exists()
  workdir = tmp_path / 'as_it_stands' / 'seed0'
  summary = json.loads((workdir / 'summary.json').read_text())
  assert summary['best'] == {'chosen_by': None}
  assert {name.split('/')[0] for name in summary['metrics']} == {'train'}
  refused('evaluate', f'--workdir={workdir}', parts=[workdir, 'neither test nor val', '--split=train'])


def test_what_failed_is_in_the_table_and_the_error(tmp_path):
  with pytest.raises(MixerError, match=r'2 of 4 runs failed: patch=3/seed0, patch=3/seed1: .*3x3'):
    run(tmp_path, '--over=model.patch=3,8', '--seeds=2')
  text = (tmp_path / 'table.md').read_text()
  assert 'patch=3/seed0, patch=3/seed1 failed: the patch 3x3' in text and text.count('3x3') == 1
