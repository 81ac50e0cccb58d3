"""Frames byte for byte as the official SDKs write them, and whatever else may come."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ingress import frames
from relay.ingress.frame_pb2 import Frame

VECTORS = {
    one["name"]: one
    for one in json.loads((Path(__file__).parent / "feishu-vectors.json").read_text())["ws_frames"]
}


def wire(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name]["hex"])


@pytest.mark.parametrize("name", VECTORS)
def test_every_frame_is_read_and_written_unchanged(name: str) -> None:
    assert wire(name) == frames.read(wire(name)).SerializeToString()


def test_ping_is_the_one_of_the_sdks() -> None:
    assert wire("ping") == frames.control("ping", 33554678)


@pytest.mark.parametrize("name", ["pong_with_config", "pong_empty"])
def test_pong_is_the_one_of_the_server(name: str) -> None:
    payload = VECTORS[name]["fields"].get("payload", "").encode()
    assert wire(name) == frames.control("pong", 33554678, payload)


@pytest.mark.parametrize(("name", "code"), [("ack_ok", 200), ("ack_error", 500)])
def test_acknowledgement_is_the_one_of_the_sdks(name: str, code: int) -> None:
    """But for a space in the payload, and `biz_rt`, which Python's leaves out of a failure."""
    expected = frames.read(wire(name))
    answer = frames.read(frames.acknowledgement(frames.read(wire("event_single")), code, 3))
    assert json.loads(expected.payload) == json.loads(answer.payload)
    if code == 500:
        expected.headers.add(key="biz_rt", value="3")
    expected.payload = answer.payload
    assert expected.SerializeToString() == answer.SerializeToString()


@pytest.mark.parametrize("answer", [b"{}", '{"toast":{"content":"好"}}'.encode()])
def test_answer_goes_along_as_base64(answer: bytes) -> None:
    """As Go's and Python's SDKs write `data`."""
    made = frames.read(frames.acknowledgement(frames.read(wire("event_single")), 200, 3, answer))
    document = json.loads(made.payload)
    assert set(document) == {"code", "data"}
    assert (document["code"], base64.b64decode(document["data"], validate=True)) == (200, answer)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_parts_of_the_vectors_are_joined(order: tuple[int, int]) -> None:
    """The cut goes through a character."""
    assembly = frames.Assembly()
    names = ("event_part_0_of_2", "event_part_1_of_2")
    parts = [frames.read(wire(names[place])) for place in order]
    first, second = (assembly.add(frames.headers(one), one.payload, 1.0) for one in parts)
    assert first is None
    joined = next(v["joined_payload"] for v in VECTORS.values() if "joined_payload" in v)
    assert joined.encode() == second


def part(number: int, total: int, message_id: str = "m") -> dict[str, str]:
    return {"message_id": message_id, "sum": str(total), "seq": str(number)}


def test_what_waits_for_too_long_is_given_up() -> None:
    assembly = frames.Assembly()
    assert assembly.add(part(0, 2), b"a", 0.0) is None
    assert assembly.add(part(0, 2, "n"), b"a", frames.MAX_AGE + 0.1) is None
    assert assembly.add(part(1, 2), b"b", frames.MAX_AGE + 0.2) is None
    assembly.expire(10 * frames.MAX_AGE)
    assert assembly.lost == 3


def test_message_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_MESSAGE_BYTES", 10)
    assembly = frames.Assembly()
    assert assembly.add(part(0, 3), b"12345678", 0.0) is None
    with pytest.raises(frames.FrameError, match="bounds"):
        assembly.add(part(1, 3), b"12345678", 0.0)
    assembly.expire(1000.0)
    assert assembly.lost == 0


def test_all_that_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest message gives way; Feishu sends it again."""
    monkeypatch.setattr(frames, "MAX_WAITING_BYTES", 25)
    assembly = frames.Assembly()
    for name in ("a", "b", "c"):
        assert assembly.add(part(0, 2, name), b"1234567890", 0.0) is None
    assert assembly.lost == 1
    assembly.expire(1000.0)
    assert assembly.lost == 3


def test_all_that_waits_is_bounded_in_number() -> None:
    """Parts without a payload take room, too."""
    assembly = frames.Assembly()
    for number in range(frames.MAX_MESSAGES + 3):
        assert assembly.add(part(0, 2, str(number)), b"", 0.0) is None
    assert assembly.lost == 3


def test_part_that_comes_again_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_MESSAGE_BYTES", 10)
    assembly = frames.Assembly()
    for _ in range(5):
        assert assembly.add(part(0, 2), b"12345", 0.0) is None
    assert assembly.add(part(1, 2), b"67890", 0.0) == b"1234567890"


def test_last_part_of_the_oldest_message_completes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although with it more waits than may."""
    monkeypatch.setattr(frames, "MAX_WAITING_BYTES", 25)
    assembly = frames.Assembly()
    for name in ("a", "b"):
        assert assembly.add(part(0, 2, name), b"1234567890", 0.0) is None
    assert assembly.add(part(1, 2, "a"), b"1234567890", 0.0) == b"12345678901234567890"
    assembly.expire(1000.0)
    assert assembly.lost == 1


def test_first_of_two_headers_with_one_name_counts() -> None:
    frame = Frame()
    frame.headers.add(key="type", value="event")
    frame.headers.add(key="type", value="ping")
    assert frames.headers(frame) == {"type": "event"}


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_none(data: bytes) -> None:
    try:
        frame = frames.read(data)
    except frames.NotAFrameError:
        return
    frames.headers(frame)


@given(
    st.lists(
        st.tuples(
            st.text("ab", min_size=1, max_size=1),
            st.one_of(st.integers(-3, 9).map(str), st.text(max_size=5)),
            st.one_of(st.integers(-3, 9).map(str), st.text(max_size=5)),
            st.binary(max_size=4),
        ),
        max_size=30,
    )
)
def test_any_parts_are_joined_or_refused(parts: list[tuple[str, str, str, bytes]]) -> None:
    """And never more is kept than has come."""
    assembly = frames.Assembly()
    for message_id, total, number, payload in parts:
        headers = {"message_id": message_id, "sum": total, "seq": number}
        try:
            joined = assembly.add(headers, payload, 0.0)
        except frames.FrameError:
            continue
        assert joined is None or len(joined) <= sum(len(one[3]) for one in parts)
