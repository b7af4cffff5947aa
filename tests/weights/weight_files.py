"""Little files of weights as others write them, by names and layouts that are spelt out here once more."""

import json
import struct
import zipfile

import numpy as np

IMAGE, TOKENS, CLASSES = (4, 6, 3), 6, 5  # patches of 2x2
SIZES = {'hidden': 8, 'blocks': 2, 'token_mlp': 7, 'channel_mlp': 9}


def mixer(seed=0, *, tokens=TOKENS, blocks=SIZES['blocks'], hidden=SIZES['hidden'], classes=CLASSES):
  """Random arrays of a Mixer by our names."""
  token_mlp, channel_mlp = SIZES['token_mlp'], SIZES['channel_mlp']
  shapes = {'stem.kernel': (12, hidden), 'stem.bias': (hidden,)}
  for i in range(blocks):
    for name, width, middle in (('token', tokens, token_mlp), ('channel', hidden, channel_mlp)):
      shapes |= {
        f'blocks.{i}.{name}_norm.scale': (hidden,),
        f'blocks.{i}.{name}_norm.bias': (hidden,),
        f'blocks.{i}.{name}_mixing.fc1.kernel': (width, middle),
        f'blocks.{i}.{name}_mixing.fc1.bias': (middle,),
        f'blocks.{i}.{name}_mixing.fc2.kernel': (middle, width),
        f'blocks.{i}.{name}_mixing.fc2.bias': (width,),
      }
  shapes |= {'pre_head_norm.scale': (hidden,), 'pre_head_norm.bias': (hidden,)}
  shapes |= {'head.kernel': (hidden, classes), 'head.bias': (classes,)}
  rng = np.random.default_rng(seed)
  return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def original(ours):
  """The released .npz, of today's names."""
  found = {}
  for name, x in ours.items():
    if name.startswith('blocks.'):
      _, i, part, *rest = name.split('.')
      if part.endswith('_norm'):
        theirs = f'MixerBlock_{i}/LayerNorm_{("token_norm", "channel_norm").index(part)}/{rest[0]}'
      else:
        theirs = f'MixerBlock_{i}/{part}/Dense_{int(rest[0][-1]) - 1}/{rest[1]}'
    else:
      theirs = name.replace('.', '/').replace('pre_head_norm', 'pre_head_layer_norm')
    found[theirs] = x.reshape(2, 2, 3, -1) if name == 'stem.kernel' else x
  return found


def older(ours):
  """The .npz of older names, with axes of one."""
  found = {}
  for name, x in ours.items():
    if name.startswith('blocks.'):
      _, i, part, *rest = name.split('.')
      if part.endswith('_norm'):
        theirs = f'Mixer/encoderblock_{i}/LayerNorm_{("token_norm", "channel_norm").index(part)}/{rest[0]}'
      else:
        theirs, x = f'Mixer/encoderblock_{i}/{part}_phase_0/{rest[1]}{rest[0][-1]}', x[None]
    elif name.startswith('pre_head_norm'):
      theirs = f'Mixer/encoder_norm/{name.split(".")[1]}'
    else:
      theirs = name.replace('.', '/').replace('stem', 'embedding')
    found[theirs] = x.reshape(2, 2, 3, -1) if name == 'stem.kernel' else x
  return found


def timm(ours):
  """timm's state dict."""
  found = {}
  for name, x in ours.items():
    theirs = name.replace('kernel', 'weight').replace('scale', 'weight').replace('pre_head_norm', 'norm')
    theirs = theirs.replace('token_norm', 'norm1').replace('channel_norm', 'norm2').replace('stem', 'stem.proj')
    theirs = theirs.replace('token_mixing', 'mlp_tokens').replace('channel_mixing', 'mlp_channels')
    found[theirs] = x.reshape(2, 2, 3, -1).transpose(3, 2, 0, 1) if name == 'stem.kernel' else x.T
  return {name: np.ascontiguousarray(x) for name, x in found.items()}


def npy(descr="'<f4'", shape='(2,)', data=bytes(8), version=1, header=None, fortran=False):
  """An array as NumPy writes it, by hand."""
  header = (header or f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}").encode() + b'\n'
  return b'\x93NUMPY' + bytes([version, 0]) + struct.pack('<H' if version == 1 else '<I', len(header)) + header + data


def write_zip(path, members, compression=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, 'w', compression) as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return path


def safetensors(tensors, notes=None):
  """{name: (dtype, shape, bytes)} as the bytes of a .safetensors file, by hand."""
  header, start = {} if notes is None else {'__metadata__': notes}, 0
  for name, (dtype, shape, data) in tensors.items():
    header[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [start, start + len(data)]}
    start += len(data)
  text = json.dumps(header).encode()
  return struct.pack('<Q', len(text)) + text + b''.join(data for _, _, data in tensors.values())
