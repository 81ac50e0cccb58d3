"""Made-up helpdesk events that look like Feishu's: whole lives of tickets, Chinese and English.

All people, problems and ids are invented; the quirks of the payloads (numbers as text, one object
in place of a list) are those that Feishu's helpdesk pages and its real traffic show.
"""

# ruff: noqa: RUF001 - Chinese text has its own punctuation

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from relay.simulator.talks import AGENT, AGENTS, BOT, COMMENTS, GUEST, GUESTS, TALKS, Person, Talk

_BY_BOT, _HUMAN = 1, 2
_CREATED, _PROCESSING, _QUEUEING, _WAITING = 1, 2, 3, 5
_CLOSED_BY_BOT, _CLOSED_BY_AGENT, _CLOSED_BY_USER = 50, 51, 52
#: The share of approvals among all events; they belong to no ticket.
_APPROVALS = 0.03

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One event as Feishu would send it, before encryption."""

    event_id: str
    event_type: str
    #: Empty when the event belongs to no ticket.
    ticket_id: str
    payload: Json


@dataclass(slots=True)
class _Ticket:
    """One open ticket and what is left of its life."""

    ticket_id: str
    chat_id: str
    guest: Person
    agent: Person
    talk: Talk
    created_at: int
    stage: int = _BY_BOT
    status: int = _CREATED
    updated_at: int = -1
    closed_at: int = 0
    score: int = 0
    solve: int = 0
    comment: Json | list[Json] | None = None
    life: Iterator[tuple[str, Json]] = field(default_factory=lambda: iter(()))


class Helpdesk:
    """An invented helpdesk: gives its next event on request, of `tickets` open tickets."""

    def __init__(
        self, rng: random.Random, *, tickets: int, app_id: str, token: str, clock: Callable[[], int]
    ) -> None:
        self._rng = rng
        self._clock = clock
        self._app_id = app_id
        self._token = token
        self._tenant_key = f"{rng.getrandbits(64):016x}"
        self._helpdesk_id = self._id()
        self._open = [self._ticket() for _ in range(max(1, tickets))]

    def next(self) -> Sample:
        """Make the next event, of a ticket picked at random; a closed ticket gives way to a new."""
        if self._rng.random() < _APPROVALS:
            return self._sample("helpdesk.notification.approve_v1", "", self._approval())
        place = self._rng.randrange(len(self._open))
        step = next(self._open[place].life, None)
        if step is None:
            self._open[place] = self._ticket()
            step = next(self._open[place].life)
        return self._sample(step[0], self._open[place].ticket_id, step[1])

    def _sample(self, event_type: str, ticket_id: str, event: Json) -> Sample:
        header = {
            "event_id": f"{self._rng.getrandbits(128):032x}",
            "token": self._token,
            "create_time": str(self._clock()),
            "event_type": event_type,
            "tenant_key": self._tenant_key,
            "app_id": self._app_id,
        }
        return Sample(
            event_id=header["event_id"],
            event_type=event_type,
            ticket_id=ticket_id,
            payload={"schema": "2.0", "header": header, "event": event},
        )

    def _ticket(self) -> _Ticket:
        rng, now, talk = self._rng, self._clock(), self._rng.choice(TALKS)
        ticket = _Ticket(
            ticket_id=self._id(),
            chat_id=f"oc_{rng.getrandbits(128):032x}",
            guest=self._speaker(GUESTS, talk),
            agent=self._speaker(AGENTS, talk),
            talk=talk,
            created_at=now,
        )
        ticket.life = self._live(ticket)
        return ticket

    def _speaker(self, people: tuple[Person, ...], talk: Talk) -> Person:
        """Pick someone who speaks the talk's language."""
        return self._rng.choice(
            [person for person in people if person.name.isascii() == talk.category.isascii()]
        )

    def _live(self, ticket: _Ticket) -> Iterator[tuple[str, Json]]:
        """Tell a ticket's life: created, said, handed to a human, answered, closed."""
        ticket.created_at = self._clock()
        yield "helpdesk.ticket.created_v1", self._created(ticket)
        for position, (sender, text) in enumerate(ticket.talk.lines, 1):
            if sender == AGENT and ticket.stage == _BY_BOT:
                yield self._updated(ticket, stage=_HUMAN, status=_QUEUEING)
                yield self._updated(ticket, status=_PROCESSING)
            yield self._message(ticket, sender, text, position)
            if sender == AGENT and ticket.status == _PROCESSING and self._coin():
                yield self._updated(ticket, status=_WAITING)
        if ticket.stage == _BY_BOT:
            yield self._updated(ticket, status=_CLOSED_BY_BOT, solve=2)
        else:
            closed = self._rng.choice((_CLOSED_BY_AGENT, _CLOSED_BY_USER))
            yield self._updated(ticket, status=closed, solve=2)
        if self._coin():
            yield self._updated(ticket, score=self._rng.choice((1, 2, 3, 3)))
            ticket.comment = self._comment(ticket)
            last = len(ticket.talk.lines) + 1
            yield self._message(ticket, BOT, "感谢您的评价！Thank you!", last)

    def _created(self, ticket: _Ticket) -> Json:
        return {
            "ticket_id": ticket.ticket_id,
            "helpdesk_id": self._helpdesk_id,
            "guest": self._user(ticket.guest),
            "stage": ticket.stage,
            "status": ticket.status,
            "score": 0,
            "created_at": ticket.created_at,
            "updated_at": ticket.created_at,
            "closed_at": 0,
            "channel": self._rng.choice((0, 2, 9, 13, 14)),
            "solve": 0,
            "customized_fields": [self._category(ticket)],
            "chat_id": ticket.chat_id,
        }

    def _updated(self, ticket: _Ticket, **changes: int) -> tuple[str, Json]:
        """Change a ticket; `old_object` holds only what changed, as in Feishu's events."""
        now = self._clock()
        old = {name: getattr(ticket, name) for name in changes} | {"updated_at": ticket.updated_at}
        for name, value in changes.items():
            setattr(ticket, name, value)
        ticket.updated_at = now
        if ticket.status >= _CLOSED_BY_BOT and not ticket.closed_at:
            ticket.closed_at = now
        new = {
            "ticket_id": ticket.ticket_id,
            "helpdesk_id": self._helpdesk_id,
            "guest": self._user(ticket.guest),
            "stage": ticket.stage,
            "status": ticket.status,
            "score": ticket.score,
            "created_at": ticket.created_at,
            "updated_at": now,
            "closed_at": ticket.closed_at,
            "solve": ticket.solve,
            "chat_id": ticket.chat_id,
        }
        if ticket.stage == _HUMAN:
            new["agents"] = [self._user(ticket.agent)]
        return "helpdesk.ticket.updated_v1", {"object": new, "old_object": old}

    def _message(self, ticket: _Ticket, sender: int, text: str, position: int) -> tuple[str, Json]:
        """Make a message; numbers come as text or not, as real traffic shows both."""
        message: Json = {
            "ticket_message_id": self._id(),
            "message_id": f"om_{self._rng.getrandbits(128):032x}",
            "msg_type": "text",
            "position": self._rng.choice((position, str(position))),
            "sender_type": sender,
            "text": text,
            "ticket": self._ticket_in_message(ticket),
            "event_id": self._uuid(),
            "chat_id": self._rng.choice((ticket.chat_id, int(ticket.ticket_id) + 1)),
            "content": {"content": text, "msg_type": "text"},
        }
        if sender != BOT:  # Feishu leaves the bot's out
            person = ticket.guest if sender == GUEST else ticket.agent
            message["sender_id"] = self._user(person)["id"]
        return "helpdesk.ticket_message.created_v1", message

    def _ticket_in_message(self, ticket: _Ticket) -> Json:
        content: Json = {
            "ticket_id": ticket.ticket_id,
            "ticket_type": ticket.stage,
            "status": ticket.status,
            "score": ticket.score,
            "created_at": self._rng.choice((ticket.created_at, str(ticket.created_at))),
            "updated_at": ticket.updated_at,
            "closed_at": ticket.closed_at,
            "customized_fields": [self._category(ticket)],
        }
        if ticket.stage == _HUMAN:
            content["agent_owner"] = {
                "id": self._user(ticket.agent)["id"]["open_id"],
                "name": ticket.agent.name,
                "email": f"{ticket.agent.account}@example.com",
                "department": "IT",
                "city": ticket.agent.city,
            }
            content["agent_service_duration"] = round((self._clock() - ticket.created_at) / 6e4, 2)
            content["agent_first_response_duration"] = self._rng.randint(2, 90)
        if ticket.comment is not None:
            content["comments"] = ticket.comment
            content["dissatisfaction_reason"] = {"zh_cn": "慢", "en_us": "slow", "ja_jp": "遅い"}
        return content

    def _comment(self, ticket: _Ticket) -> Json | list[Json]:
        """Make the guest's comment: documented as one object, seen as a list as well."""
        comment = {
            "content": self._rng.choice(COMMENTS),
            "created_at": self._clock(),
            "id": self._rng.randint(1000, 9999),
            "user_avatar_url": f"https://example.com/{ticket.guest.account}.png",
            "user_name": ticket.guest.name,
            "user_id": int(self._id()),
        }
        return comment if self._coin() else [comment]

    def _category(self, ticket: _Ticket) -> Json:
        return {
            "id": self._id(),
            "value": ticket.talk.category,
            "key_name": "ticket_category",
            "display_name": "Category",
            "position": 1,
            "required": True,
            "editable": False,
        }

    def _approval(self) -> Json:
        return {
            "notification_id": self._id(),
            "helpdesk_id": self._helpdesk_id,
            "approve_status": self._rng.choice(("APPROVED", "REJECTED", "CANCELED", "DELETED")),
        }

    def _user(self, person: Person) -> Json:
        """Describe a person; the ids follow from the name, so they stay the same."""
        digits = f"{random.Random(person.account).getrandbits(128):032x}"  # noqa: S311 - ids
        return {
            "id": {
                "union_id": f"on_{digits}",
                "user_id": digits[:8],
                "open_id": f"ou_{digits[::-1]}",
            },
            "avatar_url": f"https://example.com/{person.account}.png",
            "name": person.name,
            "email": f"{person.account}@example.com",
        }

    def _coin(self) -> bool:
        return bool(self._rng.getrandbits(1))

    def _id(self) -> str:
        """Make a 64-bit id: beyond 2**53, where JSON numbers turn inexact in other languages."""
        return str(self._rng.randrange(6 * 10**18, 8 * 10**18))

    def _uuid(self) -> str:
        digits = f"{self._rng.getrandbits(128):032x}"
        parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
        return "-".join(parts)
