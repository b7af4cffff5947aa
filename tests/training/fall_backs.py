"""Damages the newest checkpoint of a stopped run, resumes it, and compares the end in every bit with an unharmed one.

  python tests/training/fall_backs.py --count=500 --seed=0

The run has to fall back to the checkpoint before. Each try is a process of its own, forked before jax has started,
with files of its own. Half of them damage `_METADATA`, the others any file: cut, emptied, a bit flipped, or some zeros.
Where the damage changes nothing that is read, the newest checkpoint itself is resumed, which must end in the same bits.
Prints the tries that differ; exit code 0 when there are none.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import kill
import numpy as np

STOPPED = 60


def config() -> dict:
  tiny = kill.tiny(total='90 steps', checkpoint_every='10 steps', log_every='15 steps')
  return tiny | {'data': tiny['data'] | {'test': ''}}  # without evaluation: it takes most of the time


def stop_early(folder: Path) -> None:
  """A run that a signal stopped at STOPPED."""
  from mixer_jax.training import loop

  checked, asked = loop._agreed, []

  def agreed(value):
    stopped = [int(path.name) for path in (folder / 'checkpoints').glob('*') if path.name.isdecimal()]
    if max(stopped, default=0) >= STOPPED and not asked:
      asked.append(True)
      os.kill(os.getpid(), signal.SIGTERM)
    return checked(value)

  loop._agreed, loop.CALL_SECONDS = agreed, 0.0
  loop.train_and_evaluate(config(), folder)


def damage(path: Path, rng: random.Random) -> str:
  data = bytearray(path.read_bytes())
  kind, place = rng.choice(['cut', 'flip', 'empty', 'zeros']), rng.randrange(max(len(data), 1))
  if kind == 'flip' and data:
    data[place] ^= 1 << rng.randrange(8)
  elif kind == 'zeros':
    data[place : place + 20] = bytes(len(data[place : place + 20]))
  else:
    del data[place if kind == 'cut' else 0 :]
  path.write_bytes(data)
  return f'{kind} at {place}'


def unharmed(folder: Path) -> None:
  """A run to the end; its last state goes to a file beside it."""
  from mixer_jax.training import loop

  loop.train_and_evaluate(config(), folder)
  np.savez(folder.with_suffix('.npz'), **kill.last_state(folder))


def resumed(whole: Path, run: Path, out: Path) -> None:
  """Resumes a run to its end; writes where it began, and what differs from `whole`, as JSON."""
  from mixer_jax.training import checkpoints, loop

  began, restore = [], checkpoints.Checkpoints.restore_last

  def noted(self, *arguments, **named):
    state = restore(self, *arguments, **named)
    began.append(int(state.step))
    return state

  checkpoints.Checkpoints.restore_last = noted
  loop.train_and_evaluate(config(), run)
  checkpoints.Checkpoints.restore_last = restore
  with np.load(whole.with_suffix('.npz')) as reference:
    differences = kill.unequal(dict(reference), kill.last_state(run))
  differences += [] if kill.log_lines(whole) == kill.log_lines(run) else ['metrics.jsonl']
  out.write_text(json.dumps({'from': began[0], 'differences': differences}))


def apart(function, *arguments) -> int:
  """Calls a function in a forked process; returns its exit status."""
  if child := os.fork():
    return os.waitpid(child, 0)[1]
  code = 1
  try:
    function(*arguments)
    code = 0
  finally:
    sys.stdout.flush()
    os._exit(code)


def main() -> None:
  options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  options.add_argument('--count', type=int, default=500)
  options.add_argument('--seed', type=int, default=0)
  known = options.parse_args()
  sys.path.insert(0, str(kill.ROOT))
  began, rng, found, bad = time.monotonic(), random.Random(known.seed), collections.Counter(), 0
  with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder / 'xla'))
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    import sklearn.datasets  # noqa: F401 - so that the tries need not import them

    from mixer_jax.training import loop  # noqa: F401 - and jax, which reads these variables then

    if apart(unharmed, folder / 'whole') or apart(stop_early, folder / 'stopped'):
      sys.exit('the unharmed runs failed')
    for number in range(known.count):
      run, out = folder / 'run', folder / 'out.json'
      shutil.copytree(folder / 'stopped', run)
      newest = max((run / 'checkpoints').iterdir(), key=lambda path: int(path.name))
      files = sorted(path for path in newest.rglob('*') if path.is_file())
      chosen = rng.choice([p for p in files if p.name == '_METADATA'] if number % 2 == 0 else files)
      told = f'{chosen.relative_to(newest)} {damage(chosen, rng)}'
      status = apart(resumed, folder / 'whole', run, out)
      result = json.loads(out.read_text()) if out.exists() else {'from': None, 'differences': [f'exit status {status}']}
      found[str(result['from'])] += 1
      if result['differences']:
        bad += 1
        print(f'DIFFERENT, try {number}: {told}, from {result["from"]}: {result["differences"]}', flush=True)
      if number % 50 == 49:
        print(f'{number + 1} tries, {bad} differ, {time.monotonic() - began:.0f} s', flush=True)
      shutil.rmtree(run)
      out.unlink(missing_ok=True)
  print(f'verdict: {known.count} tries, resumed from step {dict(found)}, {bad} differ')
  sys.exit(bool(bad))


if __name__ == '__main__':
  main()
