"""Records of random events, made of the fields that Feishu documents: most fit, some do not."""

import json
import random
from pathlib import Path
from typing import Any

from relay.contract import exactjson
from relay.contract.normalize import Router, normalize
from relay.events import StoredEvent, Transport

_DOCUMENTED: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "unit" / "feishu-fields.json").read_bytes()
)
_ROUTER = Router("feishu.", {})
#: How many values of a hundred are of another type than documented, and how many are absent.
_MISFITS, _ABSENT = 5, 30
_TEXTS = ("", "请问vpn怎么下载", "a\n\"b\" \\ 'c'", "\u2028<b>", "1608725989000", "12", "ou_1")
_ODD: tuple[Any, ...] = ("odd", -7, 2.5, True, [], ["a", 1, None], {}, {"x": [1]}, None)


class Events:
    """A stream of random events of one type, the same for the same seed."""

    def __init__(self, event_type: str, seed: int) -> None:
        self._type, self._rng = event_type, random.Random(seed)
        self._tree = _tree(_DOCUMENTED.get(event_type, {}))

    def values(self, count: int) -> list[bytes]:
        """Give the values of so many records, as JSON of one line each."""
        return [self._value(number) for number in range(count)]

    def _value(self, number: int) -> bytes:
        event = self._object(self._tree) if self._tree else {"n": number, "odd": list(_ODD)}
        header = {"event_id": f"e-{number}", "event_type": self._type, "app_id": "cli_a"}
        header["create_time"] = self._rng.choice(["1608725989000", "", "soon"])
        stored = StoredEvent(
            seq=number,
            app="default",
            transport=self._rng.choice(list(Transport)),
            received_at=1_700_000_000_000 + number,
            event_id=f"e-{number}",
            event_type=self._type,
            body=exactjson.dumps({"schema": "2.0", "header": header, "event": event}),
        )
        value = normalize(stored, _ROUTER).value
        assert value is not None
        return value

    def _object(self, tree: dict[str, Any]) -> dict[str, Any]:
        made = {
            name: self._member(*branch)
            for name, branch in tree.items()
            if self._rng.randrange(100) >= _ABSENT
        }
        return made | ({"a_field_of_tomorrow": self._rng.choice(_ODD)} if len(made) % 2 else {})

    def _member(self, kind: str, inner: dict[str, Any]) -> Any:
        if self._rng.randrange(100) < _MISFITS:
            return self._rng.choice(_ODD)
        if kind.endswith("[]"):
            item = kind.removesuffix("[]")
            made = [self._member(item, inner) for _ in range(self._rng.randrange(3))]
            return made[0] if len(made) == 1 and self._rng.random() < 0.5 else made
        return self._object(inner) if kind == "object" else self._scalar(kind)

    def _scalar(self, kind: str) -> Any:
        if kind == "integer":
            code = self._rng.choice([0, 1, 2, 3, 5, 9, 50, 77])
            return self._rng.choice([code, str(code), -1, 1608725989000, 2**53 + 1, None])
        if kind == "number":
            return self._rng.choice([0, 2.05, "3.5", 42624.95])
        if kind == "boolean":
            return self._rng.random() < 0.5
        return self._rng.choice([*_TEXTS, None])


def _tree(paths: dict[str, str]) -> dict[str, Any]:
    """Give each member's type and members, of paths such as `ticket.comments[].id`."""
    tree: dict[str, Any] = {}
    for path, kind in paths.items():
        *way, name = path.replace("[]", "").split(".")
        place = tree
        for step in way:
            place = place[step][1]
        place[name] = (kind, {})
    return tree
