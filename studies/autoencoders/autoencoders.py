"""A table and a figure of finished auto-encoders; MNIST settings appear next to their source's errors.

  python studies/autoencoders/autoencoders.py runs/mnist_codes --figure=autoencoders.png
  python studies/autoencoders/autoencoders.py runs/more log.jsonl --log=log.jsonl
  python studies/autoencoders/autoencoders.py runs/photographs --metric=val/mse

Reads every run below the folders that has the metric; files are logs of run summaries as --log writes them. Of runs
with the same config only the first counts; stderr reports how many are left out. Prints a Markdown table: setting,
parameters, FLOPs of matrix products and convolutions per forward pass of one image (padding included), images seen,
the source's error, and the held-out mean squared error at the last step, mean and deviation over the seeds. The figure
shows error against parameters and FLOPs for the most common number of images; lines connect kernel sizes, hollow grey
marks are the source's errors.
"""

import argparse
import collections
import json
import statistics
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullFormatter, NullLocator

from mixer_jax.describe import describe
from mixer_jax.training import settings
from mixer_jax.training.summary import finished

# https://github.com/defgsus/nn-experiments, "MLP-Mixer re-invented for auto-encoding", after 1,000,000 images.
KERNELS = (1, 3, 5, 7, 9, 11, 13)
SOURCE = {
  'none': 0.011366, 'cnn-4-k1': 0.011248, 'cnn-3-k1': 0.010779, 'cnn-2-k1': 0.010677, 'cnn-1-k1': 0.010659,
  'cnn-12-k1': 0.010418, 'cnn-123-k1': 0.010398, 'cnn-1234-k1': 0.010208, 'mlp-4': 0.0105164, 'mlp-1': 0.0078778,
  'mlp-2': 0.0072450, 'mlp-3': 0.0071680, 'mlp-34': 0.0069653, 'mlp-12': 0.0068538, 'mlp-1234': 0.0066289,
  'mlp-123': 0.0065175, 'mlp-234': 0.0065056,
  'convolutions-k3': 0.00718373, 'convolutions-k5': 0.00655708, 'convolutions-k7': 0.00710207,
  'convolutions-k9': 0.00780634,
} | {
  f'{kind}-234-k{kernel}': error
  for kind, errors in {
    'cnn': (0.0105176, 0.0101478, 0.0097217, 0.0095143, 0.0094267, 0.0092456, 0.0092080),
    'cnnf': (0.0095420, 0.0079969, 0.0075978, 0.0073687, 0.0071354, 0.0070069, 0.0070266),
    'cnn2d': (0.0103852, 0.0093458, 0.0086525, 0.0083488, 0.0080035, 0.0077622, 0.0077707),
    'cnn2df': (0.0096381, 0.0071530, 0.0068095, 0.0066100, 0.0066766, 0.0066938, 0.0067350),
  }.items()
  for kernel, error in zip(KERNELS, errors, strict=True)
}  # fmt: skip
LOOKS = {
  'none': ('x', 'black'), 'cnn': ('o', '#56b4e9'), 'cnnf': ('s', '#0072b2'), 'cnn2d': ('D', '#e69f00'),
  'cnn2df': ('^', '#d55e00'), 'mlp': ('v', '#009e73'), 'convolutions': ('*', '#cc79a7'), 'Mixer': ('P', 'black'),
}  # fmt: skip


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('runs', nargs='+', type=Path, help='folders of runs, or logs')
  parser.add_argument('--figure', type=Path, help='output PNG')
  parser.add_argument('--log', type=Path, help='output JSON lines, one summary per run')
  parser.add_argument('--metric', default='test/mse', help='test/mse or val/mse (default: test/mse)')
  args = parser.parse_args()
  found = [summary for place in args.runs for summary in read(place)]
  having = [summary for summary in found if args.metric in summary['metrics']]
  runs = list({json.dumps(summary['config'], sort_keys=True): summary for summary in reversed(having)}.values())[::-1]
  left_out = {f'without {args.metric}': len(found) - len(having), 'with the same config': len(having) - len(runs)}
  for why, count in left_out.items():
    if count:
      print(f'{count} runs {why} left out', file=sys.stderr)
  table = rows(runs, args.metric)
  if not table:
    sys.exit(f'error: no finished run with {args.metric} in {" ".join(map(str, args.runs))}')
  print('| setting | parameters | MFLOP | images | source | here | seeds | here / source |')
  print('|---|---|---|---|---|---|---|---|')
  for row in table:
    source, error = row['source'], row['error']
    deviation = f' ± {row["deviation"]:.6f}' if row['seeds'] > 1 else ''
    compared = (f'{source:.6f}', f'{error / source:.3f}') if source and row['images'] == 10**6 else ('', '')
    print(
      f'| {row["setting"]} | {row["parameters"]:,} | {row["flops"] / 1e6:.1f} | {row["images"]:,} | {compared[0]}'
      f' | {error:.6f}{deviation} | {row["seeds"]} | {compared[1]} |'
    )
  if args.figure:
    draw(table, args.figure, 'test' if args.metric.startswith('test') else 'validation')
  if args.log:
    args.log.write_text(''.join(json.dumps(summary) + '\n' for summary in runs), encoding='utf-8')


def read(place: Path) -> list[dict]:
  """The summaries of the runs below a folder, or of a log, with resolved configs."""
  read_text = lambda path: path.read_text(encoding='utf-8')
  texts = read_text(place).splitlines() if place.is_file() else map(read_text, finished(place))
  resolve = lambda config: settings.resolve(settings.upgrade(config))
  return [summary | {'config': resolve(summary['config'])} for summary in map(json.loads, texts)]


def rows(summaries: list[dict], metric: str) -> list[dict]:
  """One row per setting and number of images, in order of images, then of falling error."""
  groups = collections.defaultdict(list)
  for summary in summaries:
    groups[json.dumps(summary['config'] | {'seed': 0}, sort_keys=True)].append(summary)
  result = []
  for group in groups.values():
    errors = [summary['metrics'][metric] for summary in group]
    sizes = describe(group[0]['config'])
    result.append({
      'setting': (setting := name(group[0]['config'])), 'parameters': sizes['parameters'],
      'flops': sizes['forward_flops'], 'images': group[0]['examples'],
      'source': SOURCE.get(setting) if group[0]['config']['data']['name'] == 'mnist' else None,
      'error': statistics.fmean(errors), 'deviation': statistics.stdev(errors) if len(errors) > 1 else 0.0,
      'seeds': len(errors),
    })  # fmt: skip
  return sorted(result, key=lambda row: (row['images'], -row['error']))


def name(config: dict) -> str:
  """The setting's short name, such as the config's argument 'cnn2df-234-k7'."""
  model = config['model']
  if model['name'] == 'mixing_autoencoder':
    layers = ''.join(map(str, model['after']))
    kernel = f'-k{model["mixing"]["kernel"]}' if 'kernel' in model['mixing'] else ''
    return f'{model["mixing"]["name"]}-{layers}{kernel}' if layers else 'none'
  if model['name'] == 'cnn_autoencoder':
    return f'convolutions-k{model["kernel"]}'
  if model['name'] == 'mixer_autoencoder':
    size = f'{model["encoder_blocks"]}+{model["decoder_blocks"]}x{model["hidden"]}-p{model["patch"]}'
    changes = [config['optimizer']['name']] + ['linear'] * (not model['bounded']) + ['no ema'] * (not config['ema'])
    return f'Mixer-{size}-{"-".join(changes)}'
  return model['name']


def draw(table: list[dict], path: Path, split: str) -> None:
  images = statistics.mode(row['images'] for row in table)
  table = sorted((row for row in table if row['images'] == images), key=lambda row: row['parameters'])
  figure = Figure(figsize=(7, 3.6), layout='constrained')
  panels = figure.subplots(1, 2, sharey=True)
  for axes, key, label in zip(panels, ('parameters', 'flops'), ('parameters', 'operations for one image'), strict=True):
    for kind, (marker, colour) in LOOKS.items():
      chosen = [row for row in table if row['setting'].split('-')[0] == kind]
      known = [(row[key], row['source']) for row in chosen if row['source'] and images == 10**6]
      axes.plot(*np.array(known).reshape(-1, 2).T, marker, color='0.5', markersize=4, markerfacecolor='none', zorder=1)
      along = [row for row in chosen if '-234-k' in row['setting']]
      axes.plot([row[key] for row in along], [row['error'] for row in along], '-', color=colour, linewidth=0.8)
      x, y, spread = ([row[k] for row in chosen] for k in (key, 'error', 'deviation'))
      axes.errorbar(x, y, yerr=spread, fmt=marker, color=colour, markersize=5, label=kind if chosen else None)
    axes.set(xscale='log', yscale='log', xlabel=label)
    axes.yaxis.set_major_locator(FixedLocator([0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.011]))
    axes.yaxis.set_major_formatter(FormatStrFormatter('%.3f'))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
  panels[0].set_ylabel(f'mean squared error, {split} images')
  if any(row['source'] for row in table) and images == 10**6:
    panels[0].plot([], [], 'o', color='0.5', markersize=4, markerfacecolor='none', label='hollow: source')
  figure.legend(
    *panels[0].get_legend_handles_labels(), loc='outside right', frameon=False, fontsize=8, title_fontsize=8,
    title='lines join kernel sizes;\nbars: ± deviation of seeds', alignment='left',
  )  # fmt: skip
  figure.savefig(path, dpi=150)


if __name__ == '__main__':
  main()
