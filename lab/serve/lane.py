"""One queue and the thread that works it off: what fits together is done together, and every client gets its turn."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any

Tell = Callable[[Any], None]


class BusyError(Exception):
    """There is no room in the queue."""


class UnwantedError(Exception):
    """Nobody waits any more for what is being done."""


class Order:
    """What one request asks of a lane: pieces that are done one by one, beside those of other orders.

    Attributes:
        key: Pieces of orders with equal keys can be done together.
        pieces: What is to be done, one at least.
        results: What is done, by its place among the pieces.
        done: Pieces done, with the share of those under way.
        future: Has the results in the order of the pieces, once all are there. Whoever cancels it cancels the order.
        tell: Hears of what happens, in the thread of the lane.
    """

    def __init__(
        self, client: Hashable, key: Hashable, pieces: Sequence[Any], tell: Tell = lambda event: None
    ):
        self.client = client
        self.key: Any = key
        self.pieces = tuple(pieces)
        self.tell = tell
        self.results: dict[int, Any] = {}
        self.done = 0.0
        self.future: Future[list[Any]] = Future()

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.future.done()

    def finish(self, place: int, result: Any) -> None:
        """Puts down the result of a piece; the last one ends the order."""
        self.results[place] = result
        if len(self.results) == len(self.pieces):
            self.settle()

    def settle(self) -> None:
        """Ends the order with the results that there are."""
        self._end(lambda: self.future.set_result([self.results[place] for place in sorted(self.results)]))

    def fail(self, error: BaseException) -> None:
        """Ends the order with what went wrong."""
        self._end(lambda: self.future.set_exception(error))

    def cancel(self) -> None:
        """Ends the order; what of it is under way alone is broken off."""
        self.future.cancel()

    def _end(self, how: Callable[[], None]) -> None:
        try:
            how()
        except InvalidStateError:  # it was cancelled meanwhile
            return


@dataclass(frozen=True)
class Piece:
    """One piece of an order."""

    order: Order
    place: int

    @property
    def what(self) -> Any:
        """What is to be done."""
        return self.order.pieces[self.place]


class Lane:
    """A queue and its thread, which starts with the first order and ends with the process or `close`.

    Turns go round between clients, piece by piece, so that a client with a thousand pieces delays another one's by
    no more than what is under way. Who is next decides what is done next; all that fits to it, of whomever, goes along.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Piece]], None],
        most: Callable[[Piece], int],
        room: int,
    ):
        """Makes a lane.

        Args:
            work: Does pieces with equal keys together and calls `finish` on their orders; may raise. It raises
                `UnwantedError` when it finds that none of those under way is wanted any more.
            most: How many pieces are done together at most with one such as this.
            room: Pieces that may wait.
        """
        self.name = name
        self.under_way: tuple[Piece, ...] = ()
        self._work = work
        self._most = most
        self._room = room
        self._waiting: OrderedDict[Hashable, deque[Piece]] = OrderedDict()
        self._changed = Condition()
        self._thread: Thread | None = None
        self._closed = False

    @property
    def orders(self) -> list[Order]:
        """Those that are wanted, the one under way first."""
        with self._changed:
            pieces = [*self.under_way, *(piece for queue in self._waiting.values() for piece in queue)]
        return [order for order in dict.fromkeys(piece.order for piece in pieces) if order.wanted]

    @property
    def waiting(self) -> int:
        """How many pieces wait."""
        with self._changed:
            return sum(piece.order.wanted for queue in self._waiting.values() for piece in queue)

    def put(self, order: Order) -> Order:
        """Queues an order, and returns it.

        Raises:
            BusyError: there is no room for it, or the lane is closed.
        """
        with self._changed:
            if self._closed:
                raise BusyError("the server is stopping")
            self._forget_unwanted()
            waiting = self.waiting
            if waiting + len(order.pieces) > self._room:
                raise BusyError(f"{waiting} {self.name} are waiting already; try again later")
            pieces = (Piece(order, place) for place in range(len(order.pieces)))
            self._waiting.setdefault(order.client, deque()).extend(pieces)
            if self._thread is None:
                self._thread = Thread(target=self._serve, name=f"lab-{self.name}", daemon=True)
                self._thread.start()
            self._changed.notify()
        return order

    def close(self, seconds: float = 10) -> None:
        """Cancels all orders, and waits for what is under way to break off."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        for order in self.orders:
            order.cancel()
        if self._thread is not None:
            self._thread.join(seconds)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self.under_way = tuple(self._next())
            self._do(self.under_way)
            self.under_way = ()

    def _forget_unwanted(self) -> None:
        """Drops what nobody wants any more, which else would lie here until its client's turn."""
        for client, queue in list(self._waiting.items()):
            self._waiting[client] = deque(piece for piece in queue if piece.order.wanted)
            if not self._waiting[client]:
                del self._waiting[client]

    def _next(self) -> list[Piece]:
        """The pieces to do now: that of the client whose turn it is, and what goes along; none if none is wanted."""
        taken: list[Piece] = []
        room = 1
        while len(taken) < room and (found := self._one_each(taken[0] if taken else None, room - len(taken))):
            taken += found
            room = max(self._most(taken[0]), 1)
        return taken

    def _one_each(self, like: Piece | None, most: int) -> list[Piece]:
        """Takes a piece of each client in turn, of those that fit to one such as this."""
        taken: list[Piece] = []
        for client in list(self._waiting):
            queue = self._waiting[client]
            piece = _take_fitting(queue, like)
            if not queue:
                del self._waiting[client]
            if piece is not None:
                if queue:
                    self._waiting.move_to_end(client)
                taken.append(piece)
                if len(taken) == most:
                    break
        return taken

    def _do(self, pieces: Sequence[Piece]) -> None:
        """Does pieces together; if that fails, those of each order apart, so that none suffers from another."""
        pieces = [piece for piece in pieces if piece.order.wanted and piece.place not in piece.order.results]
        orders = list(dict.fromkeys(piece.order for piece in pieces))
        if not pieces:
            return
        try:
            self._work(pieces)
        except Exception as error:
            if isinstance(error, UnwantedError) and not all(order.wanted for order in orders):
                self._do(pieces)  # what was not under way when it was broken off may be another's
                return
            if len(orders) == 1:
                orders[0].fail(error)
                return
            for order in orders:
                self._do([piece for piece in pieces if piece.order is order])


def _take_fitting(queue: deque[Piece], like: Piece | None) -> Piece | None:
    """Takes the first piece that fits out of a client's queue, and drops those that nobody wants any more."""
    kept: deque[Piece] = deque()
    found = None
    while queue and found is None:
        piece = queue.popleft()
        if not piece.order.wanted:
            continue
        if like is None or piece.order.key == like.order.key:
            found = piece
        else:
            kept.append(piece)
    queue.extendleft(reversed(kept))
    return found


def unwanted(pieces: Iterable[Piece]) -> bool:
    """Whether nobody waits for any of the pieces."""
    return not any(piece.order.wanted for piece in pieces)
