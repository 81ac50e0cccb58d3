"""One event of each type as Feishu sends it, and the record of it: what the schemas show.

The same events are pairs of tests/unit/contract; a test holds them together.
"""

import json
from typing import Any

from relay.contract.normalize import Router, normalize
from relay.events import Record, StoredEvent, Transport
from relay.settings.topics import OTHER

#: 2026-01-02T03:04:05.678Z
_RECEIVED = 1_767_323_045_678
_APP = {"app_id": "cli_9f5343c580712544", "tenant_key": "2ca1d211f64f6438"}

_MESSAGE: dict[str, Any] = {
    "ticket_message_id": "6949088240624222236",
    "message_id": "om_8baa3656c7b41900d29bf9104bf5310b",
    "msg_type": "text",
    "position": "10",
    "sender_id": {
        "union_id": "on_8ed6aa67826108097d9ee143816345",
        "user_id": "e33ggbyz",
        "open_id": "ou_84aad35d084aa403a838cf73ee18467",
    },
    "sender_type": 2,
    "text": "请问vpn怎么下载",
    "ticket": {
        "ticket_id": "6626871355780366331",
        "ticket_type": 2,
        "status": 51,
        "score": 0,
        "created_at": 1608725900000,
        "updated_at": -1,
        "closed_at": "1608725980000",
        "comments": {
            "content": "solved by reinstalling",
            "created_at": 1608725981000,
            "id": 6629,
            "user_avatar_url": "https://example.com/c.png",
            "user_name": "agent",
            "user_id": 7262656095919128578,
        },
        "dissatisfaction_reason": {"zh_cn": "慢", "en_us": "slow", "ja_jp": "遅い"},
        "customized_fields": [
            {
                "id": "6948728206392295444",
                "value": "VPN",
                "key_name": "ticket_category",
                "display_name": "Category",
                "position": 1,
                "required": True,
                "editable": False,
            }
        ],
        "agent_service_duration": 3.5,
        "agent_first_response_duration": 12,
        "bot_service_duration": 7,
        "agent_resolution_time": 210,
        "actual_processing_time": 180,
        "agent_entry_time": 1608725910000,
        "agent_first_response_time": 1608725922000,
        "agent_last_response_time": 1608725979000,
        "agent_owner": {
            "id": "ou_37019b7c830210acd88fdce886e25c71",
            "avatar_url": "https://example.com/a.png",
            "name": "Li Lei",
            "email": "li.lei@example.com",
            "department": "IT",
            "city": "Beijing",
            "country": "China",
        },
        "a_field_of_tomorrow": {"x": 1},
    },
    "event_id": "118a6492-122d-04ad-4370-010a3bb384d3",
    "chat_id": 6949088236610273307,
    "content": {
        "content": "请问vpn怎么下载",
        "msg_type": "text",
        "image_keys": ["img_1"],
        "image_key": "img_1",
    },
}
_TICKET: dict[str, Any] = {
    "ticket_id": "7157961378652045340",
    "helpdesk_id": "6868205580868141059",
    "guest": {
        "id": {"union_id": "on_1", "user_id": "e33ggbyz", "open_id": "ou_1"},
        "avatar_url": "https://example.com/b.png",
        "name": "Han Meimei",
        "email": "h@example.com",
    },
    "stage": 1,
    "status": 1,
    "score": 0,
    "created_at": 1666592755000,
    "updated_at": 1666592755000,
    "closed_at": 0,
    "channel": 9,
    "solve": 1,
    "customized_fields": [],
    "chat_id": "oc_b3",
}
_UPDATE: dict[str, Any] = {
    "object": {
        "chat_id": "oc_b3",
        "closed_at": 1666593118000,
        "created_at": 1666592755000,
        "helpdesk_id": "6868205580868141059",
        "solve": 2,
        "stage": 1,
        "status": 50,
        "ticket_id": "7157961378652045340",
        "updated_at": 1666593118000,
        "agents": [
            {
                "id": {"union_id": "on_1", "user_id": "e33ggbyz", "open_id": "ou_1"},
                "avatar_url": "https://example.com/b.png",
                "name": "Han Meimei",
                "email": "h@example.com",
            }
        ],
        "channel": 77,
        "guest": {
            "id": {"union_id": "on_1", "user_id": "e33ggbyz", "open_id": "ou_1"},
            "avatar_url": "https://example.com/b.png",
            "name": "Han Meimei",
            "email": "h@example.com",
        },
    },
    "old_object": {"status": 1, "updated_at": 1666592755000},
}
_NOTIFICATION: dict[str, Any] = {
    "notification_id": "6981801914270744596",
    "helpdesk_id": "6868205580868141059",
    "approve_status": "APPROVED",
}
_MESSAGE_OF_A_CHAT: dict[str, Any] = {
    "message": {"message_id": "om_1", "create_time": "1608725989000"},
    "n": 7262656095919128578,
}

#: By type: event id, when Feishu made it, the type if it is another, content.
_EVENTS = {
    "helpdesk.ticket_message.created_v1": (
        "5e3702a84e847582be8db7fb73283c02",
        "1608725989000",
        "helpdesk.ticket_message.created_v1",
        _MESSAGE,
    ),
    "helpdesk.ticket.created_v1": (
        "8f6d1bd1b8f04bd7a0a0b1d7d0c7d001",
        "1666592755123",
        "helpdesk.ticket.created_v1",
        _TICKET,
    ),
    "helpdesk.ticket.updated_v1": (
        "f7984f25108f8137722bb63cee927e66",
        "1666593118456",
        "helpdesk.ticket.updated_v1",
        _UPDATE,
    ),
    "helpdesk.notification.approve_v1": (
        "0c7d4bd1b8f04bd7a0a0b1d7d0c7d0aa",
        "1666593119000",
        "helpdesk.notification.approve_v1",
        _NOTIFICATION,
    ),
    OTHER: (
        "bb3702a84e847582be8db7fb73283c02",
        "1608725989000",
        "im.message.receive_v1",
        _MESSAGE_OF_A_CHAT,
    ),
}


def record(event_type: str, router: Router) -> Record:
    """Give the record of the example of a known event type, or of `other`."""
    event_id, create_time, named, event = _EVENTS[event_type]
    header = {"event_id": event_id, "create_time": create_time, "event_type": named, **_APP}
    body = json.dumps({"schema": "2.0", "header": header, "event": event}).encode()
    stored = StoredEvent(
        seq=1,
        app="default",
        transport=Transport.WEBHOOK,
        received_at=_RECEIVED,
        event_id=event_id,
        event_type=named,
        body=body,
    )
    return normalize(stored, router)
