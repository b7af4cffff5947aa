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

from mixer_jax.errors import MixerError
from mixer_jax.training import warm_start, workdir
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


@pytest.fixture(scope='module', params=['mine', pytest.param('shift', marks=pytest.mark.nightly)])
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


def test_a_folder_whose_model_is_none_is_refused_even_if_it_is_trusted(run, run_command, refused, monkeypatch):
  monkeypatch.setattr(trust, 'TRUSTED', set())
  folder = Path(f'{run[0]}_odd')
  assert run_command('convert', f'--from={run[0]}', f'--to={folder}') == 0
  about = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(about | {'model': {'name': 'os:system'}}))
  refused('convert', f'--from={folder}', f'--to={folder}.npz', parts=['os:system', '--trust=os'])
  refused('convert', f'--from={folder}', f'--to={folder}.npz', '--trust=os', parts=['os:system', 'nnx.Module'])


def test_what_is_no_model_is_none(folder, refused):
  refused('train', '--config=digits', '--workdir=x', '--config.model.name=os:system', parts=['os:system', 'nnx.Module'])
  refused('train', '--config=digits', '--workdir=x', '--config.task.name=mine:Shift', parts=['task', 'mine:Shift'])
  refused('train', '--config=digits', '--workdir=x', '--config.data.name=mine:zebras', parts=['zebras', 'stripes'])


@pytest.mark.parametrize(
  'source, parts',
  [
    ('import no_such_library', ['no_such_library']), ('def broken(:', ['SyntaxError']),
    ('1 / 0', ['ZeroDivisionError']), ('', ['mine has no']),
  ],
)  # fmt: skip
def test_a_module_that_has_changed_is_named_with_its_place(source, parts, run, folder, tmp_path, monkeypatch):
  """Not only one that is gone: one that cannot be imported, or lacks what the run needs."""
  shutil.copytree(run[0], tmp_path / 'run')
  monkeypatch.delitem(sys.modules, 'mine')
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'mine.py').write_text(source + '\n')
  with pytest.raises(MixerError) as error:
    workdir.read_config(tmp_path / 'run')
  monkeypatch.delitem(sys.modules, 'mine', raising=False)
  assert str(folder / 'mine.py') in str(error.value) and '\n' not in str(error.value)
  assert all(part in str(error.value) for part in (*parts, f'{tmp_path}/run')), str(error.value)


def test_fine_tuning_by_the_bundled_config(run, run_command):
  """Of a model that takes none of a Mixer's settings, and of one that does; the probe moves the head alone."""
  workdir, arguments = run
  short = ('--config.total=2 steps', '--config.batch_size=16', '--config.schedule.warmup=0', '--config.eval_every=0')
  assert run_command('train', f'--config=finetune:{workdir},digits,probe', *short, f'--workdir={workdir}_probe') == 0
  before, after = (warm_start.read(place).arrays for place in (workdir, f'{workdir}_probe'))
  moved = {name.partition('.')[0] for name in before if not np.array_equal(before[name], after[name])}
  assert moved == {'head'}


def test_a_module_that_is_gone_is_named_with_its_place(run, folder, tmp_path):
  workdir, _ = run
  shutil.copytree(workdir, tmp_path / 'run')
  command = [sys.executable, '-m', 'mixer_jax.evaluate', f'--workdir={tmp_path / "run"}']
  found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
  assert found.returncode == 1 and found.stderr.count('\n') == 1
  for part in ("'mine'", str(folder / 'mine.py'), 'PYTHONPATH'):
    assert part in found.stderr
