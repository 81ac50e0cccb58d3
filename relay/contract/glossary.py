"""What the fields of a record mean, in a sentence each, for those who read the schemas.

By shape and field, or by the field alone where it means the same everywhere. Units are those of
the record, not of Feishu's event.
"""

#: The shapes themselves.
SHAPES = {
    "Event": "Which event this is: the same as the record's headers say.",
    "Message": "A message of a ticket, and the ticket as it was then.",
    "Ticket": "A ticket; what did not change or is not known may be absent.",
    "TicketUpdate": "A ticket after a change and before it.",
    "Notification": "The review of a notification has ended.",
    "Person": "A guest or an agent.",
    "Agent": "An agent, known by one id.",
    "UserId": "A person's ids; which of them come depends on the app's rights.",
    "Comment": "A remark on a ticket.",
    "CustomizedField": "A field that the helpdesk has added to its tickets.",
    "I18nText": "One text in several languages.",
    "Content": "What a message says.",
}

_EVERYWHERE = {
    "ticket_id": "The ticket's id.",
    "helpdesk_id": "The helpdesk's id.",
    "chat_id": "Id of the chat that holds the conversation.",
    "created_at": "When it was created.",
    "position": "Its place among the others, counted by Feishu.",
    "display_name": "The name that people see.",
    "avatar_url": "Address of a picture.",
    "email": "Mail address; absent without the right to see it.",
    "department": "Name of the department; absent without the right to see it.",
    "city": "City.",
    "country": "Country, or its code.",
    "name": "Name, as people see it.",
    "union_id": "Id of the person for all apps of one developer.",
    "user_id": "Id of the person in the tenant; absent without the right to see it.",
    "open_id": "Id of the person for this app alone.",
    "msg_type": "Kind of the message: text, post (rich text) or image.",
}

_EVENT = {
    "Event.id": "The event's id, unique within an app; a repeated delivery has the same.",
    "Event.type": "Feishu's event type.",
    "Event.created_at": "When it happened, by Feishu; null if it does not say.",
    "Event.received_at": "When relay had read the request that brought it.",
    "Event.app_id": "The Feishu app that the event was sent to.",
    "Event.tenant_key": "The tenant in which it happened.",
    "Event.transport": "How it came to relay.",
}

_MESSAGE = {
    "Message.ticket_message_id": "The message's id in the helpdesk.",
    "Message.message_id": "The message's id in the chat, om_...",
    "Message.event_id": "An id inside the message; not the event's.",
    "Message.text": "What was written, as plain text.",
    "Message.sender_type": "Who wrote it; any other code is unknown.",
    "Message.sender_type_code": "Feishu's number for `sender_type`.",
    "Message.sender_id": "Ids of the person who wrote it; absent if a bot did.",
    "Message.ticket": "The ticket that the message belongs to.",
    "Message.content": "What the message holds: rich text and images too.",
    "Content.content": "The text; JSON of Feishu's in a text, if it is a post.",
    "Content.image_keys": "Keys of the images, by which Feishu's API gives them out.",
    "Content.image_key": "Key of the image, if there is one.",
}

_TICKET = {
    "Ticket.status": "Where the ticket stands; any other code is unknown.",
    "Ticket.status_code": "Feishu's number for `status`.",
    "Ticket.ticket_type": "Who serves the guest, in a message's ticket; any other code is unknown.",
    "Ticket.ticket_type_code": "Feishu's number for `ticket_type`.",
    "Ticket.stage": "Who serves the guest, in the events of tickets; any other code is unknown.",
    "Ticket.stage_code": "Feishu's number for `stage`.",
    "Ticket.score": "What the guest said of the service; any other code is unknown.",
    "Ticket.score_code": "Feishu's number for `score`.",
    "Ticket.solve": "Whether the guest says that it is solved; any other code is unknown.",
    "Ticket.solve_code": "Feishu's number for `solve`.",
    "Ticket.channel": "Where the guest came from; any other code is other.",
    "Ticket.channel_code": "Feishu's number for `channel`.",
    "Ticket.updated_at": "When it was changed; null if never.",
    "Ticket.closed_at": "When it was closed; null while it is open.",
    "Ticket.agent_entry_time": "When an agent came in.",
    "Ticket.agent_first_response_time": "When an agent first answered.",
    "Ticket.agent_last_response_time": "When an agent last answered.",
    "Ticket.agent_service_duration_seconds": "From the agent's entry to the last answer.",
    "Ticket.agent_first_response_duration_seconds": "From the agent's entry to the first answer.",
    "Ticket.bot_service_duration_seconds": "From the ticket's creation to the agent's entry.",
    "Ticket.agent_resolution_time_seconds": "From the agent's entry to the ticket's end.",
    "Ticket.actual_processing_time_seconds": "As the resolution time, without what was pending.",
    "Ticket.guest": "Who asked.",
    "Ticket.agent_owner": "The agent in charge.",
    "Ticket.closed_by": "Who closed it.",
    "Ticket.agents": "The agents who serve it.",
    "Ticket.collaborators": "Others who help.",
    "Ticket.comments": "Remarks on it.",
    "Ticket.customized_fields": "What the helpdesk's own fields hold.",
    "Ticket.dissatisfaction_reason": "Why the guest was not satisfied.",
    "TicketUpdate.object": "The ticket as it is now.",
    "TicketUpdate.old_object": "Of what has changed: as it was before.",
    "Notification.notification_id": "The notification's id.",
    "Notification.approve_status": "APPROVED, REJECTED, CANCELED or DELETED.",
}

_PARTS = {
    "Person.id": "The person's id: one text in a message's ticket, three in the events of tickets.",
    "Agent.id": "The agent's id, one text.",
    "Comment.id": "The comment's id.",
    "Comment.user_id": "The author's id, a number of up to 64 bits as text.",
    "Comment.content": "What was written.",
    "Comment.user_name": "The author's name.",
    "Comment.user_avatar_url": "Address of the author's picture.",
    "CustomizedField.id": "The field's id.",
    "CustomizedField.value": "What it holds: one text, or a list where several can be chosen.",
    "CustomizedField.key_name": "The field's name for programs.",
    "CustomizedField.required": "Whether it must be filled in.",
    "CustomizedField.editable": "Whether it may be changed.",
    "I18nText.zh_cn": "In Chinese.",
    "I18nText.en_us": "In English.",
    "I18nText.ja_jp": "In Japanese.",
}

#: What tells of a person, by shape: who it is, and what was said.
_PERSONAL = {
    "Person": "id avatar_url name email department city country",
    "Agent": "id avatar_url name email department city country",
    "UserId": "union_id user_id open_id",
    "Message": "text",
    "Content": "content image_key image_keys",
    "Comment": "user_id user_name user_avatar_url content",
    "CustomizedField": "value",
}

_FIELDS = _EVENT | _MESSAGE | _TICKET | _PARTS


def meaning(shape: str, field: str) -> str:
    """Say what a field of a shape means."""
    return _FIELDS.get(f"{shape}.{field}") or _EVERYWHERE[field]


def personal(shape: str, field: str) -> bool:
    """Say whether a field of a shape is personal data."""
    return field in _PERSONAL.get(shape, "").split()


def all_meanings() -> set[str]:
    """Name every entry, so that none can outlive its field."""
    return {*_FIELDS, *_EVERYWHERE}


def all_personal() -> set[str]:
    """Name every field that is personal data, so that none can outlive its field."""
    return {f"{shape}.{name}" for shape, names in _PERSONAL.items() for name in names.split()}
