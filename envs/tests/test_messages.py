import multiprocessing
import threading

import numpy as np
import pytest

from envs.messages import receive, send


@pytest.fixture
def ends():
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with ours, theirs:
        yield ours, theirs


def test_a_ticket_alone_and_what_comes_with_one(ends):
    ours, theirs = ends
    for ticket, content in ((7, None), (-1, ("state", [1, None])), (2**40, ("done", None))):
        send(ours, ticket, content)
        assert receive(theirs) == (ticket, content)


def test_messages_larger_than_what_a_pipe_holds_arrive_whole_and_in_order(ends):
    ours, theirs = ends
    numbers = np.random.default_rng(0).standard_normal(1_000_000)
    sender = threading.Thread(target=lambda: [send(ours, 1, numbers), send(ours, 2)])
    sender.start()
    ticket, received = receive(theirs)
    assert ticket == 1 and np.array_equal(received, numbers)
    assert receive(theirs) == (2, None)
    sender.join()


def test_the_other_side_is_gone(ends):
    ours, theirs = ends
    send(ours, 1, "the last word")
    ours.close()
    assert receive(theirs) == (1, "the last word")
    with pytest.raises(EOFError):
        receive(theirs)
    with pytest.raises(OSError):
        send(theirs, 2)
    with pytest.raises(OSError):
        send(ours, 2)
