"""The cost of SAM and its variants: train steps against plain Adam, interleaved in one process.

  python benchmarks/sam_cost.py --what mnist --rounds 9 --json sam_cost.json

mnist: the network of configs/mnist.py, batch 64, Adam, with its augmentation; s16: Mixer-S/16 at 224 pixels, Adam.
Each round runs --steps steps of every method, a multiple of LookSAM's period; ratios are medians over the rounds.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

METHODS = {
  'adam': {},
  'sam': {'name': 'sam', 'rho': 0.05, 'sync': True},
  'asam': {'name': 'asam', 'rho': 0.5, 'eta': 0.01, 'sync': True},
  'gsam': {'name': 'gsam', 'rho': 0.05, 'rho_min': 0.01, 'alpha': 0.4, 'sync': True},
  'fisher_sam': {'name': 'fisher_sam', 'rho': 0.05, 'sparsity': 0.5, 'refresh': 100, 'sync': True},
  'dynamic_sam': {'name': 'dynamic_sam', 'rho': 0.05, 'sparsity': 0.5, 'refresh': 100, 'drop': 0.5, 'sync': True},
  'look_sam': {'name': 'look_sam', 'rho': 0.05, 'every': 5, 'alpha': 0.7, 'sync': True},
}
STEPS = {'mnist': 100, 's16': 5}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--what', choices=STEPS, default='mnist')
  parser.add_argument('--batch', type=int, default=0, help='batch size (default: 64, or 8 for s16)')
  parser.add_argument('--methods', default=','.join(METHODS), help='comma-separated; adam is always included')
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--steps', type=int, help='per round (default: 100, or 5 for s16); LookSAM needs a multiple of 5')
  parser.add_argument('--json', type=Path, help='output JSON')
  args = parser.parse_args()
  methods = list(dict.fromkeys(['adam', *args.methods.split(',')]))
  unknown = [name for name in methods if name not in METHODS]
  if unknown:
    parser.error(f'no method {unknown[0]!r}; there are {", ".join(METHODS)}')
  steps = args.steps or STEPS[args.what]
  runs = {name: make_method(args.what, name, args.batch, steps) for name in methods}
  seconds = {name: [] for name in methods}
  for _ in range(args.rounds):
    for name, run in runs.items():
      began = time.perf_counter()
      run(steps)
      seconds[name].append((time.perf_counter() - began) / steps)
  ratios = {
    name: statistics.median(own / base for own, base in zip(values, seconds['adam'], strict=True))
    for name, values in seconds.items()
  }
  for name, values in seconds.items():
    ms = [1e3 * value for value in values]
    print(f'{name:12} {statistics.median(ms):9.2f} ms a step ({min(ms):.2f} to {max(ms):.2f})  {ratios[name]:.3f}')
  if args.json:
    result = {'what': args.what, 'ratios': ratios, 'seconds_per_step': seconds}
    args.json.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')


def make_method(what: str, name: str, batch: int, steps: int):
  """run(count) of a method, warmed up so that everything has compiled."""
  from peers import make_config, make_images, make_run

  config = make_config(what, 'ours')
  if what == 'mnist':
    config['augment'] = {'rotation': {'degrees': 15.0}}
  config |= {'batch_size': batch or (64 if what == 'mnist' else 8), 'sam': METHODS[name]}
  run = make_run(config, *make_images(config['data'], 8 * config['batch_size']))[0]
  run(steps)
  return run


if __name__ == '__main__':
  from mixer_jax import cli

  cli.use_huge_pages()
  main()
