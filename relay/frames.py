"""The frames of Feishu's long connection: read, written, joined. Pure: no socket, no clock.

One binary WebSocket message is one Frame. Rules: what the four official SDKs agree on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from google.protobuf.message import DecodeError

from relay.frame_pb2 import Frame

#: Parts, and bytes in all, of one message; parts that wait for others, of one connection.
MAX_PARTS, MAX_MESSAGE_BYTES, MAX_WAITING_BYTES = 256, 8 * 2**20, 32 * 2**20
#: Seconds after which a message whose parts did not all come is given up; Feishu sends it again.
MAX_AGE = 10.0


class Method(IntEnum):
    """What `method` of a frame says."""

    CONTROL = 0
    DATA = 1


class FrameError(ValueError):
    """A frame that cannot be what it says."""


class NotAFrameError(FrameError):
    """Bytes that are no frame at all."""


def read(data: bytes) -> Frame:
    """Read a frame. Raises NotAFrameError."""
    try:
        return Frame.FromString(data)
    except DecodeError as error:
        raise NotAFrameError("not a frame") from error


def headers(frame: Frame) -> dict[str, str]:
    """Give the headers by name; of two with one name, the first."""
    return {one.key: one.value for one in reversed(frame.headers)}


def control(kind: str, service: int, payload: bytes = b"") -> bytes:
    """Write a `ping` or a `pong`."""
    frame = Frame(seq_id=0, log_id=0, service=service, method=Method.CONTROL)
    frame.headers.add(key="type", value=kind)
    if payload:
        frame.payload = payload
    return frame.SerializeToString()


def acknowledgement(frame: Frame, code: int, milliseconds: int) -> bytes:
    """Answer a data frame: the frame itself, `biz_rt` behind its headers, another payload.

    Nothing else may change: Feishu finds the waiting delivery by ids and headers of its own. The
    frame is used up by this.
    """
    frame.headers.add(key="biz_rt", value=str(milliseconds))
    frame.payload = b'{"code":%d}' % code
    return frame.SerializeToString()


@dataclass(slots=True)
class _Message:
    """The parts of one message that have come so far."""

    sum: int
    since: float
    parts: dict[int, bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.parts.values()))


class Assembly:
    """Joins the parts of messages, in any order and never without bounds."""

    def __init__(self) -> None:
        self._messages: dict[str, _Message] = {}

    def add(self, named: Mapping[str, str], payload: bytes, now: float) -> bytes | None:
        """Take a part: the whole payload if this part completes it, else None.

        `named` are the frame's headers; `now` is in seconds of any clock that does not step.
        Raises FrameError.
        """
        total, number = _count(named, "sum", 1), _count(named, "seq", 0)
        if total == 1 and number == 0:
            return payload
        if not 0 <= number < total <= MAX_PARTS:
            raise FrameError(f"part {number} of {total}")
        self.expire(now)
        message_id = named.get("message_id", "")
        message = self._messages.setdefault(message_id, _Message(total, now, {}))
        if message.sum != total:
            del self._messages[message_id]
            raise FrameError("the parts disagree on how many they are")
        message.parts[number] = payload
        self._bound(message_id, message)
        if len(message.parts) < total:
            return None
        # It may have been the oldest of too many.
        self._messages.pop(message_id, None)
        return b"".join(message.parts[place] for place in range(total))

    def expire(self, now: float) -> int:
        """Give up messages that have waited for too long; give how many they were."""
        late = [key for key, one in self._messages.items() if now - one.since > MAX_AGE]
        for key in late:
            del self._messages[key]
        return len(late)

    def _bound(self, message_id: str, message: _Message) -> None:
        if message.size > MAX_MESSAGE_BYTES:
            del self._messages[message_id]
            raise FrameError("a message beyond all bounds")
        while sum(one.size for one in self._messages.values()) > MAX_WAITING_BYTES:
            del self._messages[next(iter(self._messages))]


def _count(named: Mapping[str, str], key: str, default: int) -> int:
    """Read a small number from a header; a frame without it is whole."""
    text = named.get(key, "")
    if not text:
        return default
    if len(text) > len(str(MAX_PARTS)) or not (text.isascii() and text.isdigit()):
        raise FrameError(f"{key} is not a number of parts")
    return int(text)
