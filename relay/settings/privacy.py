"""What consumers do not get to see of people: fields that are left out, and fields that are hashed.

The names are those of the known event types, and of the objects in their schemas. The contract has
the rules for them; a test holds the two together.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator

from relay.settings import patterns, topics, values
from relay.settings.values import Names, Secret

#: 128 bits in hex: mail addresses and ids can all be tried, so this key alone keeps them.
SHORTEST_SALT = 32
#: Fields of texts, and objects of nothing but texts: they can be hashed.
TEXTS = {
    "Message": "ticket_message_id message_id chat_id event_id msg_type text sender_id content",
    "Content": "content msg_type image_key image_keys",
    "Ticket": "helpdesk_id chat_id guest closed_by agent_owner agents collaborators"
    " dissatisfaction_reason",
    "Notification": "helpdesk_id approve_status",
    "Person": "id avatar_url name email department city country",
    "Agent": "id avatar_url name email department city country",
    "UserId": "union_id user_id open_id",
    "Comment": "id user_id content user_name user_avatar_url",
    "CustomizedField": "id value key_name display_name",
    "I18nText": "zh_cn en_us ja_jp",
}
#: All others; of the names that rules make, Feishu's own alone.
OTHERS = {
    "Message": "sender_type position ticket",
    "Ticket": "status ticket_type stage score solve channel created_at updated_at closed_at"
    " agent_entry_time agent_first_response_time agent_last_response_time"
    " agent_service_duration agent_first_response_duration bot_service_duration"
    " agent_resolution_time actual_processing_time comments customized_fields",
    "TicketUpdate": "object old_object",
    "Comment": "created_at",
    "CustomizedField": "position required editable",
}
#: They stand outside of `data`, too: in the key and in headers.
IDENTITY = {"Ticket": "ticket_id", "Notification": "notification_id"}


class Privacy(BaseModel):
    """Names of fields, as `email`; or of those of one kind of object, as `Person.name`."""

    model_config = values.SECTION

    drop: Names = ()
    hash: Names = ()
    #: The key of the hashes.
    salt: Annotated[Secret, Field(validate_default=True)] = SecretStr("")

    @field_validator("drop", "hash")
    @classmethod
    def _known(cls, names: tuple[str, ...], about: ValidationInfo) -> tuple[str, ...]:
        found = list(_mistakes(names, hashed=about.field_name == "hash"))
        found += [f"{name}: is dropped" for name in names if name in about.data.get("drop", ())]
        if found:
            raise ValueError("\n".join(found))
        return names

    @field_validator("salt")
    @classmethod
    def _long(cls, salt: SecretStr, before: ValidationInfo) -> SecretStr:
        text = salt.get_secret_value()
        if len(text) < SHORTEST_SALT and (text or before.data.get("hash")):
            raise ValueError(f"must have {SHORTEST_SALT} characters: guessed, it tells every hash")
        return salt

    def exposed(self, keys: Mapping[str, str]) -> Iterator[str]:
        """Say which of the fields would stand in keys, by what `kafka.keys` says."""
        asked = {name.rpartition(".")[2] for name in (*self.drop, *self.hash)}
        paths = patterns.Patterns(keys)
        for event_type in topics.DEFAULTS:
            for name in sorted(asked & {*(paths.get(event_type) or "").split(".")}):
                yield f"{name}: by kafka.keys the key of {event_type} would show it"

    @property
    def key(self) -> bytes:
        """The salt as the hashes take it."""
        return self.salt.get_secret_value().encode()


def known(*, hashed: bool) -> list[str]:
    """Give the names that can be dropped, or hashed."""
    return sorted(_names(TEXTS) if hashed else _names(TEXTS) | _names(OTHERS))


def _mistakes(asked: Iterable[str], *, hashed: bool) -> Iterator[str]:
    """Say which names nothing can be done with, and which one may have been meant."""
    names, others = known(hashed=hashed), _names(OTHERS)
    for number, name in enumerate(asked, 1):
        if name in _names(IDENTITY):
            yield f"{name}: is the record's key, and cannot be kept from those who read it"
        elif name in names:
            continue
        elif name in others:
            yield f"{name}: only texts can be hashed: drop it, or hash the fields in it"
        else:
            nearest = max(names, key=lambda one: _likeness(one, name))
            # What is as long as a salt may be one, in the wrong place.
            shown = name if len(name) < SHORTEST_SALT else f"name {number}"
            yield f"{shown}: no event type has such a field; the nearest is {nearest}"


def _names(fields: dict[str, str]) -> set[str]:
    """Give each field by its name, and by its object's too: `email`, `Person.email`."""
    pairs = [(title, name) for title, names in fields.items() for name in names.split()]
    return {name for _, name in pairs} | {f"{title}.{name}" for title, name in pairs}


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower()).ratio()
