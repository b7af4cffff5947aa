"""The table and the figure of sharp_minima.py, of logs and of runs that the test writes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax import config as configs
from mixer_jax.training import settings

ROOT = Path(mixer_jax.__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT / 'studies' / 'sharp_minima'))
  import sharp_minima

  return sharp_minima


def write_run(folder, method, seed, total, accuracy, eigenvalue=None):
  folder.mkdir(parents=True)
  config = {
    'data': {'name': 'digits', 'test': 'train[80%:]'}, 'optimizer': {'name': 'adamw'}, 'schedule': {'peak': 1e-3},
    'sam': {'name': method, 'rho': 0.05} if 'sam' in method else {},
    'update_noise': {'eta': 1e-6, 'gamma': 0.5} if method == 'noise' else {}, 'total': total, 'seed': seed,
  }  # fmt: skip
  summary = {
    'config': config, 'metrics': {'test/accuracy': accuracy, 'test/loss': 0.2, 'train/loss': 0.1 + seed},
    'seconds': 10.0 + seed,
    'device': '1 x cpu',
  }  # fmt: skip
  (folder / 'summary.json').write_text(json.dumps(summary))
  if eigenvalue:
    found = {'eigenvalues': [eigenvalue, 1.0], 'm_sharpness': eigenvalue / 100, 'residuals': [1e-6, 1e-6]}
    found |= {'examples': 512, 'iterations': 20, 'rho': 0.05, 'm': 128}
    (folder / 'sharpness.json').write_text(json.dumps(found))


def show(benchmark, monkeypatch, capsys, *arguments):
  monkeypatch.setattr(sys, 'argv', ['sharp_minima.py', *map(str, arguments)])
  benchmark.main()
  return capsys.readouterr().out.splitlines()[2:]


def test_a_row_for_each_method_and_length(benchmark, tmp_path, monkeypatch, capsys):
  for seed, (accuracy, eigenvalue) in enumerate(((0.98, 10.0), (0.96, 30.0))):
    write_run(tmp_path / f'sam{seed}', 'sam', seed, '30.0 epochs', accuracy, eigenvalue)
  write_run(tmp_path / 'half', 'sam', 0, '15.0 epochs', 0.95)
  write_run(tmp_path / 'plain', 'adamw', 0, '30 epochs', 0.97, 50.0)
  write_run(tmp_path / 'noise', 'noise', 0, '30 epochs', 0.9)
  log, figure = tmp_path / 'log.jsonl', tmp_path / 'figure.png'
  lines = show(benchmark, monkeypatch, capsys, tmp_path, f'--log={log}', f'--figure={figure}')
  assert lines == [
    '| digits | adamw | 30 | 1 | 3 | 0.1 | 50 | 0.5 | 10 |',
    '| digits | noise | 30 | 1 | 10 | 0.1 |  |  | 10 |',
    '| digits | sam | 30 | 2 | 3 ± 1.4 | 0.6 ± 0.71 | 20 ± 14 | 0.2 ± 0.14 | 10 |',
    '| digits | sam | 15 | 1 | 5 | 0.1 |  |  | 10 |',
  ]
  assert show(benchmark, monkeypatch, capsys, log) == lines
  with Image.open(figure) as image:
    assert np.asarray(image.convert('L')).std() > 1


def test_a_run_that_is_not_finished_is_named(benchmark, tmp_path, monkeypatch, capsys):
  write_run(tmp_path / 'done', 'sam', 0, '30 epochs', 0.9)
  (tmp_path / 'begun').mkdir()
  (tmp_path / 'begun' / 'metrics.jsonl').touch()
  monkeypatch.setattr(sys, 'argv', ['sharp_minima.py', str(tmp_path)])
  benchmark.main()
  out, err = capsys.readouterr()
  assert len(out.splitlines()) == 3
  assert err == f'warning: 1 runs below {tmp_path} are not finished and left out: {tmp_path}/begun\n'


def test_no_runs_are_an_error(benchmark, tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['sharp_minima.py', str(tmp_path)])
  with pytest.raises(SystemExit, match='no finished run'):
    benchmark.main()


LOG = ROOT / 'docs' / 'results' / 'logs' / 'sharp_minima.jsonl'
ARGUMENTS = {'digits': 'digits', 'unsw_nb15': 'rows', 'mnist': 'mnist', 'cifar10': 'cifar'}


def load(argument):
  return settings.resolve(configs.load([f'--config={ROOT}/studies/sharp_minima/config.py:{argument}']))


def test_the_log_is_of_the_config():
  """What was published was run with what the config says today."""
  lines = [json.loads(line) for line in LOG.read_text().splitlines()]
  for data, method, half in {(line['data'], line['method'], line['epochs']) for line in lines}:
    name = f'{ARGUMENTS[data]}-{method}'
    whole, of_half = (load(f'{name}{end}') for end in ('', '-half'))
    config = next(c for c in (whole, of_half) if float(c['total'].split()[0]) == half)
    for line in lines:
      if (line['data'], line['method'], line['epochs']) == (data, method, half):
        assert line['settings'] == (config['sam'] or config['update_noise']), name
        assert line['optimizer'] == config['optimizer'], name
        assert {'ramp': 'linear'} | line['schedule'] == config['schedule'], name


def test_the_chosen_are_the_best_of_the_tuning():
  """The highest mean accuracy on validation data, of equal ones the lowest loss, of the settings with most seeds."""
  tuning = [json.loads(line) for line in LOG.with_name('sharp_minima_tuning.jsonl').read_text().splitlines()]
  found = {}
  for line in tuning:
    assert line['split'] == 'val'
    setting = (
      line['schedule']['peak'],
      line['optimizer']['weight_decay'],
      json.dumps(line['settings'], sort_keys=True),
    )
    found.setdefault((line['data'], line['method']), {}).setdefault(setting, []).append((-line['error'], -line['loss']))
  for (data, method), tried in found.items():
    config = load(f'{ARGUMENTS[data]}-{method}')
    of_adamw = config['schedule']['peak'], config['optimizer']['weight_decay']
    if method != 'adamw':  # tuned with AdamW's rate and decay
      tried = {s: values for s, values in tried.items() if s[:2] == of_adamw}
    most = max(map(len, tried.values()))
    means = {s: np.round(np.mean(values, axis=0), 6).tolist() for s, values in tried.items() if len(values) == most}
    best = max(means, key=means.get)
    assert best[:2] == of_adamw, (data, method)
    assert json.loads(best[2]) == (config['sam'] or config['update_noise']), (data, method)
