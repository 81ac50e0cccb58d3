"""The rules of the helpdesk's event types, field by field; names are of Feishu's event pages."""

from typing import NamedTuple

from relay.contract.rules.kinds import (
    duration,
    enum,
    flag,
    identifier,
    instant,
    integer,
    string,
    string_or_strings,
    strings,
)
from relay.contract.rules.objects import array, record
from relay.contract.rules.privacy import Guard
from relay.contract.rules.table import Table, fields

STATUS = {
    1: "created",
    2: "processing",
    3: "queueing",
    4: "pending",
    5: "waiting_for_user",
    50: "closed_by_bot",
    51: "closed_by_agent",
    52: "closed_by_user",
}
SERVED_BY = {1: "bot", 2: "human"}
SENDER = {1: "bot", 2: "guest", 3: "agent"}
SCORE = {0: "none", 1: "unsatisfied", 2: "average", 3: "satisfied"}
SOLVE = {0: "none", 1: "not_solved", 2: "solved"}
CHANNEL = {2: "qr_code", 9: "open_api", 13: "search", 14: "share"}

_IDS = fields("union_id user_id open_id", identifier)
_PERSON = fields("id", identifier) | fields("avatar_url name email department city country", string)
_COMMENT = {
    **fields("id user_id", identifier),
    **fields("created_at", instant),
    **fields("content user_name user_avatar_url", string),
}
_CUSTOMIZED_FIELD = {
    **fields("id", identifier),
    **fields("value", string_or_strings),
    **fields("key_name display_name", string),
    **fields("position", integer),
    **fields("required editable", flag),
}
_I18N_TEXT = fields("zh_cn en_us ja_jp", string)
_CONTENT = {
    **fields("content msg_type image_key", string),
    **fields("image_keys", strings),
}


class EventType(NamedTuple):
    """What relay knows about one event type."""

    #: Its content's name in the schemas.
    title: str
    fields: Table
    #: Where the ticket id stands, from `event`.
    ticket: tuple[str, ...] = ()
    #: Where the record's key stands when it is not the ticket id.
    key: tuple[str, ...] = ()


def event_types(guard: Guard) -> dict[str, EventType]:
    """Give the types that have rules; the guard keeps private what an operator wants so."""
    ids, one = guard.table("UserId", _IDS), guard.table("Person", _PERSON)
    # Feishu names a person by one id in a message's ticket, by all three in the events of tickets.
    three = guard.table("Person", {**_PERSON, **fields("id", record(ids, "UserId"))})
    ticket = _ticket(guard, three)
    message = {
        **fields("ticket_message_id message_id chat_id event_id", identifier),
        **fields("msg_type text", string),
        **fields("sender_type", enum(SENDER)),
        **fields("sender_id", record(ids, "UserId")),
        **fields("position", integer),
        **fields("ticket", record(_ticket(guard, one), "Ticket")),
        **fields("content", record(guard.table("Content", _CONTENT), "Content")),
    }
    update = fields("object old_object", record(ticket, "Ticket"))
    notification = {
        **fields("notification_id helpdesk_id", identifier),
        **fields("approve_status", string),
    }

    def known(title: str, table: Table, **places: tuple[str, ...]) -> EventType:
        return EventType(title, guard.table(title, table), **places)

    return {
        "helpdesk.ticket_message.created_v1": known(
            "Message", message, ticket=("ticket", "ticket_id")
        ),
        "helpdesk.ticket.created_v1": EventType("Ticket", ticket, ticket=("ticket_id",)),
        "helpdesk.ticket.updated_v1": known("TicketUpdate", update, ticket=("object", "ticket_id")),
        "helpdesk.notification.approve_v1": known(
            "Notification", notification, key=("notification_id",)
        ),
    }


def _ticket(guard: Guard, person: Table) -> Table:
    """Give the rules of a ticket, in which people are named in that way."""
    table = {
        **fields("ticket_id helpdesk_id chat_id", identifier),
        **fields("status", enum(STATUS)),
        **fields("ticket_type stage", enum(SERVED_BY)),
        **fields("score", enum(SCORE)),
        **fields("solve", enum(SOLVE)),
        **fields("channel", enum(CHANNEL, "other")),
        **fields("created_at updated_at closed_at", instant),
        **fields("agent_entry_time agent_first_response_time agent_last_response_time", instant),
        **fields("agent_service_duration", duration(60)),
        **fields("agent_first_response_duration bot_service_duration", duration(1)),
        **fields("agent_resolution_time actual_processing_time", duration(1)),
        **fields("guest closed_by", record(person, "Person")),
        # Feishu has it in messages' tickets and in its API alone, and there by one id.
        **fields("agent_owner", record(guard.table("Agent", _PERSON), "Agent")),
        **fields("agents collaborators", array(person, "Person")),
        **fields("comments", array(guard.table("Comment", _COMMENT), "Comment")),
        **fields(
            "customized_fields",
            array(guard.table("CustomizedField", _CUSTOMIZED_FIELD), "CustomizedField"),
        ),
        **fields("dissatisfaction_reason", array(guard.table("I18nText", _I18N_TEXT), "I18nText")),
    }
    return guard.table("Ticket", table)
