"""Weights in every layout come out as ours to the bit; whatever else a file or a folder holds is named in one line."""

import json
import re
import sys
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest
import weight_files as files

from mixer_jax.errors import MixerError
from mixer_jax.weights import reading, trust

OURS = files.mixer()
ABOUT = {
  'format': reading.FORMAT,
  'model': {'name': 'mixer', 'patch': 2, **files.SIZES, 'gelu': 'exact', 'dropout': 0.1, 'scan': True},
  'data': {'image': [4, 6, 3], 'classes': 5, 'mean': [0.1, 0.2, 0.3], 'std': [1, 1, 0.5]},
  'labels': list('abcde'),
  'schema': None,
}


def write(path, arrays, notes=None):
  if path.suffix == '.npz':
    np.savez(path, **arrays)
  else:
    kinds = {'float32': 'F32', 'float16': 'F16', 'bfloat16': 'BF16', 'float64': 'F64', 'int64': 'I64'}
    given = {k: (kinds[x.dtype.name], list(x.shape), x.tobytes()) for k, x in arrays.items()}
    path.write_bytes(files.safetensors(given, notes))
  return path


def folder(path, about=None, arrays=OURS):
  path.mkdir(exist_ok=True)
  (path / 'config.json').write_text(about if isinstance(about, str) else json.dumps(ABOUT | (about or {})))
  write(path / 'model.safetensors', arrays)
  return path


def refused(path, *parts):
  with pytest.raises(MixerError) as caught:
    reading.read(str(path))
  message = str(caught.value)
  assert str(path) in message and '\n' not in message, message
  for part in parts:
    assert part in message, message
  return message


def check(weights, ours=OURS):
  assert weights.arrays.keys() == ours.keys()
  for name, x in ours.items():
    assert weights.arrays[name].dtype == np.float32
    np.testing.assert_array_equal(weights.arrays[name], x, name)


LAYOUTS = {'original': (files.original, 'w.npz'), 'older original': (files.older, 'w.npz')}
LAYOUTS |= {'timm': (files.timm, 'w.safetensors')}


@pytest.mark.parametrize(
  'kind, prefix',
  [
    *[('original', p) for p in ('', 'params/', 'target/', 'opt/target/', 'opt/target/params/')],
    *[('older original', p) for p in ('', 'params/', 'target/', 'opt/target/', 'target/params/')],
    *[('timm', p) for p in ('', 'module.', 'model.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.model.', 'net.')],
  ],
)
def test_every_layout_and_prefix(tmp_path, kind, prefix):
  make, name = LAYOUTS[kind]
  path = write(tmp_path / name, {prefix + k: x for k, x in make(OURS).items()})
  weights = reading.read(str(path))
  check(weights)
  gelu = 'exact' if kind == 'timm' else 'tanh'
  assert weights.kind == kind and weights.source == str(path) and len(weights.sha256) == 64
  assert weights.model == {'name': 'mixer', 'patch': 2, **files.SIZES, 'gelu': gelu}
  assert weights.data == {'classes': 5, **reading.PUBLISHED} and weights.labels is None
  assert weights.notes == (f'gelu: {gelu}, as {weights.kind} weights have it; the file does not say',)
  with pytest.raises(MixerError, match='does not give the token grid, and 6 tokens'):
    _ = weights.image


@pytest.mark.parametrize('kind', LAYOUTS)
def test_without_a_head_and_with_square_tokens(tmp_path, kind):
  make, name = LAYOUTS[kind]
  ours = {k: x for k, x in files.mixer(tokens=9).items() if not k.startswith('head.')}
  weights = reading.read(str(write(tmp_path / name, make(ours))))
  check(weights, ours)
  assert weights.data['classes'] is None and weights.image == (6, 6, 3)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float64'])
@pytest.mark.parametrize('kind', LAYOUTS)
def test_other_floats_are_converted_and_reported(tmp_path, kind, dtype):
  make, name = LAYOUTS[kind]
  kind = ml_dtypes.bfloat16 if dtype == 'bfloat16' else dtype
  low = {k: x.astype(kind) for k, x in OURS.items()}
  weights = reading.read(str(write(tmp_path / name, make(low))))
  check(weights, {k: x.astype(np.float32) for k, x in low.items()})
  assert weights.notes[1:] == (f'{len(OURS)} arrays: {dtype} -> float32',)


@pytest.mark.parametrize('kind', LAYOUTS)
def test_arrays_that_are_missing_extra_misshapen_or_no_numbers(tmp_path, kind):
  make, name = LAYOUTS[kind]
  theirs, path = make(OURS), tmp_path / name
  names = {ours: list(theirs)[i] for i, ours in enumerate(OURS)}
  gone = [names['blocks.1.channel_norm.bias'], names['head.bias']]
  kept = {k: x for k, x in theirs.items() if k not in gone}
  more = {'a': theirs[names['head.bias']], 'opt/b': theirs[names['head.bias']]}
  refused(write(path, kept | more), f'missing {", ".join(sorted(gone))}; extra a, opt/b')
  refused(write(path, more), "holds no Mixer by the original's or timm's names; it has 2 arrays: a, opt/b")
  # As in ours, of the last block: both are named.
  wrong = make(OURS | {'blocks.1.token_mixing.fc2.bias': np.ones(9, 'f4'), 'head.kernel': np.ones((3, 5), 'f4')})
  refused(
    write(path, wrong),
    'blocks.1.token_mixing.fc2.bias (9,), but should be (6,)',
    'head.kernel (3, 5), but should be (8, 5)',
  )
  stem = names['stem.kernel']
  refused(write(path, theirs | {stem: np.ones((12, 8), 'f4')}), 'the stem has the shape (12, 8), but', 'four axes')
  refused(
    write(path, theirs | {names['blocks.0.token_mixing.fc1.kernel']: np.ones(3, 'f4')}), 'shapes do not fit a Mixer'
  )
  refused(
    write(path, theirs | {names['blocks.0.channel_mixing.fc1.kernel']: np.ones((0, 9), 'f4')}), 'shapes do not fit'
  )
  # Not finite: all are counted.
  bad = {names[k]: theirs[names[k]].copy() for k in ('head.bias', 'blocks.1.channel_mixing.fc1.kernel')}
  for x in bad.values():
    x.flat[:2] = np.nan, np.inf
  refused(write(path, theirs | bad), *(f'{k} (2 of {x.size:,})' for k, x in bad.items()), 'not finite')
  large = {stem: np.full(theirs[stem].shape, 1e300)}
  refused(write(path, theirs | large), f'{stem} (96 of 96)', 'not finite in float32')
  whole = {k: theirs[k].astype(np.int64) for k in (stem, names['head.bias'])}
  refused(write(path, theirs | whole), f'{stem} (int64)', f'{names["head.bias"]} (int64)')


@pytest.mark.parametrize('kind', LAYOUTS)
def test_numbers_of_blocks(tmp_path, kind):
  make, name = LAYOUTS[kind]
  start = time.monotonic()
  for number in (3, 999_999, 10**30):
    pattern, there = re.compile(r'^(MixerBlock_|Mixer/encoderblock_|blocks\.)1'), rf'\g<1>{number}'
    arrays = {pattern.sub(there, k): x for k, x in make(OURS).items()}
    message = refused(write(tmp_path / name, arrays), 'extra ', f'{number}')
    assert ('missing ' in message) == (number < 10**30) and len(message) < 3000
  assert time.monotonic() - start < 30


def test_a_file_of_huge_sizes_that_hold_nothing(tmp_path):
  path = write(tmp_path / 'w.npz', files.original(OURS))
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  huge = {
    'head/kernel.npy': files.npy(shape=f'(0, {2**62})', data=b''),
    'head/bias.npy': files.npy(shape='(0,)', data=b''),
  }
  refused(files.write_zip(path, members | huge), 'do not fit a Mixer')


def test_a_model_of_our_names_is_given_as_a_folder(tmp_path):
  refused(write(tmp_path / 'w.safetensors', OURS), '(a model folder is given as a folder)')


NOTES = {'gelu': 'tanh', 'image': [4, 6, 3], 'mean': [0.1, 0.2, 0.3], 'std': [1, 1, 1], 'labels': list('vwxyz')}


def test_notes_of_a_file(tmp_path):
  path = tmp_path / 'w.safetensors'
  weights = reading.read(str(write(path, files.timm(OURS), {'mixer_jax': json.dumps(NOTES)})))
  assert weights.model['gelu'] == 'tanh' and weights.image == (4, 6, 3) and weights.labels == list('vwxyz')
  assert weights.data['mean'] == [0.1, 0.2, 0.3] and weights.notes == ()


@pytest.mark.parametrize(
  'change, part',
  [
    ('{', 'unreadable metadata'),
    ('[]', 'unreadable metadata'),
    ('[' * 100_000, 'unreadable metadata'),
    ('{"gelu": "tanh", "gelu": "exact"}', 'unreadable metadata'),
    ('{"gelu": "tanh", "mean": [1' + '0' * 400 + ', 1, 1]}', 'unreadable metadata'),
    ({'gelu': 'other'}, 'unreadable metadata'),
    ({'gelu': ['tanh']}, 'unreadable metadata'),
    ({'labels': 'vwxyz'}, 'unreadable metadata'),
    ({'image': [4, 6]}, 'image is [4, 6]'),
    ({'image': [4, 6, '3']}, 'which is invalid'),
    ({'image': [4, 4, 3]}, 'patches of 2x2 do not cut into 6 tokens'),
    ({'image': [5, 6, 3]}, 'patches of 2x2 do not cut into 6 tokens'),
    ({'image': [4, 6, 1], 'mean': [0], 'std': [1]}, 'channels'),
    ({'mean': [0.1]}, 'mean is [0.1] for 3 channels'),
    ({'mean': ['a', 1, 2]}, 'which is invalid'),
    ({'std': [0, 1, 1]}, 'which is invalid'),
    ({'std': [float('nan'), 1, 1]}, 'which is invalid'),
    ({'labels': [1, 2, 3, 4, 5]}, 'labels that are not text'),
    ({'labels': ['a']}, '1 labels for 5 classes'),
  ],
)
def test_notes_that_make_no_sense(tmp_path, change, part):
  text = change if isinstance(change, str) else json.dumps(NOTES | change)
  refused(write(tmp_path / 'w.safetensors', files.timm(OURS), {'mixer_jax': text}), part)


# ---- model folders


def test_a_model_folder(tmp_path):
  weights = reading.read(str(folder(tmp_path / 'm')))
  check(weights)
  assert weights.kind == 'model folder' and weights.model == ABOUT['model'] and weights.data == ABOUT['data']
  assert weights.labels == list('abcde') and weights.image == (4, 6, 3) and weights.patch == (2, 2)
  data = {'image': None, 'classes': None, 'mean': None, 'std': None}
  ours = {k: x for k, x in OURS.items() if not k.startswith('head.')}
  check(reading.read(str(folder(tmp_path / 'n', {'data': data, 'labels': None}, ours))), ours)


def test_a_folder_of_another_model(tmp_path):
  about = {'model': {'name': 'tabular', 'x': 1}, 'data': {'classes': 2}, 'labels': None, 'schema': {'a': 1}}
  weights = reading.read(str(folder(tmp_path / 'm', about, {'x.y': np.ones((2, 3), 'f4')})))
  assert weights.schema == {'a': 1} and not weights.is_mixer and weights.arrays['x.y'].sum() == 6
  refused(folder(tmp_path / 'm', about, {'x.y': np.full(3, np.nan, 'f4')}), 'x.y (3 of 3)')
  former = {'name': 'mixing_autoencoder', 'kernel': 3}  # of a version whose folders have `mixing`, too
  assert reading.read(str(folder(tmp_path / 'n', about | {'model': former}, {}))).model['mixing']['name'] is None
  refused(folder(tmp_path / 'm', about | {'model': {'name': 'tabula'}}), "'tabula'; did you mean 'tabular'?")


@pytest.mark.parametrize(
  'model', [
    {'name': 'hostile:Net'}, {'name': 'hostile.deep:Net'}, {'name': 'tabular', 'mixing': 'hostile:Net'},
    {'name': 'tabular', 'mixing': {'name': 'hostile:Net'}}, {'name': 'tabular', 'all': [{'a': 'hostile:Net'}]},
    ABOUT['model'] | {'mixing': 'hostile:Net'}, ABOUT['model'] | {'mixing': {'name': 'hostile_é.ü:Ñet'}},
  ],
)  # fmt: skip
def test_a_folder_that_asks_for_code_is_refused_unless_it_is_trusted(tmp_path, monkeypatch, model):
  monkeypatch.setattr(trust, 'TRUSTED', set())
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'hostile.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")')
  path = folder(
    tmp_path / 'm', {'model': model, 'data': {'classes': 2}, 'labels': None}, {'x.y': np.ones((2, 3), 'f4')}
  )
  refused(path, "asks for 'hostile", 'would run the module hostile', '--trust=hostile')
  trust.trust(['hostil,other', 'hostile_too', 'hostile_'])
  refused(path, '--trust=hostile')
  assert not (tmp_path / 'ran').exists() and 'hostile' not in sys.modules
  if model['name'] != 'mixer':
    trust.trust(['hostile'])
    assert reading.read(str(path)).model == model


@pytest.mark.parametrize(
  'about, part',
  [
    ('{', 'cannot be read'),
    ('[' * 100_000, 'nested more than 64 deep'),
    ('{"a":' * 500 + '1' + '}' * 500, 'nested more than 64 deep'),
    ('{"format": 1, "format": 2}', "'format' twice"),
    ('version https://git-lfs.github.com/spec/v1\n', 'Git LFS pointer'),
    ({'data': ABOUT['data'] | {'mean': [10**400, 0, 0]}}, 'an integer of 401 digits'),
    ({'data': ABOUT['data'] | {'image': [4, 10**400, 3]}}, 'an integer of 401 digits'),
    ({'labels': [10**400] * 5}, 'an integer of 401 digits'),
    ({'model': ABOUT['model'] | {'hidden': 10**400}}, 'an integer of 401 digits'),
    ({'data': ABOUT['data'] | {'mean': [2**64 - 1, 0, float('inf')]}}, 'which is invalid'),
    ({'data': ABOUT['data'] | {'std': [float('nan'), 1, 1]}}, 'which is invalid'),
    ('[]', 'is not a model folder'),
    ('{}', 'is not a model folder'),
    ({'format': 7}, 'is not a model folder'),
    ({'format': 'mixer_jax model folder 2'}, "has the format 'mixer_jax model folder 2', but this version reads"),
    ({'model': []}, 'model is [], of the wrong type'),
    ({'data': None}, 'data is None'),
    ({'labels': 'abcde'}, "labels is 'abcde'"),
    ({'labels': ['a']}, '1 labels for 5 classes'),
    ({'labels': [{}] * 5}, 'not text'),
    ({'schema': []}, 'schema is []'),
    ({'model': {}}, 'model.name is None'),
    ({'model': {'name': 'mixer'}}, 'model.hidden is None'),
    ({'model': ABOUT['model'] | {'hidden': '8'}}, "model.hidden is '8'"),
    ({'model': ABOUT['model'] | {'patch': [2, '2']}}, "model.patch is [2, '2']"),
    ({'model': ABOUT['model'] | {'patch': 0}}, 'model.patch is 0'),
    ({'model': ABOUT['model'] | {'patch': 4}}, 'patches of 4x4'),
    ({'model': ABOUT['model'] | {'blocks': 10**9}}, 'missing blocks.10.channel_mixing.fc1.bias'),
    ({'model': ABOUT['model'] | {'blocks': 1}}, 'extra blocks.1.channel_mixing.fc1.bias'),
    ({'model': ABOUT['model'] | {'hidden': 10**9}}, 'stem.kernel (12, 8), but should be (12, 1000000000)'),
    ({'model': ABOUT['model'] | {'gelu': 'other'}}, "unknown GELU 'other'"),
    ({'model': ABOUT['model'] | {'gelu': {}}}, 'does not describe a Mixer'),
    ({'model': ABOUT['model'] | {'dropout': 'x'}}, 'does not describe a Mixer'),
    ({'model': ABOUT['model'] | {'colour': 1}}, 'does not describe a Mixer'),
    ({'data': ABOUT['data'] | {'image': [4, 4, 3]}}, 'do not cut into 6 tokens'),
    ({'data': ABOUT['data'] | {'image': 4}}, 'image is 4'),
    ({'data': ABOUT['data'] | {'classes': '5'}}, "classes is '5'"),
    ({'data': ABOUT['data'] | {'classes': 4}, 'labels': None}, 'head.bias (5,), but should be (4,)'),
  ],
)
def test_configs_of_a_folder_that_make_no_sense(tmp_path, about, part):
  refused(folder(tmp_path / 'm', about), part)


def test_folders_that_are_not_whole(tmp_path, monkeypatch):
  path = folder(
    tmp_path / 'm', None, {k: x for k, x in OURS.items() if k != 'blocks.0.token_norm.scale'} | {'y': OURS['stem.bias']}
  )
  refused(path, 'missing blocks.0.token_norm.scale; extra y')
  refused(folder(path, None, OURS | {'stem.kernel': np.ones(3, 'f4')}), 'stem.kernel (3,), but should be (12, 8)')
  refused(folder(path, None, OURS | {'stem.kernel': np.ones((), 'f4')}), 'stem.kernel (), but should be (12, 8)')
  (path / 'model.safetensors').unlink()
  refused(path, 'there is no file', 'model.safetensors')
  (path / 'config.json').write_bytes(b'\xff\xfe')
  refused(path, 'cannot be read')
  (path / 'config.json').unlink()
  refused(path, 'is neither a model folder nor a run')
  write(path / 'x.safetensors', OURS)
  refused(path, 'if you mean a file in it, name that: x.safetensors')
  refused(tmp_path / 'none.npz', 'there is no file')
  refused(tmp_path / ('n' * 300), 'n')

  def not_allowed(*_, **__):
    raise PermissionError(13, 'Permission denied')

  for name in ('is_file', 'is_dir'):
    monkeypatch.setattr(f'pathlib.Path.{name}', not_allowed)
    refused(path, 'Permission denied')


# ---- whatever bytes


def _zipped(path, inside):
  """(bytes -> bytes of the file) for members of a zip whose checksums stay right."""
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}

  def make(change):
    name = change.choice([name for name in members if inside in name])
    files.write_zip(path, members | {name: mutate(members[name], change)})

  return make


def mutate(data, rng):
  """A few bytes changed, most of them near the beginning, where the headers are; or the end cut off."""
  data = bytearray(data)
  if rng.random() < 0.1:
    return bytes(data[: rng.integers(len(data))])
  reach = len(data) if rng.random() < 0.4 else min(len(data), 300)
  for _ in range(rng.integers(1, 4)):
    data[rng.integers(reach)] = (
      rng.integers(256) if rng.random() < 0.5 else rng.choice(list(b'0123456789-(){}[]\',"<>.Rbtsu'))
    )
  return bytes(data)


@pytest.mark.parametrize('kind', ['npz', 'npz inside', 'safetensors', 'config.json'])
def test_random_changes_of_good_files(tmp_path, kind):
  rng = np.random.default_rng(7)
  if kind == 'config.json':
    given = folder(tmp_path / 'm')
    path = given / 'config.json'
  else:
    end = kind.removesuffix(' inside')
    given = path = write(tmp_path / f'w.{end}', (files.original if end == 'npz' else files.timm)(OURS))
  whole, outcomes = path.read_bytes(), [0, 0]
  change = _zipped(path, '.npy') if kind == 'npz inside' else lambda rng: path.write_bytes(mutate(whole, rng))
  for _ in range(60):
    change(rng)
    message = ''
    try:
      weights = reading.read(str(given))
    except MixerError as error:
      message = str(error)
    if message:
      assert '\n' not in message and str(tmp_path) in message
      outcomes[0] += 1
    else:
      assert {k: x.shape for k, x in weights.arrays.items()} == {k: x.shape for k, x in OURS.items()}
      assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in weights.arrays.values())
      outcomes[1] += 1
  assert outcomes[0] > 5
