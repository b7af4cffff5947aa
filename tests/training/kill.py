"""Kills a training run with SIGKILL, resumes it, and compares it in every bit with an unharmed one.

  python tests/training/kill.py --config=configs/digits.py --kills=10 --seed=0 [--config.key=value ...]

Each kill has one of four moments, in turn: `start`, before the first log line; `anywhere` in the wall time of the
unharmed run; `save`, while orbax writes a checkpoint; `end`, after the last step. A run that reaches its end before the
kills are used up is compared, and the next one takes the rest. Exit code 0 when nothing differs.

`--processes=2` trains with so many: one of them is killed, and the others must end by themselves. `--hard` adds
dropout, stochastic depth, augmentation and mixup to the config. The functions here serve the tests too.
"""

import argparse
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
MOMENTS = ('start', 'anywhere', 'save', 'end')
TOGETHER = 60.0  # seconds in which the other processes of a killed one must end
HARD = {
  'model': {'dropout': 0.1, 'stochastic_depth': 0.1},
  'augment': {
    'affine': {'degrees': 10.0, 'translate': 0.1, 'scale': 0.1, 'shear': 10.0},
    'mixup': {'alpha': 0.5},
  },
}


def tiny(**changes) -> dict:
  """The config of a run of seconds with everything random on, and intervals that do not divide each other."""
  from mixer_jax import config as configs

  config = configs.load([f'--config={ROOT / "configs" / "digits.py"}'])
  config['model'] |= {'hidden': 16, 'blocks': 2, 'token_mlp': 8, 'channel_mlp': 32, **HARD['model']}
  config['schedule']['warmup'] = '5 steps'
  config |= {'total': '60 steps', 'augment': HARD['augment']}
  config['augment_until'] = '75%' if changes.get('augment', HARD['augment']) else '100%'
  config |= {'log_every': '7 steps', 'eval_every': '25 steps', 'checkpoint_every': '10 steps'}
  return config | changes


def start(config: str, workdir: Path, extra: list[str], out: Path, **environment: str) -> subprocess.Popen:
  """A training process, whose output goes to a file; what it compiles is kept beside the run."""
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR') or str(Path(workdir).parent / 'xla')
  environment = {
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1', **os.environ, 'JAX_COMPILATION_CACHE_DIR': cache,
    'PYTHONUNBUFFERED': '1',
    'PYTHONPATH': os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]), **environment,
  }  # fmt: skip
  command = [sys.executable, '-m', 'mixer_jax.train', f'--config={config}', f'--workdir={workdir}', *extra]
  with out.open('w') as file:
    return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def devices(count: int) -> str:
  """XLA_FLAGS that simulate so many devices, beside those of the environment."""
  return f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={count}'


def wait(process: subprocess.Popen, seconds: float) -> int | None:
  """The exit code, or None after `seconds` of waiting."""
  try:
    return process.wait(seconds)
  except subprocess.TimeoutExpired:
    return None


def kill(process: subprocess.Popen) -> None:
  process.send_signal(signal.SIGKILL)
  process.wait()


def log_lines(workdir: Path) -> list[dict]:
  """metrics.jsonl without the times, and without the lines that hold nothing else: when a run stopped."""
  lines = [json.loads(line) for line in (Path(workdir) / 'metrics.jsonl').read_text().splitlines()]
  lines = [{k: v for k, v in line.items() if not k.startswith('time/')} for line in lines]
  return [line for line in lines if len(line) > 1]


@functools.cache
def shapes_of(config: str, schema: str):
  """The shapes of the state of a config; both are JSON, the schema is that of a table or null."""
  from mixer_jax.data.tables.schema import Schema
  from mixer_jax.training import experiment

  schema = json.loads(schema)
  built = experiment.build(json.loads(config), schema=schema and Schema.from_json(schema))
  return built.init_state(built.optimizer()[0], abstract=True)


def last_state(workdir: Path) -> dict[str, np.ndarray]:
  """The arrays of the last checkpoint by name: parameters, optimizer state, average, sums, step."""
  import jax

  from mixer_jax.training import checkpoints
  from mixer_jax.training import workdir as workdirs

  config = workdirs.read_config(Path(workdir)) | {'mesh': {'data': -1, 'fsdp': 1}}
  schema = Path(workdir) / 'schema.json'
  shapes = shapes_of(json.dumps(config), schema.read_text() if schema.exists() else 'null')
  reader = checkpoints.Checkpoints(workdir, read_only=True)
  state = reader.restore_last(shapes, set_aside=False)
  reader.close()
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.flatten_with_path(state)[0]}


def unequal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[str]:
  """The names of the arrays that are not the same in every bit."""
  same = lambda x, y: (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
  return [name for name in sorted({*a, *b}) if not (name in a and name in b and same(a[name], b[name]))]


def differences(reference: Path, other: Path) -> list[str]:
  """What differs between two finished runs; times do not count."""
  found = [f'state {name}' for name in unequal(last_state(reference), last_state(other))]
  a, b = log_lines(reference), log_lines(other)
  found += [f'metrics.jsonl has {len(a)} and {len(b)} lines'] if len(a) != len(b) else []
  found += [f'metrics.jsonl line {i + 1}: {x} and {y}' for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
  a, b = (json.loads((Path(d) / 'summary.json').read_text()) for d in (reference, other))
  return found + [f'summary.json {key}' for key in ('metrics', 'best', 'parameters', 'steps') if a[key] != b[key]]


def start_all(config: str, workdir: Path, extra: list[str], out: Path, count: int) -> list[subprocess.Popen]:
  """The processes of a run, of one device each where there are several."""
  if count == 1:
    return [start(config, workdir, extra, out)]
  port = free_port()
  joined = lambda i: [f'--coordinator=127.0.0.1:{port}', f'--processes={count}', f'--process={i}']
  gloo = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': devices(1), 'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo'}
  outs = [out, *(out.with_suffix(f'.{i}.txt') for i in range(1, count))]
  return [start(config, workdir, [*extra, *joined(i)], outs[i], **gloo) for i in range(count)]


def free_port() -> int:
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def study(
  config: str, extra: list[str], *, kills: int, seed: int, folder: Path, processes: int = 1, limit: float = 3600
) -> dict:
  """Runs, kills, resumes; the record of it all."""
  rng = np.random.default_rng(seed)
  begin = lambda name: start_all(config, folder / name, extra, folder / f'{name}.txt', processes)
  # The first run fills the compilation cache, so that the time of the second is that of a resumed one.
  for name in ('first', 'reference'):
    began = time.monotonic()
    codes = [wait(process, limit) for process in begin(name)]
    if any(code != 0 for code in codes):
      raise RuntimeError(f'the unharmed run failed:\n{(folder / f"{name}.txt").read_text()}')
  seconds = time.monotonic() - began
  record = {'seconds': seconds, 'kills': [], 'differences': differences(folder / 'first', folder / 'reference')}
  run, last = 0, {}
  while len(record['kills']) < kills or 'summary.json' not in last:
    workdir, out = folder / f'killed_{run}', folder / f'killed_{run}.txt'
    fresh, began, number = not workdir.exists(), time.monotonic(), len(record['kills'])
    moment = MOMENTS[number % len(MOMENTS)]
    started = begin(workdir.name)
    code = None
    if number < kills:
      code = await_moment(moment, started, workdir, out, rng, seconds)
    else:
      code = max((wait(process, limit) for process in started), key=abs)
    last = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    if code is None:
      after, victim = time.monotonic() - began, int(rng.integers(processes))
      kill(started[victim])
      others = [process for process in started if process is not started[victim]]
      hung = [process for process in others if wait(process, TOGETHER) is None]
      record['differences'] += [f'kill {number}: {len(hung)} processes went on for {TOGETHER:.0f} s'] if hung else []
      for process in hung:
        kill(process)
      died = {'run': run, 'moment': moment, 'process': victim, 'after': round(after, 2)}
      record['kills'].append({**died, **moment_of_death(workdir, out.read_text())})
      print(record['kills'][-1], flush=True)
      last = {}
      continue
    if code:
      raise RuntimeError(f'a resumed run failed:\n{out.read_text()}')
    if fresh:  # On a busy machine the reference may have been slow: moments after the end kill nobody.
      seconds = min(seconds, time.monotonic() - began)
    record['differences'] += [f'run {run}: {text}' for text in differences(folder / 'reference', workdir)]
    run += 1
  record['runs'] = run
  return record


def await_moment(
  moment: str, processes: list[subprocess.Popen], workdir: Path, out: Path, rng: np.random.Generator, seconds: float
) -> int | None:
  """Waits until it is time to kill; returns the exit code instead if the run ends before."""
  deadline = time.monotonic() + rng.uniform() * seconds * (0.3 if moment == 'start' else 1.0)
  saves, before = int(rng.integers(1, 4)), {path.name for path in (workdir / 'checkpoints').glob('*')}
  seen: set[str] = set()

  def is_time() -> bool:
    if moment in ('start', 'anywhere'):
      return time.monotonic() > deadline
    if moment == 'save':
      seen.update(path.name for path in (workdir / 'checkpoints').glob('*') if not path.name.isdigit())
      return len(seen - before) >= saves
    return bool(re.search(r'^step (\d+)/\1 ', out.read_text(), re.MULTILINE))

  while not is_time():
    codes = [process.poll() for process in processes]
    if None not in codes:
      return max(codes, key=abs)
    time.sleep(0.002)
  if moment == 'end':
    time.sleep(rng.uniform(0, 0.5))
  codes = [process.poll() for process in processes]
  return None if None in codes else max(codes, key=abs)


def moment_of_death(workdir: Path, out: str) -> dict:
  """Where a process was when it was killed, as far as its traces tell."""
  resumed = re.search(r'resumed at step ([\d,]+)', out)
  steps = [int(step) for step in re.findall(r'^step (\d+)/', out, re.M)]
  folder = workdir / 'checkpoints'
  names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
  return {
    'from': int(resumed[1].replace(',', '')) if resumed else 0 if 'steps of' in out else None,
    'logged': steps[-1] if steps else None,
    'whole': sorted(int(name) for name in names if name.isdigit()),
    'half_written': sorted(name for name in names if not name.isdigit()),
  }


def overrides(config: str) -> str:
  """The text of a config file that is `config` with HARD in it."""
  file, _, argument = config.partition(':')
  return '\n'.join(
    [
      'import importlib.util',
      f'spec = importlib.util.spec_from_file_location("plain", {str(Path(file).resolve())!r})',
      'module = importlib.util.module_from_spec(spec)',
      'spec.loader.exec_module(module)',
      'def get_config(arg=None):',
      f'  config = module.get_config({argument!r} or None)',
      f'  config.model.update({HARD["model"]!r})',
      f'  config.augment = {HARD["augment"]!r}',
      '  return config',
      '',
    ]
  )


def main() -> None:
  options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  options.add_argument('--config', required=True)
  options.add_argument('--kills', type=int, default=10)
  options.add_argument('--seed', type=int, default=0)
  options.add_argument('--processes', type=int, default=1)
  options.add_argument('--hard', action='store_true', help='with dropout, stochastic depth, augmentation and mixup')
  known, extra = options.parse_known_args()
  with tempfile.TemporaryDirectory() as folder:
    config = known.config
    if known.hard:
      config = str(Path(folder) / 'hard.py')
      Path(config).write_text(overrides(known.config))
    began = time.monotonic()
    record = study(config, extra, kills=known.kills, seed=known.seed, folder=Path(folder), processes=known.processes)
    lines = len(log_lines(Path(folder) / 'reference'))
    arrays = last_state(Path(folder) / 'reference')
  print(f'unharmed run: {record["seconds"]:.1f} s; the whole study: {time.monotonic() - began:.0f} s')
  print(f'compared: {len(arrays)} arrays ({sum(a.nbytes for a in arrays.values()):,} bytes), {lines} lines of the log')
  for text in record['differences']:
    print(f'DIFFERENT: {text}')
  moments = ', '.join(f'{sum(kill["moment"] == moment for kill in record["kills"])} {moment}' for moment in MOMENTS)
  half = sum(bool(kill['half_written']) for kill in record['kills'])
  print(f'moments: {moments}; {half} times a checkpoint was half written')
  verdict = 'every bit the same' if not record['differences'] else f'{len(record["differences"])} differences'
  print(f'verdict: {len(record["kills"])} kills in {record["runs"]} runs, {verdict}')
  sys.exit(bool(record['differences']))


if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))
  main()
