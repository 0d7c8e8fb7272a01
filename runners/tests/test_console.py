"""Tests of the console that outlives its reader."""

import os

import pytest

from runners.console import LastingConsole


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("first", ["print", "print_line"])
def test_it_goes_on_when_its_reader_is_gone(first, terminal):
    reader, writer = os.pipe()
    with open(writer, "w") as file:
        console = LastingConsole(file=file, force_terminal=terminal)
        console.print_line("seen\tas it is")
        file.flush()
        assert os.read(reader, 100).decode().split() == ["seen", "as", "it", "is"]
        os.close(reader)
        for show in (getattr(console, first), console.print_line, console.print):
            show("lost")
        assert console.quiet
