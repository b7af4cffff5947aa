"""The message for an unknown name reads as sentences, with a guess, without one, with many names and with none."""

import pytest

from mixer_jax import errors


@pytest.mark.parametrize(
  'name, known, message',
  [
    ('gren', ['red', 'green'], "unknown colour 'gren'; did you mean 'green'? Known: green, red."),
    ('black', ['red', 'green'], "unknown colour 'black'. Known: green, red."),
    (7, [], 'unknown colour 7. Known: none.'),
    ('GREEN', ['red', 'green'], "unknown colour 'GREEN'; did you mean 'green'? Known: green, red."),
    ('label', ['Lable', 'LABEL'], "unknown colour 'label'; did you mean 'LABEL'? Known: LABEL, Lable."),
    ('black', map(str, range(1000, 2500)), "unknown colour 'black'. Known: 1000, 1001,"),
  ],
)
def test_unknown(name, known, message):
  found = str(errors.unknown('colour', name, known))
  assert found.startswith(message)
  assert found.endswith('1058, 1059, ... (1,500 in all).') if message.endswith(',') else found == message
