"""The PyTorch side of benchmarks/peers.py, which starts it and says when to run, in lines of JSON."""

import argparse
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class Mlp(nn.Module):
  def __init__(self, width, hidden):
    super().__init__()
    self.fc1 = nn.Linear(width, hidden)
    self.gelu = nn.GELU()
    self.fc2 = nn.Linear(hidden, width)

  def forward(self, x):
    return self.fc2(self.gelu(self.fc1(x)))


class Block(nn.Module):
  """On [batch, channels, tokens]; LayerNorm over the tokens, channels mixed first."""

  def __init__(self, tokens, hidden, mlp):
    super().__init__()
    self.ln1 = nn.LayerNorm(tokens)
    self.mlp1 = Mlp(hidden, mlp)
    self.ln2 = nn.LayerNorm(tokens)
    self.mlp2 = Mlp(tokens, mlp)

  def forward(self, x):
    x = x + self.mlp1(self.ln1(x).permute(0, 2, 1)).permute(0, 2, 1)
    return x + self.mlp2(self.ln2(x))


class Mnist(nn.Module):
  """The Mixer of configs/mnist.py as its author wrote it."""

  def __init__(self):
    super().__init__()
    self.patch_embedding = nn.Conv2d(1, 128, kernel_size=7, stride=7)
    self.blocks = nn.Sequential(*(Block(16, 128, 64) for _ in range(3)))
    self.head = nn.Sequential(nn.Linear(16 * 128, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 10))

  def forward(self, image):
    return self.head(self.blocks(self.patch_embedding(image).flatten(2)).flatten(1))


def make_model(what):
  if what == 'mnist':
    return Mnist()
  import timm

  return timm.create_model('mixer_s16_224')


def make_run(model, images, labels, batch, **form):
  """run(count): so many steps over data in memory, batch after batch."""
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, **form)
  starts = range(0, len(images) - batch + 1, batch)
  done = 0

  def run(count):
    nonlocal done
    for _ in range(count):
      start = starts[done % len(starts)]
      optimizer.zero_grad(set_to_none=True)
      F.cross_entropy(model(images[start : start + batch]), labels[start : start + batch]).backward()
      optimizer.step()
      done += 1

  return run


def seconds(run, count):
  began = time.perf_counter()
  run(count)
  return time.perf_counter() - began


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('what', choices=('mnist', 's16'))
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--threads', type=int, required=True)
  args = parser.parse_args()
  answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
  torch.set_num_threads(args.threads)
  torch.manual_seed(0)
  shape, classes, examples = {
    'mnist': ((1, 28, 28), 10, 64 * args.batch),
    's16': ((3, 224, 224), 1000, args.batch),
  }[args.what]
  images, labels = torch.randn(examples, *shape), torch.randint(classes, (examples,))

  # Adam as torch chooses it, and in one pass, which its users may ask for.
  runs = {
    'torch': make_run(make_model(args.what).train(), images, labels, args.batch),
    'torch_fused': make_run(make_model(args.what).train(), images, labels, args.batch, fused=True),
  }
  versions = {'torch': torch.__version__}
  if 'timm' in sys.modules:
    versions['timm'] = sys.modules['timm'].__version__
  parameters = sum(p.numel() for p in make_model(args.what).parameters())
  says = {'sides': tuple(runs), 'versions': versions, 'parameters': dict.fromkeys(runs, parameters)}
  print(json.dumps(says), file=answers, flush=True)
  for line in sys.stdin:
    question = json.loads(line)
    answer = {'seconds': seconds(runs[question['side']], question['steps'])}
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  main()
