r"""Which changes improved the Mixer auto-encoder: validation errors of a log, as bars and as curves.

  python studies/autoencoders/autoencoder_steps.py docs/results/logs/autoencoders_validation.jsonl --bars=300800 \
    --figure=autoencoder_steps.png

A log line is one evaluation: `setting`, `images` seen in training, `val/mse`. Settings that end after --bars images
become bars of their last error, in the order of the log; the others become curves.
"""

import argparse
import collections
import itertools
import json
from pathlib import Path

from matplotlib.figure import Figure


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('log', type=Path)
  parser.add_argument('--figure', type=Path, required=True, help='output PNG')
  parser.add_argument('--bars', type=int, required=True, help='settings that end after this many images become bars')
  args = parser.parse_args()
  runs = collections.defaultdict(list)
  for line in args.log.read_text(encoding='utf-8').splitlines():
    entry = json.loads(line)
    runs[entry['setting']].append((entry['images'], entry['val/mse']))
  draw(runs, args.bars, args.figure)


def draw(runs: dict[str, list[tuple[int, float]]], end: int, path: Path) -> None:
  bars = {setting: points[-1][1] for setting, points in runs.items() if points[-1][0] == end}
  figure = Figure(figsize=(8, 3.2), layout='constrained')
  left, right = figure.subplots(1, 2)
  drawn = left.barh(list(bars), list(bars.values()), color='0.7')
  left.bar_label(drawn, fmt='%.5f', padding=2, fontsize=8)
  left.invert_yaxis()
  left.set(xlabel=f'validation error after {end:,} images', xlim=(0, 1.35 * max(bars.values())))
  looks = itertools.cycle(('-o', '--s', ':^', '-.v'))
  for setting in [setting for setting in runs if setting not in bars]:
    images, errors = zip(*runs[setting], strict=True)
    right.plot(images, errors, next(looks), label=setting, markersize=4)
  right.set(xlabel='images in training', ylabel='validation error')
  right.xaxis.set_major_formatter('{x:,.0f}')
  right.tick_params(axis='x', rotation=20)
  right.grid(alpha=0.3)
  right.legend(frameon=False, fontsize=8)
  figure.savefig(path, dpi=150)


if __name__ == '__main__':
  main()
