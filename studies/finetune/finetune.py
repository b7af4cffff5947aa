"""The benefit of pre-trained weights: finished runs of configs/finetune.py in one table.

  python studies/finetune/finetune.py runs/finetune --log=finetune.jsonl
  python studies/finetune/finetune.py finetune.jsonl

Reads every run below the folders; files are logs with one line per run, as --log writes them. Each row is a setting,
with means and deviations over its runs, which differ in their seed or in their initial weights.
"""

import argparse
import collections
import json
import statistics
import sys
from pathlib import Path

from mixer_jax.training.summary import finished

SHOWN = {'val': 'validation (%)', 'test': 'test (%)'}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('runs', nargs='+', type=Path, help='folders of runs, or logs')
  parser.add_argument('--log', type=Path, help='output JSON lines, one per run')
  args = parser.parse_args()
  runs = [run for place in args.runs for run in read(place)]
  if not runs:
    sys.exit(f'error: no finished run in {" ".join(map(str, args.runs))}')
  groups = collections.defaultdict(list)
  for run in runs:
    groups[tuple((key, run[key]) for key in ('data', 'train', 'image', 'patch', 'what', 'epochs', 'peak'))].append(run)
  splits = [split for split in SHOWN if any(split in run for run in runs)]
  columns = ['data', 'size', 'patch', 'what', 'epochs', 'peak', 'runs', *map(SHOWN.get, splits), 's per run']
  print(f'| {" | ".join(columns)} |\n|{"---|" * len(columns)}')
  for key, group in sorted(groups.items()):
    setting = dict(key)
    found = [mean_and_deviation([100 * run[split] for run in group if split in run]) for split in splits]
    print(
      f'| {setting["data"]}, {setting["train"]} | {setting["image"]} | {setting["patch"]} | {setting["what"]}'
      f' | {setting["epochs"]:g} | {setting["peak"]:g} | {len(group)} | {" | ".join(found)}'
      f' | {statistics.median(run["seconds"] for run in group):.0f} |'
    )
  if args.log:
    args.log.write_text(''.join(json.dumps(run) + '\n' for run in runs), encoding='utf-8')


def read(place: Path) -> list[dict]:
  """The runs below a folder, or of a log, as dicts of what the table needs."""
  if place.is_file():
    return [json.loads(line) for line in place.read_text(encoding='utf-8').splitlines()]
  return [of_run(path.parent) for path in finished(place)]


def of_run(workdir: Path) -> dict:
  summary = json.loads((workdir / 'summary.json').read_text(encoding='utf-8'))
  config, metrics = summary['config'], summary['metrics']
  of = config['init_from']
  if not of['weights']:
    what = 'from scratch'
  else:
    changed = [f'{part} {of[part]}' for part in ('head', 'stem', 'tokens') if of[part] != 'keep']
    what = ', '.join(['the head alone' if config['layers'].get('freeze') else 'fine-tuned', *changed])
  return {
    'data': config['data']['name'], 'train': config['data']['train'],
    'image': 'x'.join(map(str, config['data']['image'])), 'patch': config['model']['patch'], 'what': what,
    'epochs': float(config['total'].split()[0]), 'peak': config['schedule']['peak'], 'optimizer': config['optimizer'],
    'layers': config['layers'], 'init_from': of, 'batch_size': config['batch_size'], 'seed': config['seed'],
    **{split: metrics[f'{split}/accuracy'] for split in SHOWN if f'{split}/accuracy' in metrics},
    'seconds': summary['seconds'], 'device': summary['device'],
  }  # fmt: skip


def mean_and_deviation(values: list[float]) -> str:
  if not values:
    return ''
  deviation = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
  return f'{statistics.fmean(values):.2f}{deviation}'


if __name__ == '__main__':
  main()
