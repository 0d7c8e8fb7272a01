"""Tests of the requests to stop."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from runners.signals import STOPPING, Interruption, Signals


@pytest.fixture(autouse=True)
def with_a_terminal():
    """These tests may run under nohup themselves."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_is_a_request_and_handlers_are_put_back(number):
    before = signal.getsignal(number)
    with Signals() as signals:
        assert signals.requested is None
        os.kill(os.getpid(), number)
        assert signals.requested == signal.Signals(number).name
    assert signal.getsignal(number) is before


def test_a_closed_terminal_is_no_request_under_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.requested is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_work_that_can_be_dropped_is_interrupted_at_once():
    with Signals() as signals:
        with pytest.raises(Interruption, match="SIGTERM"), signals.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("went on")
        with pytest.raises(Interruption, match="SIGTERM"), signals.at_once():
            raise AssertionError("began, though the request was there before")


def test_a_second_interrupt_from_the_keyboard_ends_the_process():
    program = (
        "import os, signal\n"
        "from runners.signals import Signals\n"
        "with Signals():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('asked', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM if {other} else signal.SIGINT)\n"
        "    print('alive', flush=True)\n"
    )
    for other, code, out in ((True, 0, "asked\nalive\n"), (False, 1, "asked\n")):
        command = [sys.executable, "-c", program.format(other=other)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (code, out)


def test_outside_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter():
        with Signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
