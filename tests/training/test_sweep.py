"""Sweeps: which runs there are, that one bad run stops no other, that what is done is not done again."""

import json
import math
from pathlib import Path

import pytest

from mixer_jax.analysis import results
from mixer_jax.errors import MixerError
from mixer_jax.training import sweep

DIGITS = f'{Path(__file__).parents[2]}/configs/digits.py'
SMALL = [
  '--config.augment={}', '--config.model.blocks=1', '--config.model.hidden=8', '--config.model.token_mlp=4',
  '--config.model.channel_mlp=6', '--config.total=3 steps', '--config.schedule.warmup=0',
]  # fmt: skip


def test_values_of_one_key():
  assert sweep.parse_over('arg=none,mlp-234') == [{'arg': 'none'}, {'arg': 'mlp-234'}]
  assert sweep.parse_over('model.head=(512,512),()') == [{'model.head': '(512,512)'}, {'model.head': '()'}]
  assert sweep.parse_over("total='3 steps','4 steps'") == [{'total': "'3 steps'"}, {'total': "'4 steps'"}]


def test_keys_that_change_together():
  expected = [{'model.tokens': 'patches', 'model.patch': '3'}, {'model.tokens': 'columns', 'model.patch': '1'}]
  assert sweep.parse_over('model.tokens+model.patch=patches+3,columns+1') == expected


@pytest.mark.parametrize(
  'text, reason',
  [
    ('model.blocks', 'must be like'),
    ('model.blocks=', 'must be like'),
    ('=3', 'must be like'),
    ('a+b=1+2,3', "'3' has 1 values, but there are 2 keys"),
    ('a=1,2,1', "'1' is there twice"),
  ],
)
def test_overs_that_say_nothing(text, reason):
  with pytest.raises(MixerError, match=reason):
    sweep.parse_over(text)


def test_every_combination_with_every_seed(tmp_path):
  runs = sweep.plan('file.py:a', ['--config.total=3'], ['arg=x/1,y', 'model.blocks=2,4'], 2, tmp_path)
  assert len(runs) == 8 and len({run.workdir for run in runs}) == 8
  assert [run.seed for run in runs] == [0, 1] * 4
  assert runs[3].values == {'arg': 'x/1', 'model.blocks': '4'}
  assert runs[3].workdir == tmp_path / 'arg=x_1,blocks=4' / 'seed1'
  expected = ['--config=file.py:x/1', '--config.total=3', '--config.model.blocks=4', '--config.seed=1']
  assert runs[3].arguments == expected
  assert sweep.plan('file.py:a', [], [], 1, tmp_path)[0].arguments == ['--config=file.py:a', '--config.seed=0']
  bracketed = sweep.plan('file.py', [], ['arg=(photos,script),photos'], 1, tmp_path)
  assert [run.arguments[0] for run in bracketed] == ['--config=file.py:photos,script', '--config=file.py:photos']


def test_one_name_for_two_runs_is_refused(tmp_path):
  with pytest.raises(MixerError, match='would both be called'):
    sweep.plan('file.py', [], ['arg=a/b,a_b'], 1, tmp_path)
  with pytest.raises(MixerError, match='--seeds is 0'):
    sweep.plan('file.py', [], [], 0, tmp_path)


def test_a_bad_run_stops_no_other_and_nothing_is_done_twice(tmp_path, capsys):
  runs = sweep.plan(DIGITS, SMALL, ['model.patch=3,4'], 2, tmp_path)
  failed = sweep.execute(runs, None)
  assert set(failed) == {tmp_path / 'patch=3' / f'seed{i}' for i in range(2)}
  assert all('patch' in reason and '3' in reason for reason in failed.values())
  done = sweep.summaries(sweep.done(runs, failed))
  assert [(values, seed) for values, seed, _ in done] == [({'model.patch': '4'}, seed) for seed in range(2)]
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('summary.json')}
  assert len(before) == 2
  capsys.readouterr()
  assert sweep.execute(runs, None) == failed
  shown = capsys.readouterr()
  assert shown.out.count('done before') == 2 and shown.err.count('patch=3/seed0, patch=3/seed1 will not start') == 1
  assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('summary.json')} == before

  table = results.rows(done)
  scores = [s['metrics']['test/accuracy'] for _, _, s in done[:2]]
  assert table[0]['test/accuracy'] == pytest.approx(sum(scores) / 2)
  assert table[0]['test/accuracy deviation'] == pytest.approx(abs(scores[0] - scores[1]) / math.sqrt(2))
  assert [row['model.patch'] for row in table] == ['4']


def test_what_is_no_mistake_of_the_user_stops_no_other_either(tmp_path, monkeypatch):
  real = sweep.loop.train_and_evaluate

  def train(config, workdir, **options):
    if config['seed'] == 0:
      raise ZeroDivisionError('of a bug')
    return real(config, workdir, **options)

  monkeypatch.setattr(sweep.loop, 'train_and_evaluate', train)
  runs = sweep.plan(DIGITS, SMALL, [], 2, tmp_path)
  assert sweep.execute(runs, None) == {runs[0].workdir: 'ZeroDivisionError: of a bug'}
  assert 'ZeroDivisionError' in (runs[0].workdir / 'error.txt').read_text()
  assert json.loads((runs[1].workdir / 'summary.json').read_text())['steps'] == 3


def test_what_would_be_refused_is_said_once_before_the_first_run(tmp_path, monkeypatch, capsys):
  started = []
  monkeypatch.setattr(sweep.loop, 'train_and_evaluate', lambda config, workdir, **o: started.append(workdir) or {})
  overs = ['schedule.warmup=0,9 steps', 'augment_until=100%,9 steps', 'data.test=train[80%:],tset']
  augmented = [flag for flag in SMALL if 'augment' not in flag]
  runs = sweep.plan(DIGITS, augmented, overs, 2, tmp_path)
  failed = sweep.execute(runs, None)
  assert started == [run.workdir for run in runs[:2]] and set(failed) == {run.workdir for run in runs[2:]}
  shown = capsys.readouterr().err
  reasons = ['schedule.warmup is', 'augment_until is', "unknown split 'tset'"]
  assert len(shown.splitlines()) == 3 and [shown.count(reason) for reason in reasons] == [1, 1, 1], shown
  assert not any(tmp_path.iterdir())


def test_a_key_that_no_run_takes_is_said_once(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(sweep.loop, 'train_and_evaluate', lambda *a, **o: pytest.fail('a run was started'))
  runs = sweep.plan(DIGITS, [*SMALL, '--config.model.hiden=3'], ['model.patch=4,8'], 2, tmp_path)
  assert len(sweep.execute(runs, None)) == 4
  assert len(capsys.readouterr().err.splitlines()) == 1
  runs = sweep.plan(DIGITS, SMALL, [f'init_from.weights={tmp_path}/none.npz'], 2, tmp_path)
  assert len(sweep.execute(runs, None)) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'none.npz' in line


def test_the_schedules_of_finished_runs(tmp_path):
  runs = sweep.plan(DIGITS, SMALL, ['schedule.peak=1e-3,1e-2', 'total=0.1 epochs,4 steps'], 2, tmp_path)
  for run in runs:
    config = sweep.resolve(sweep.configs.load(run.arguments))
    length = sweep.Length({'0': 2, '4': 4}[config['total'][0]], 22.46875)
    run.workdir.mkdir(parents=True)
    about = {'config': config, 'steps': length.total, 'steps_per_epoch': length.epoch}
    (run.workdir / 'summary.json').write_text(json.dumps(about))
  rates = sweep.rates(runs)
  assert list(rates) == list(dict.fromkeys(run.workdir.parent.name for run in runs))
  for (steps, values), peak, total in zip(rates.values(), (1e-3, 1e-3, 1e-2, 1e-2), (2, 4, 2, 4), strict=True):
    assert steps.tolist() == list(range(total))
    assert values[0] == pytest.approx(peak) and (values[1:] < values[0]).all()
  for run in runs:
    (run.workdir / 'summary.json').write_text(json.dumps({'config': {}, 'steps': 2}))
  assert sweep.rates(runs) == {}


def test_an_interruption_ends_the_sweep(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(sweep.loop, 'train_and_evaluate', lambda *a, **o: calls.append(a))
  assert sweep.execute(sweep.plan(DIGITS, SMALL, [], 3, tmp_path), None) is None
  assert len(calls) == 1


def test_another_config_in_the_folder_is_reported(tmp_path):
  runs = sweep.plan(DIGITS, SMALL, [], 1, tmp_path)
  assert sweep.execute(runs, None) == {}
  others = sweep.plan(DIGITS, [*SMALL, '--config.batch_size=32'], [], 1, tmp_path)
  failed = sweep.execute(others, None)
  assert 'batch_size' in failed[runs[0].workdir]
  assert sweep.done(others, failed) == [] and sweep.done(runs, {}) == runs


def test_a_value_that_no_config_takes_is_reported(tmp_path):
  runs = sweep.plan(DIGITS, SMALL, ['arg=nonsense'], 1, tmp_path)
  assert 'takes no argument' in sweep.execute(runs, None)[runs[0].workdir]
  runs = sweep.plan(DIGITS, SMALL, ['model.depth=1'], 1, tmp_path)
  assert 'depth' in sweep.execute(runs, None)[runs[0].workdir]


@pytest.mark.parametrize('rest, overs', [([], ['seed=0,1']), (['--config.seed=5'], []), ([], ['model.patch+seed=4+1'])])
def test_a_seed_is_not_a_key(rest, overs, tmp_path):
  with pytest.raises(MixerError, match='belongs to --seeds'):
    sweep.plan(DIGITS, rest, overs, 1, tmp_path)
