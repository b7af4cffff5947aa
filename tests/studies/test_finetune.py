"""The table of finetune.py, of logs and of runs that the test writes, and the published log against the config."""

import json
import sys
from pathlib import Path

import pytest

import mixer_jax

ROOT = Path(mixer_jax.__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT / 'studies' / 'finetune'))
  import finetune

  return finetune


def write_run(folder, seed=0, weights='', test=None, frozen=(), **changed):
  folder.mkdir(parents=True)
  config = {
    'data': {'name': 'digits', 'train': 'train[:64%]', 'image': [16, 16, 1]}, 'model': {'patch': 4}, 'seed': seed,
    'optimizer': {'name': 'adamw'}, 'schedule': {'peak': 1e-3}, 'total': '1.0 epochs', 'batch_size': 64,
    'layers': {'freeze': list(frozen)} if frozen else {'decay': 0.8},
    'init_from': {'weights': weights, 'checkpoint': 'last', 'head': 'keep', 'stem': 'keep', 'tokens': 'keep'} | changed,
  }  # fmt: skip
  metrics = {'val/accuracy': 0.9 + seed / 50} | ({} if test is None else {'test/accuracy': test})
  summary = {'config': config, 'metrics': metrics, 'seconds': 10.0 + seed, 'device': '1 x cpu'}
  (folder / 'summary.json').write_text(json.dumps(summary))


def show(benchmark, monkeypatch, capsys, *arguments):
  monkeypatch.setattr(sys, 'argv', ['finetune.py', *map(str, arguments)])
  benchmark.main()
  return capsys.readouterr().out.splitlines()


def test_a_row_for_each_setting(benchmark, tmp_path, monkeypatch, capsys):
  for seed in (0, 1):
    write_run(tmp_path / f'scratch{seed}', seed)
    write_run(tmp_path / f'stem{seed}', weights=f'runs/pre{seed}', test=0.8 + seed / 10, stem='resize')
  write_run(tmp_path / 'head', weights='runs/pre', head='new', frozen=('stem', 'blocks'))
  log = tmp_path / 'log.jsonl'
  lines = show(benchmark, monkeypatch, capsys, tmp_path, f'--log={log}')
  assert lines[0].split(' | ')[-3:] == ['validation (%)', 'test (%)', 's per run |']
  at = '| digits, train[:64%] | 16x16x1 | 4 |'
  assert lines[2:] == [
    f'{at} fine-tuned, stem resize | 1 | 0.001 | 2 | 90.00 ± 0.00 | 85.00 ± 7.07 | 10 |',
    f'{at} from scratch | 1 | 0.001 | 2 | 91.00 ± 1.41 |  | 10 |',
    f'{at} the head alone, head new | 1 | 0.001 | 1 | 90.00 |  | 10 |',
  ]
  assert show(benchmark, monkeypatch, capsys, log) == lines


def test_a_run_that_is_not_finished_is_named(benchmark, tmp_path, monkeypatch, capsys):
  write_run(tmp_path / 'done')
  (tmp_path / 'begun').mkdir()
  (tmp_path / 'begun' / 'metrics.jsonl').touch()
  monkeypatch.setattr(sys, 'argv', ['finetune.py', str(tmp_path)])
  benchmark.main()
  out, err = capsys.readouterr()
  assert len(out.splitlines()) == 3
  assert err == f'warning: 1 runs below {tmp_path} are not finished and left out: {tmp_path}/begun\n'


def test_no_runs_are_an_error(benchmark, tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['finetune.py', str(tmp_path)])
  with pytest.raises(SystemExit, match='no finished run'):
    benchmark.main()


def test_the_runs_have_the_best_rate_of_the_tuning():
  """The highest mean accuracy on validation images; no run of the tuning has seen a test image."""
  logs = ROOT / 'docs' / 'results' / 'logs'
  tuning, runs = (
    [json.loads(line) for line in (logs / name).read_text().splitlines()]
    for name in ('finetune_tuning.jsonl', 'finetune.jsonl')
  )
  setting = lambda run: tuple(run[key] for key in ('data', 'train', 'patch', 'what', 'epochs'))
  found = {}
  for run in tuning:
    assert 'test' not in run
    found.setdefault(setting(run), {}).setdefault(run['peak'], []).append(run['val'])
  for run in runs:
    means = {peak: sum(values) / len(values) for peak, values in found[setting(run)].items()}
    assert means[run['peak']] == pytest.approx(max(means.values())), (setting(run), means)
