"""Parts by name: how they are found, what they take, text as values, every mistake in one line."""

import dataclasses
import functools
import json
import sys
import textwrap
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional

import pytest

from mixer_jax import parts
from mixer_jax.errors import MixerError
from mixer_jax.parts import Text


def refused(call, *words, kind=MixerError):
  with pytest.raises(kind) as info:
    call()
  message = str(info.value)
  assert '\n' not in message
  for word in words:
    assert word in message, message
  return info.value


def shape(*, width: int, depth: int | tuple[int, int], rate: float = 0.0, sizes: tuple[float, ...] = (), rngs: Any):
  return width, depth, rate, sizes, rngs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  width: int
  label: str = 'a'


TABLE = {'shape': shape, 'section': Section, 'text': 'string:Template'}


@pytest.fixture
def module(tmp_path, monkeypatch):
  """Writes a module into the current folder, which is on no path, and forgets it afterwards."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [place for place in sys.path if place not in ('', str(tmp_path))])
  written = []

  def write(name, text):
    (tmp_path / f'{name}.py').write_text(textwrap.dedent(text))
    written.append(name)
    return name

  yield write
  for name in written:
    sys.modules.pop(name, None)


# ---- names


def test_a_short_name_and_a_dotted_one_in_the_table():
  assert parts.find('shape', TABLE, 'model.name') is shape
  assert parts.find('text', TABLE, 'model.name').__name__ == 'Template'


def test_anything_importable_and_the_current_folder(module):
  name = module('parts_of_mine', 'class Net:\n  class Inner:\n    pass\n')
  assert parts.find('collections:Counter', {}, 'x').__name__ == 'Counter'
  assert parts.find('os.path:join', {}, 'x').__name__ == 'join'
  assert parts.find(f'{name}:Net', TABLE, 'x').__name__ == 'Net'
  assert parts.find(f'{name}:Net.Inner', TABLE, 'x').__name__ == 'Inner'


@pytest.mark.parametrize(
  'name, words',
  [
    ('shap', ["model.name 'shap'", "did you mean 'shape'", 'section, shape, text', 'module:name of your own']),
    (3, ['model.name 3', 'section, shape']),
    (['shape'], ['model.name', 'shape']),
    (None, ['model.name None']),
    ('no_such_module_here:Net', ["'no_such_module_here:Net'", "no module 'no_such_module_here' in", 'PYTHONPATH']),
    ('no_such_package_here.inner:Net', ["no module 'no_such_package_here' in"]),
    ('collections:Countre', ["'Countre'", "did you mean 'Counter'", 'collections has no']),
    ('collections:Counter.mostcommon', ["'mostcommon'", "did you mean 'most_common'", 'collections.Counter has no']),
    ('string:ascii_letters', ["'string:ascii_letters'", 'is a str and cannot be called']),
    (':Net', ["':Net'", 'module:name']),
    ('mine:', ["'mine:'", 'module:name']),
    ('a:b:c', ["'a:b:c'", 'module:name']),
    ('./mine:Net', ['module:name']),
    ('mine:Net()', ['module:name']),
  ],
)
def test_wrong_names(name, words):
  refused(lambda: parts.find(name, TABLE, 'model.name'), *words)


@pytest.mark.parametrize(
  'text, words',
  [
    ('def f(:\n', ['importing broken fails: SyntaxError', 'line 1']),
    ('raise RuntimeError("two\\nlines")', ['importing broken fails: RuntimeError: two lines']),
    ('import sys; sys.exit(3)', ['importing broken fails: SystemExit']),
    ('import nothing_of_that_name', ['broken needs nothing_of_that_name, which is not installed']),
    ('x = 1', ["'Net'", 'broken has no', 'Known: x']),
  ],
)
def test_broken_modules(module, text, words):
  refused(lambda: parts.find(f'{module("broken", text)}:Net', TABLE, 'model.name'), 'model.name', *words)


def test_a_table_with_a_library_and_a_check():
  seen = []
  adapt = lambda part, name, what: seen.append((name, what)) or part
  table = parts.Table({'shape': shape}, package='collections', adapt=adapt)
  assert parts.find('collections.Counter', table, 'x').__name__ == 'Counter'
  assert parts.find('collections.abc.Callable', table, 'x') is Callable
  assert parts.find('shape', table, 'x') is shape
  assert parts.find('string:Template', table, 'x').__name__ == 'Template'
  assert seen == [('collections.Counter', 'x'), ('collections.abc.Callable', 'x'), ('string:Template', 'x')]
  refused(lambda: parts.find('collections.Countre', table, 'x'), "'Countre'", "did you mean 'Counter'")
  refused(lambda: parts.find('shap', table, 'x'), 'collections.NAME, or module:name')


# ---- what parts take


class Named:
  def __init__(self, first, *rest, width: int = 3, **more):
    pass


class Called:
  def __call__(self, width: int):
    pass


def test_parameters():
  assert [*parts.parameters(Named)] == ['first', 'width']
  assert [*parts.parameters(Section)] == ['width', 'label']
  assert [*parts.parameters(functools.partial(shape, rngs=1))] == ['width', 'depth', 'rate', 'sizes', 'rngs']
  assert [*parts.parameters(Called())] == ['width']
  assert [*parts.parameters(lambda self, width: 0)] == ['self', 'width']
  assert [*parts.parameters(type('Empty', (), {}))] == []
  refused(lambda: parts.parameters(iter), 'iter', 'does not say what it takes')


def test_annotations_that_cannot_be_read_are_any(module):
  name = module('later', 'def f(*, width: "Nowhere" = 1, depth: "int" = 2):\n  return width\n')
  assert parts.resolve(parts.find(f'{name}:f', {}, 'x'), {'width': 'wide'}, 'x') == {'width': 'wide', 'depth': 2}


def test_call_gives_lists_as_tuples_and_the_context():
  given = {'width': 3, 'depth': [1, 2], 'rate': 1, 'sizes': [1, 2.5]}
  assert parts.call(shape, given, 'model', rngs=7, unasked=1) == (3, (1, 2), 1, (1, 2.5), 7)
  assert parts.call(Section, {'width': 3}, 'section') == Section(width=3)
  assert parts.call(lambda pairs: pairs, {'pairs': [[1, 2], [3]]}, 'x') == ((1, 2), (3,))


def test_what_a_part_needs_of_the_run_and_does_not_get():
  settings = {'width': 3, 'depth': 1}
  error = refused(lambda: parts.call(shape, settings, 'model', context=('rngs', 'image')), 'rngs', kind=parts.Lacking)
  assert error.keys == ('rngs',)
  optional = lambda *, rngs=None: rngs
  assert parts.call(optional, {}, 'model', context=('rngs',)) is None
  refused(lambda: parts.call(optional, {'rngs': 1}, 'model', context=('rngs',)), 'model.rngs')


def test_resolve_fills_in_defaults_and_changes_nothing_twice():
  resolved = parts.resolve(shape, {'depth': 1, 'width': 3}, 'model', ['rngs'])
  assert resolved == {'width': 3, 'depth': 1, 'rate': 0.0, 'sizes': ()}
  assert parts.resolve(shape, resolved, 'model', ['rngs']) == resolved


def test_defaults_that_json_cannot_hold_stay_with_the_function():
  def part(*, activation: Callable = len, width: int = 1, none: int = None, of: dict = {}):  # noqa: B006
    return activation, width, none, of

  resolved = parts.resolve(part, {}, 'model')
  assert resolved == {'width': 1, 'none': None, 'of': {}}
  assert parts.resolve(part, resolved, 'model') == resolved
  assert parts.call(part, resolved, 'model') == (len, 1, None, {})
  refused(lambda: parts.resolve(part, {'activation': 'len'}, 'model'), 'model.activation', "'len'", 'Callable')


@pytest.mark.parametrize(
  'settings, words',
  [
    ({'width': 3, 'dept': 1}, ['model.dept', "did you mean 'depth'", 'depth, rate, sizes, width']),
    ({'width': 3, 'depth': 1, 'rngs': 0}, ['model.rngs']),
    ({'width': '3', 'depth': 1}, ['model.width', "'3'", 'str', 'int']),
    ({'width': 3.0, 'depth': 1}, ['model.width', '3.0', 'float', 'int']),
    ({'width': True, 'depth': 1}, ['model.width', 'True', 'bool', 'int']),
    ({'width': 3, 'depth': 1, 'rate': True}, ['model.rate', 'True', 'bool', 'float']),
    ({'width': 3, 'depth': 1, 'rate': None}, ['model.rate', 'None', 'float']),
    ({'width': 3, 'depth': [1, 2, 3]}, ['model.depth', '[1, 2, 3]', 'tuple[int, int]']),
    ({'width': 3, 'depth': 1, 'sizes': [1.0, 'b']}, ['model.sizes', "'b'", 'tuple[float, ...]']),
    ({'width': 3, 'depth': 1, 'sizes': 1.0}, ['model.sizes', '1.0', 'tuple[float, ...]']),
  ],
)
def test_wrong_settings(settings, words):
  refused(lambda: parts.call(shape, settings, 'model', rngs=7), *words)


def test_all_missing_keys_at_once():
  error = refused(
    lambda: parts.resolve(shape, {}, 'model', ['rngs']), 'model.width (int)', 'set them', kind=parts.Missing
  )
  assert error.keys == ('model.width (int)', 'model.depth (int | tuple[int, int])')
  refused(lambda: parts.resolve(Section, {}, 'section'), 'section.width (int); set it', kind=parts.Missing)
  refused(lambda: parts.resolve(Section, {'widht': 1}, 'section'), 'section.widht', "did you mean 'width'")


def test_named():
  assert parts.named(TABLE, {'name': 'section', 'width': 3}, 'model') == Section(width=3)
  assert parts.named(TABLE, {'name': 'text', 'template': 'a $b'}, 'model').template == 'a $b'
  assert parts.resolve_named({'n': Named}, {'first': 1, 'name': 'n'}, 'x') == {'name': 'n', 'first': 1, 'width': 3}
  refused(lambda: parts.named(TABLE, {'width': 3}, 'model'), 'model.name (one of section, shape, text, or module:name)')
  refused(lambda: parts.named(TABLE, 3, 'model'), 'model is 3', 'dict')


def test_the_context_of_a_table():
  table = parts.Table({'shape': shape}, context=('rngs', 'rate'))
  settings = {'name': 'shape', 'width': 1, 'depth': 2}
  assert parts.resolve_named(table, settings, 'model') == settings | {'sizes': ()}
  assert parts.named(table, settings, 'model', rngs=5) == (1, 2, 0.0, (), 5)
  refused(lambda: parts.named(table, settings, 'model'), 'model needs rngs', kind=parts.Lacking)


# ---- parts of parts


def inner(*, kernel: int, side: int = 1, grid: tuple):
  return kernel, side, grid


def other(*, depth: int = 2):
  return depth


INNER = parts.Table({'inner': inner, 'other': other}, context=('grid',))


def outer(*, mixing: Annotated[dict, INNER] = {'name': 'inner', 'kernel': 3}, size: int):  # noqa: B006
  return parts.named(INNER, mixing, 'model.mixing', grid=(2, 2)), size


def test_a_part_of_a_part():
  default = {'mixing': {'name': 'inner', 'kernel': 3, 'side': 1}, 'size': 1}
  assert parts.resolve(outer, {'size': 1}, 'model') == default
  assert parts.resolve(outer, default, 'model') == default
  assert parts.resolve(outer, {'size': 1, 'mixing': 'other'}, 'model')['mixing'] == {'name': 'other', 'depth': 2}
  assert parts.resolve(outer, {'size': 1, 'mixing': {'side': 5}}, 'model')['mixing']['side'] == 5
  assert parts.call(outer, {'size': 1, 'mixing': {'kernel': 9}}, 'model') == ((9, 1, (2, 2)), 1)
  settings = {'mixing': {'name': Text('other'), 'depth': Text('4')}, 'size': 1}
  assert parts.resolve(outer, settings, 'model')['mixing'] == {'name': 'other', 'depth': 4}
  json.dumps(default)


def test_mistakes_in_a_part_of_a_part():
  missing = refused(lambda: parts.resolve(outer, {'mixing': {'name': 'inner'}}, 'model'), kind=parts.Missing)
  assert missing.keys == ('model.mixing.kernel (int)', 'model.size (int)')
  refused(
    lambda: parts.resolve(outer, {'mixing': {'name': 'iner'}, 'size': 1}, 'model'), 'model.mixing.name', "'inner'"
  )
  refused(lambda: parts.resolve(outer, {'mixing': {'name': 'other', 'kernel': 1}, 'size': 1}, 'model'), 'mixing.kernel')
  refused(lambda: parts.resolve(outer, {'mixing': {'grid': 1}, 'size': 1}, 'model'), 'model.mixing.grid')
  refused(lambda: parts.resolve(outer, {'mixing': 3, 'size': 1}, 'model'), 'model.mixing is 3')


# ---- the command line


@pytest.mark.parametrize(
  'text, kind, value',
  [
    ('3', int, 3),
    ('-1', int, -1),
    ('3', str, '3'),
    ('True', str, 'True'),
    ('None', str, 'None'),
    ('', str, ''),
    ('3', float, 3.0),
    ('2e-3', float, 0.002),
    ('inf', float, float('inf')),
    ('true', bool, True),
    ('False', bool, False),
    ('None', int | None, None),
    ('3', int | None, 3),
    ('none', str | None, 'none'),
    ('None', Optional[str], None),  # noqa: UP045
    ('3', int | float, 3),
    ('3', int | str, 3),
    ('b', int | str, 'b'),
    ('7', int | tuple[int, int], 7),
    ('(7, 8)', int | tuple[int, int], (7, 8)),
    ('7,8', int | tuple[int, int], (7, 8)),
    ('[7, 8]', tuple[int, int], (7, 8)),
    ('7', tuple[int, ...], (7,)),
    ('1,2', tuple[float, ...], (1.0, 2.0)),
    ('', tuple[str, ...], ()),
    ('()', tuple[str, ...], ()),
    ('a', tuple[str, ...], ('a',)),
    ('a, b', tuple[str, ...], ('a', 'b')),
    ('1', tuple[str, ...], ('1',)),
    ("('a', 'b')", tuple[str, ...], ('a', 'b')),
    ("('a,b',)", tuple[str, ...], ('a,b',)),
    ('a', tuple[str, ...] | None, ('a',)),
    ('None', tuple[str, ...] | None, None),
    ('a,b', str | tuple[str, ...], 'a,b'),
    ('a,1', tuple, ('a', 1)),
    ('a', Literal['a', 'b'], 'a'),
    ('[1, 2]', list[int], [1, 2]),
    ('3', Any, 3),
    ('b', Any, 'b'),
  ],
)
def test_text_becomes_what_the_signature_says(text, kind, value):
  def part(*, x):
    return x

  part.__annotations__['x'] = kind
  found = parts.resolve(part, {'x': Text(text)}, 'part')['x']
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  'text, kind, words',
  [
    ('three', int, ["part.x is 'three' (str)", 'int']),
    ('0.5', int, ['part.x is 0.5 (float)', 'int']),
    ('True', int, ['part.x is True (bool)', 'int']),
    ('perhaps', bool, ["'perhaps'", 'bool']),
    ('1', bool, ['1 (int)', 'bool']),
    ('fast', float, ["'fast'", 'float']),
    ('7,8,9', tuple[int, int], ['(7, 8, 9)', 'tuple[int, int]']),
    ('a', tuple[int, ...], ["('a',)", 'tuple[int, ...]']),
    ('c', Literal['a', 'b'], ["'c'", 'Literal']),
    ('3', dict, ['3 (int)', 'dict']),
  ],
)
def test_text_that_cannot_be_that(text, kind, words):
  def part(*, x):
    return x

  part.__annotations__['x'] = kind
  refused(lambda: parts.resolve(part, {'x': Text(text)}, 'part'), *words)


def test_a_flag_given_again():
  again = Text('c', ('a', '1'))
  part = lambda *, names=(): names
  part.__annotations__['names'] = tuple[str, ...]
  assert parts.resolve(part, {'names': again}, 'part') == {'names': ('a', '1', 'c')}
  part.__annotations__['names'] = str
  assert parts.resolve(part, {'names': again}, 'part') == {'names': 'c'}


def test_another_part_takes_over_what_it_knows():
  """Settings of a config file that the part of the command line does not take are left out, with a note."""
  notes = []
  settings = {'name': Text('other'), 'kernel': 3, 'side': 1, 'depth': 5}
  assert parts.resolve_named(INNER, settings, 'mixing', notes=notes) == {'name': 'other', 'depth': 5}
  assert notes == ["mixing 'other' does not take kernel, side of the config file: left out"]
  settings['kernel'] = Text('5')
  refused(lambda: parts.resolve_named(INNER, settings, 'mixing', notes=[]), 'mixing.kernel')
  settings['kernel'] = {'name': 'x', 'y': Text('1')}
  refused(lambda: parts.resolve_named(INNER, settings, 'mixing', notes=[]), 'mixing.kernel')
  refused(lambda: parts.resolve_named(INNER, settings | {'name': 'other'}, 'mixing'), 'mixing.kernel')
