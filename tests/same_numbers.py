"""Ten short runs end with the same bits as before: a check around a refactoring, run by hand.

  python tests/same_numbers.py            # compares with tests/same_numbers.json
  python tests/same_numbers.py --write    # stores what comes out, to be committed with the reason for what changed
  python tests/same_numbers.py digits finetune

Each run is a command of its own, on one device, optimised as users have it. Each has two hashes, `PARAMETERS/LOG`: of
its final parameters (by value: the sorted hashes of the arrays, so that names may change), and of the lines of its log
without times. Processors round differently, so hashes are kept by processor. MNIST and UNSW-NB15 come from
MIXER_DATA_DIR.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

ROOT = Path(__file__).resolve().parents[1]
STORE = Path(__file__).with_suffix('.json')
RUNS = {
  'digits': ('digits.py', 'total=10 epochs'),
  'digits_sam': (
    'digits.py', 'total=5 epochs', 'schedule.warmup=1 epoch', "sam={'name': 'sam', 'rho': 0.05, 'sync': True}",
    'ema=0.9', 'accumulate=2',
  ),
  'digits_streamed': (
    'digits.py', 'total=5 epochs', 'schedule.warmup=1 epoch', 'data.resident_mib=0.0', 'data.workers=2',
  ),
  'mnist': ('mnist.py', 'total=100 steps'),
  'mnist_best': ('mnist.py:best', 'total=50 steps', 'schedule.warmup=10 steps'),
  'breast_cancer': ('breast_cancer.py', 'total=10 epochs'),
  'unsw_nb15': ('unsw_nb15.py', 'total=100 steps', 'schedule.warmup=10 steps'),
  'digits_autoencoder': ('digits_autoencoder.py', 'total=100 steps', 'schedule.warmup=10 steps'),
  'cnn2df': ('mnist_autoencoder.py:cnn2df-234-k7', 'total=20 steps', 'schedule.warmup=5 steps'),
  'finetune': ('finetune.py:{digits},digits,adamw', 'total=20 steps'),
}  # fmt: skip


def command(*arguments: str) -> None:
  process = subprocess.run([sys.executable, '-m', *arguments], cwd=ROOT, capture_output=True, text=True)
  if process.returncode:
    sys.exit(f'{" ".join(arguments)}\n{process.stdout[-2000:]}\n{process.stderr[-2000:]}')


def processor() -> str:
  """What decides how sums are rounded: model and vector instructions of the processor, and the version of XLA."""
  lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else []
  of = {line.partition(':')[0].strip(): line.partition(':')[2].strip() for line in lines}
  vectors = [flag for flag in ('avx2', 'fma', 'avx512f', 'avx512_bf16', 'amx_tile') if flag in of.get('flags', '')]
  return ' '.join(
    [of.get('model name', platform.machine()), *vectors, f'{os.cpu_count()} cores', 'jax', jax.__version__]
  )


def digest(run: Path, weights: Path) -> str:
  """PARAMETERS/LOG."""
  arrays = safetensors.numpy.load_file(weights / 'model.safetensors').values()
  parameters = sorted(hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest() for a in arrays)
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  numbers = [{name: value for name, value in line.items() if not name.startswith('time/')} for line in lines]
  log = [json.dumps(line, sort_keys=True) for line in numbers]
  return '/'.join(hashlib.sha256('\n'.join(part).encode()).hexdigest()[:12] for part in (parameters, log))


def main() -> None:
  options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  options.add_argument('runs', nargs='*', help=f'of {", ".join(RUNS)} (default: all)')
  options.add_argument('--write', action='store_true', help='store the hashes')
  known = options.parse_args()
  if unknown := set(known.runs) - set(RUNS):
    options.error(f'no runs {", ".join(unknown)}; there are {", ".join(RUNS)}')
  chosen = dict.fromkeys([*(['digits'] if 'finetune' in known.runs else []), *known.runs]) or RUNS
  stored = json.loads(STORE.read_text()) if STORE.exists() else {}
  here = stored.setdefault(processor(), {})
  differ = []
  with tempfile.TemporaryDirectory() as folder:
    for name in chosen:
      config, *keys = RUNS[name]
      run, weights = Path(folder) / name, Path(folder) / f'{name}_weights'
      began = time.monotonic()
      command(
        'mixer_jax.train', f'--config=configs/{config.format(digits=Path(folder) / "digits")}', f'--workdir={run}',
        *(f'--config.{key}' for key in keys),
      )  # fmt: skip
      command('mixer_jax.convert', f'--from={run}', f'--to={weights}')
      found = digest(run, weights)
      verdict = 'stored' if known.write else 'same' if here.get(name) == found else f'DIFFERS from {here.get(name)}'
      print(f'{name:20} {found}  {time.monotonic() - began:5.1f} s  {verdict}', flush=True)
      differ += [name] if verdict.startswith('DIFFERS') else []
      here[name] = found
  if known.write:
    STORE.write_text(json.dumps(stored, indent=2) + '\n')
  if differ:
    sys.exit(f'{len(differ)} of {len(chosen)} runs differ on {processor()}: {", ".join(differ)}')
  print(f'{len(chosen)} runs {"stored" if known.write else "are the same"} on {processor()}')


if __name__ == '__main__':
  main()
