"""README's own model, mixing layer, task and data set, from a folder outside the repository, through every command."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from mixer_jax.weights import trust

README = Path(__file__).resolve().parents[1] / 'README.md'
SMALL = ('model.hidden=8', 'model.blocks=2', 'model.channel_mlp=8')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with README's mine.py, and the commands below it."""
  folder = tmp_path_factory.mktemp('outside')
  page = README.read_text().partition('\n## Your own model, mixing layer, task, data set\n')[2].partition('\n## ')[0]
  (source,) = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
  (folder / 'mine.py').write_text(source)
  (commands,) = re.findall(r'```bash\n(.*?)```', page, re.DOTALL)
  (folder / 'commands').write_text(commands.replace('\\\n', ' '))
  return folder


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.syspath_prepend(folder)


@pytest.fixture(scope='module', params=['mine', pytest.param('shift', marks=pytest.mark.slow)])
def run(request, folder, run_command):
  """A run by one of README's commands, of few steps."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    command = next(line for line in Path('commands').read_text().splitlines() if f'runs/{request.param} ' in line)
    arguments = command.split()[3:]
    short = ['--config.total=20 steps', '--config.schedule.warmup=5 steps', '--config.batch_size=16']
    short += ['--config.checkpoint_every=10 steps']
    small = [f'--config.{key}' for key in SMALL] if request.param == 'shift' else []
    assert run_command('train', *arguments, *short, *small) == 0
    return f'runs/{request.param}', [*arguments, *short, *small]


def test_every_command_takes_such_a_run(run, run_command, capsys):
  workdir, arguments = run
  config = json.loads(Path(workdir, 'config.json').read_text())
  classes = json.loads(Path(workdir, 'labels.json').read_text())
  assert 'mine:' in json.dumps(config) and json.loads(Path(workdir, 'modules.json').read_text()).keys() == {'mine'}

  capsys.readouterr()
  assert run_command('evaluate', f'--workdir={workdir}') == 0
  evaluated = json.loads(capsys.readouterr().out)
  logged = json.loads(Path(workdir, 'metrics.jsonl').read_text().splitlines()[-1])
  assert evaluated['accuracy'] == pytest.approx(logged['test/accuracy'])

  pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
  Path('scans').mkdir(exist_ok=True)
  for i, image in enumerate(pixels):
    Image.fromarray(image).save(f'scans/{i}.png')
  assert run_command('predict', f'--workdir={workdir}', '--input=scans', f'--output={workdir}/classes.csv') == 0
  lines = Path(workdir, 'classes.csv').read_text().splitlines()
  assert len(lines) == 4 and {line.split(',')[1] for line in lines[1:]} <= set(classes)

  assert run_command('export', f'--workdir={workdir}', f'--output={workdir}/run.stablehlo', '--platforms=cpu') == 0
  exported = jax.export.deserialize(bytearray(Path(workdir, 'run.stablehlo').read_bytes()))
  probabilities = np.asarray(exported.call(pixels[..., None])['probabilities'])
  assert [classes[k] for k in probabilities.argmax(1)] == [line.split(',')[1] for line in lines[1:]]

  few = ('--shots=2', '--draws=1', f'--workdir={workdir}')
  assert run_command('analyze', 'few_shot', *few) == 0
  least = ('--examples=16', '--iterations=2', '--eigenvalues=1', '--probes=2', '--points=3', '--m=8')
  assert run_command('analyze', 'sharpness', f'--workdir={workdir}', *least) == 0
  assert json.loads(Path(workdir, 'sharpness.json').read_text())['examples'] == 16


def test_it_resumes_to_the_same_end(run, run_command):
  workdir, arguments = run
  again = f'{workdir}_again'
  shutil.copytree(workdir, again)
  lines = Path(again, 'metrics.jsonl').read_text().splitlines()
  steps = sorted(int(path.name) for path in Path(again, 'checkpoints').iterdir() if path.name.isdecimal())
  assert len(steps) > 1 and steps[-1] == 20
  shutil.rmtree(Path(again, 'checkpoints', '20'))
  Path(again, 'summary.json').unlink()
  arguments = [a if not a.startswith('--workdir=') else f'--workdir={again}' for a in arguments]
  assert run_command('train', *arguments) == 0
  without = lambda text: {k: v for k, v in json.loads(text).items() if not k.startswith('time/')}
  assert [*map(without, Path(again, 'metrics.jsonl').read_text().splitlines())] == [*map(without, lines)]


def test_a_new_head_layers_that_learn_slower_and_a_sweep(run, run_command):
  workdir, arguments = run
  digits = [a for a in arguments if not a.startswith(('--workdir=', '--config.data.'))]
  start = [f'--config.init_from.weights={workdir}', '--config.init_from.head=new', '--config.layers.decay=0.5']
  assert run_command('train', *digits, *start, f'--workdir={workdir}_digits') == 0
  assert json.loads(Path(f'{workdir}_digits', 'init_from.json').read_text())['kind'] == 'run'
  peaks = '--over=schedule.peak=1e-3,1e-2'
  config = next(a for a in arguments if a.startswith('--config='))
  rest = [a for a in arguments if a.startswith('--config.')]
  assert run_command('sweep', config, *rest, peaks, f'--workdir={workdir}_sweep') == 0
  assert Path(f'{workdir}_sweep', 'table.md').read_text().count('\n| ') >= 2


def test_a_model_folder_is_trusted_by_name_only(run, run_command, monkeypatch):
  monkeypatch.setattr(trust, 'TRUSTED', set())  # of this process, whatever ran in it before
  workdir, arguments = run
  model = f'{workdir}_model'
  assert run_command('convert', f'--from={workdir}', f'--to={model}', '--check') == 0
  arguments = [a for a in arguments if not a.startswith('--workdir=')]
  start = [f'--config.init_from.weights={model}', f'--workdir={workdir}_from_folder']
  message = run_command('train', *arguments, *start)
  assert "asks for 'mine:" in message and 'add --trust=mine' in message
  assert not Path(f'{workdir}_from_folder').exists()
  assert run_command('train', *arguments, *start, '--trust=mine') == 0


def test_what_is_no_model_is_none(folder, refused):
  refused('train', '--config=digits', '--workdir=x', '--config.model.name=os:system', parts=['os:system', 'nnx.Module'])
  refused('train', '--config=digits', '--workdir=x', '--config.task.name=mine:Shift', parts=['task', 'mine:Shift'])
  refused('train', '--config=digits', '--workdir=x', '--config.data.name=mine:zebras', parts=['zebras', 'stripes'])


def test_a_module_that_is_gone_is_named_with_its_place(run, folder, tmp_path):
  workdir, _ = run
  shutil.copytree(workdir, tmp_path / 'run')
  command = [sys.executable, '-m', 'mixer_jax.evaluate', f'--workdir={tmp_path / "run"}']
  found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
  assert found.returncode == 1 and found.stderr.count('\n') == 1
  for part in ("'mine'", str(folder / 'mine.py'), 'PYTHONPATH'):
    assert part in found.stderr
