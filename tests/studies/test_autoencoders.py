"""studies/autoencoders/autoencoders.py: names of settings, groups of seeds, a figure of small runs."""

import json
from pathlib import Path

import pytest

import mixer_jax
from mixer_jax import config as configs
from mixer_jax.training import settings

ROOT = Path(mixer_jax.__file__).parents[1]


@pytest.fixture(scope='module')
def autoencoders():
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(ROOT / 'studies' / 'autoencoders')
    import autoencoders

    return autoencoders


def config(name):
  return settings.resolve(configs.load([f'--config={name}']))


@pytest.mark.parametrize('setting', ['none', 'mlp-234', 'cnn-1-k1', 'cnn2df-234-k7'])
def test_a_setting_is_named_as_the_config_takes_it(setting, autoencoders):
  assert autoencoders.name(config(f'mnist_autoencoder.py:{setting}')) == setting
  assert setting in autoencoders.SOURCE


def test_every_setting_of_the_source_is_a_config(autoencoders):
  assert len(autoencoders.SOURCE) == 49
  for setting in autoencoders.SOURCE:
    kind, _, kernel = setting.partition('-')
    file = f'mnist_cnn_autoencoder.py:{kernel}' if kind == 'convolutions' else f'mnist_autoencoder.py:{setting}'
    assert autoencoders.name(config(file)) == setting


def write_run(folder, name, error, *, seed=0, images=1_000_000, metric='test/mse'):
  folder.mkdir(parents=True)
  summary = {
    'config': config(name) | {'seed': seed, 'total': f'{images // 64} steps'},
    'examples': images,
    'metrics': {metric: error},
  }
  (folder / 'summary.json').write_text(json.dumps(summary))


def test_a_table_and_a_figure(autoencoders, tmp_path, monkeypatch, capsys):
  write_run(tmp_path / 'runs' / 'none', 'mnist_autoencoder.py:none', 0.0125)
  for seed, error in enumerate((0.006, 0.008)):
    write_run(tmp_path / 'runs' / f'mlp{seed}', 'mnist_autoencoder.py:mlp-234', error, seed=seed)
  write_run(tmp_path / 'longer', 'mnist_autoencoder.py:mlp-234', 0.0055, images=6_000_000)
  write_run(tmp_path / 'longer' / 'other', 'mnist_autoencoder.py:none', 0.1, metric='val/mse')
  (tmp_path / 'runs' / 'begun').mkdir()
  (tmp_path / 'runs' / 'begun' / 'metrics.jsonl').touch()
  figure = tmp_path / 'figure.png'
  arguments = ['autoencoders.py', str(tmp_path / 'runs'), str(tmp_path / 'longer'), f'--figure={figure}']
  monkeypatch.setattr('sys.argv', arguments)
  autoencoders.main()
  out, err = capsys.readouterr()
  begun = f'{tmp_path}/runs/begun'
  assert err == (
    f'warning: 1 runs below {tmp_path}/runs are not finished and left out: {begun}\n1 runs without test/mse left out\n'
  )
  lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in out.splitlines()]
  assert [line[0] for line in lines[2:]] == ['none', 'mlp-234', 'mlp-234']
  assert lines[2][1:] == ['33,617', '0.8', '1,000,000', '0.011366', '0.012500', '1', '1.100']
  assert lines[3][1] == '4,363,601' and lines[3][4:] == ['0.006506', '0.007000 ± 0.001414', '2', '1.076']
  assert lines[4][3:] == ['6,000,000', '', '0.005500', '1', '']
  assert figure.stat().st_size > 10_000

  log = tmp_path / 'log.jsonl'
  monkeypatch.setattr('sys.argv', [*arguments[:-1], f'--log={log}'])
  autoencoders.main()
  assert len(log.read_text().splitlines()) == 4
  capsys.readouterr()
  monkeypatch.setattr('sys.argv', ['autoencoders.py', str(log), str(tmp_path / 'runs' / 'none')])
  autoencoders.main()
  assert capsys.readouterr() == (out, '1 runs with the same config left out\n')


def test_a_run_of_before_there_was_a_section_is_another_seed_of_the_same(autoencoders, tmp_path, monkeypatch, capsys):
  for seed in (0, 1):
    write_run(tmp_path / f'{seed}', 'mnist_autoencoder.py:none', 0.0125, seed=seed)
  path = tmp_path / '0' / 'summary.json'
  summary = json.loads(path.read_text())
  assert summary['config'].pop('layers') == {}
  path.write_text(json.dumps(summary))
  monkeypatch.setattr('sys.argv', ['autoencoders.py', str(tmp_path)])
  autoencoders.main()
  (line,) = capsys.readouterr().out.splitlines()[2:]
  assert line.split('|')[7].strip() == '2'


def test_a_figure_of_settings(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'studies' / 'autoencoders')
  import autoencoder_steps

  drawn = {}
  monkeypatch.setattr(autoencoder_steps, 'draw', lambda runs, end, path: drawn.update(runs=dict(runs), end=end))
  log, figure = ROOT / 'docs/results/logs/autoencoders_validation.jsonl', tmp_path / 'figure.png'
  monkeypatch.setattr('sys.argv', ['steps', str(log), '--bars=300800', f'--figure={figure}'])
  autoencoder_steps.main()
  assert drawn['runs']['Muon 6e-3'][-1] == (300_800, pytest.approx(0.005824, abs=1e-6)) and drawn['end'] == 300_800
  monkeypatch.undo()
  autoencoder_steps.draw(drawn['runs'], 300_800, figure)
  assert figure.stat().st_size > 10_000


def test_another_metric_and_data_that_the_source_has_no_error_of(autoencoders, tmp_path, monkeypatch, capsys):
  write_run(tmp_path / 'runs' / 'tested', 'mnist_autoencoder.py:none', 0.0125)
  write_run(tmp_path / 'runs' / 'none', 'mnist_autoencoder.py:none', 0.25, seed=1, metric='val/mse')
  path = tmp_path / 'runs' / 'none' / 'summary.json'
  summary = json.loads(path.read_text())
  summary['config']['data']['name'] = 'fashion_mnist'
  path.write_text(json.dumps(summary))
  monkeypatch.setattr('sys.argv', ['autoencoders.py', str(tmp_path / 'runs'), '--metric=val/mse'])
  autoencoders.main()
  out, err = capsys.readouterr()
  assert err == '1 runs without val/mse left out\n'
  (line,) = out.splitlines()[2:]
  assert [cell.strip() for cell in line.split('|')[4:-1]] == ['1,000,000', '', '0.250000', '1', '']
