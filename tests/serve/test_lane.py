"""Turns, batches, cancellation and errors in a queue."""

from gc import collect
from threading import Event
from weakref import ref

import pytest

from lab.serve.lane import BusyError, Lane, Order, UnwantedError, unwanted


class Work:
    """Notes what is done together, and waits with the first until the queue is filled."""

    def __init__(self):
        self.done = []
        self.called = Event()
        self.begin = Event()

    def __call__(self, pieces):
        self.called.set()
        self.begin.wait(10)
        self.done.append([piece.what for piece in pieces])
        for piece in pieces:
            if piece.what == "bad":
                raise ValueError("bad")
            piece.order.finish(piece.place, piece.what.upper())


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def lane(work):
    lane = Lane("letters", work, lambda _: 4, room=40)
    lane.put(Order("first", "first", ["first"]))  # occupies the thread
    work.called.wait(10)
    yield lane
    work.begin.set()
    lane.close()


def finish(work, *orders):
    work.begin.set()
    return [order.future.result(10) for order in orders]


def test_what_fits_is_done_together_in_turns(lane, work):
    greedy = lane.put(Order("a", "k", [f"a{place}" for place in range(6)]))
    other = lane.put(Order("b", "k", ["b0"]))
    third = lane.put(Order("c", "k", ["c0", "c1"]))
    assert finish(work, greedy, other, third)[1:] == [["B0"], ["C0", "C1"]]
    assert work.done[1:] == [["a0", "b0", "c0", "a1"], ["c1", "a2", "a3", "a4"], ["a5"]]


def test_what_does_not_fit_waits_for_its_turn(lane, work):
    one = lane.put(Order("a", "k", ["a0", "a1"]))
    other = lane.put(Order("b", "other", ["b0", "b1"]))
    finish(work, one, other)
    assert work.done[1:] == [["a0", "a1"], ["b0", "b1"]]


def test_an_order_that_fails_fails_alone(lane, work):
    good = lane.put(Order("a", "k", ["a0"]))
    bad = lane.put(Order("b", "k", ["bad"]))
    assert finish(work, good) == [["A0"]]
    with pytest.raises(ValueError, match="bad"):
        bad.future.result(10)


def test_a_cancelled_order_is_not_done(lane, work):
    gone = lane.put(Order("a", "k", ["a0"] * 3))
    kept = lane.put(Order("b", "k", ["b0"]))
    assert lane.waiting == 4
    gone.cancel()
    assert lane.waiting == 1 and lane.orders[-1] is kept
    finish(work, kept)
    assert work.done[1:] == [["b0"]]


def test_what_nobody_wants_any_more_is_broken_off():
    begun, broken_off = Event(), Event()

    def work(pieces):
        begun.set()
        while not unwanted(pieces):
            pass
        broken_off.set()
        raise UnwantedError

    lane = Lane("letters", work, lambda _: 4, room=4)
    order = lane.put(Order("a", "k", ["a"]))
    begun.wait(10)
    order.cancel()
    assert broken_off.wait(10)
    lane.close()


def test_what_is_broken_off_for_one_is_done_for_the_others():
    begun, go = Event(), Event()

    def work(pieces):
        for piece in pieces:  # which fit, and yet are done one after the other
            begun.set()
            go.wait(10)
            if unwanted([piece]):
                raise UnwantedError
            piece.order.finish(piece.place, piece.what)

    lane = Lane("letters", work, lambda _: 4, room=4)
    lane.put(Order("first", "first", ["first"]))
    begun.wait(10)
    begun.clear()
    gone, kept = lane.put(Order("a", "k", ["a"])), lane.put(Order("b", "k", ["b"]))
    go.set()
    go.clear()
    assert begun.wait(10)
    gone.cancel()
    go.set()
    assert kept.future.result(10) == ["b"]
    lane.close()


def test_what_is_cancelled_is_forgotten_before_its_turn(lane):
    order = lane.put(Order("a", "k", ["a"] * 39))
    gone = ref(order)
    order.cancel()
    del order
    lane.put(Order("b", "k", ["b"]))
    collect()
    assert gone() is None


def test_a_full_queue_takes_no_more(lane):
    lane.put(Order("a", "k", ["a"] * 39))
    with pytest.raises(BusyError, match="letters are waiting"):
        lane.put(Order("b", "k", ["b"] * 40))


def test_a_settled_order_has_what_is_there():
    order = Order("a", "k", ["a", "b", "c"])
    order.finish(2, "C")
    order.settle()
    order.finish(0, "A")
    assert order.future.result(0) == ["C"]
