"""What commands print: lines for people, and one for programs."""

from __future__ import annotations

import sys

import pytest

from irstd.commands.show import result


@pytest.mark.parametrize(("terminal", "expected"), [(False, 'irstd-result: {"a": 1}\n'), (True, "")])
def test_the_line_for_programs_is_not_shown_in_a_terminal(monkeypatch, capsys, terminal, expected):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    result(a=1, b=None)
    assert capsys.readouterr().out == expected
