"""Writes the chart's values.schema.json and README.md from values.yaml: `make chart`.

And files/settings.json: what the chart's guards know of relay's settings.

Each value's sentence is the `# --` comment before it; its type is that of its default, unless
`TYPES` knows better.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from relay.settings import privacy
from relay.settings.told import schema as told

CHART = Path(__file__).parent / "helm"

Schema = dict[str, Any]
Json = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER = r"([0-9]{1,15}(\.[0-9]{1,15})?|\.[0-9]{1,15})"
TIME: Schema = {"type": ["string", "number"], "pattern": rf"^{NUMBER}\s*(ms|s|m|h|d)?$"}
SECONDS: Schema = TIME | {"minimum": 0, "maximum": 86400}
#: Empty is none; of nothing but blanks it would be a mistake.
SECRET: Schema = TEXT | {"pattern": r"^$|\S"}
FREE: Schema = {"type": "object"}
SECURITY = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
#: As pydantic reads them.
YES_OR_NO = "0|1|on|off|t|f|true|false|y|n|yes|no"
#: What a value may also be, by its type in a file.
AS_TEXT: dict[str, Schema] = {
    "boolean": {
        "type": ["boolean", "string", "integer", "null"],
        "pattern": "^(" + re.sub("[a-z]", lambda m: f"[{m[0].upper()}{m[0]}]", YES_OR_NO) + ")$",
        "minimum": 0,
        "maximum": 1,
    },
    "integer": {"type": ["string", "integer"], "pattern": r"^\s*[+-]?[0-9_]+(\.0+)?\s*$"},
    "array": {"type": ["array", "string", "null"]},
    "object": {"type": ["object", "null"]},
    "string": {"type": ["string", "null"]},
}
HOST = r"^([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%\S+)?)$"
ROOT = r"https?://[^@/\s?#]+/?$"
GRANTS = r"^$|^https?://[^@/\s?#]+([/?][^\s#]*)?$"
#: Texts of which relay wants more than that they are texts.
SHAPES = {
    "webhook.host": HOST,
    "admin.host": HOST,
    "feishu_url": f"^{ROOT}",
    "traces.endpoint": r"^$|^https?://([^@/\s]*@)?[^@/\s?#]+/\S*$",
    "kafka.oauth_token_url": GRANTS,
    "journal.path": r"[^/]",
    "claims.key_prefix": r"^\S*$",
    "claims.replica": r"^\S*$",
    "claims.after": r"^\S*$",
}
APP: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        **dict.fromkeys(
            (
                "appSecret",
                "encryptKey",
                "previousEncryptKey",
                "verificationToken",
                "previousVerificationToken",
                "helpdeskToken",
            ),
            SECRET,
        ),
        **dict.fromkeys(("appId", "existingSecret"), TEXT),
        "feishuUrl": TEXT | {"pattern": f"^$|^{ROOT}"},
        # A number would lose its last digits on its way through Helm.
        "helpdeskId": TEXT,
        "longConnection": {"type": "boolean"},
        "signed": {"type": "boolean"},
        "requiredKeys": {"type": "array", "items": TEXT},
    },
}
#: What the default does not tell.
TYPES: dict[str, Schema] = {
    "apps": {"type": "object", "additionalProperties": APP},
    "image.tag": {"type": ["string", "number"]},
    "image.digest": TEXT | {"pattern": "^$|^sha256:[0-9a-f]{64}$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "kafka.delivery": {"enum": ["exactly-once", "at-least-once"]},
    "kafka.securityProtocol": {"enum": SECURITY},
    "kafka.saslMechanism": {
        "enum": ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"]
    },
    "kafka.topicPrefix": TEXT | {"pattern": "^[A-Za-z0-9._-]*$"},
    "kafka.partitions": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
    "kafka.replicationFactor": {"type": "integer", "minimum": -1, "maximum": 2**15 - 1},
    "kafka.saslPassword": SECRET,
    "kafka.oauth.tokenUrl": TEXT | {"pattern": GRANTS},
    "kafka.oauth.clientSecret": SECRET,
    "claims.sentinelPassword": SECRET,
    "privacy.drop": {"type": "array", "items": {"enum": privacy.known(hashed=False)}},
    "privacy.hash": {"type": "array", "items": {"enum": privacy.known(hashed=True)}},
    "console.password": SECRET,
    "privacy.salt": {"type": "string", "pattern": f"^$|^.{{{privacy.SHORTEST_SALT},}}$"},
    "claims.onOutage": {"enum": ["hold", "publish"]},
    "drain.delay": SECONDS,
    "drain.timeout": SECONDS,
    "terminationGracePeriodSeconds": {"type": ["string", "integer"], "pattern": "^$"},
    "replicaCount": {"type": "integer", "minimum": 0},
    "persistence.accessMode": {"enum": ["ReadWriteOnce", "ReadWriteOncePod"]},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.externalTrafficPolicy": {"enum": ["", "Cluster", "Local"]},
    "service.ipFamilyPolicy": {"enum": ["", "SingleStack", "PreferDualStack", "RequireDualStack"]},
    "service.ipFamilies": {
        "type": "array",
        "items": {"enum": ["IPv4", "IPv6"]},
        "maxItems": 2,
        "uniqueItems": True,
    },
    "prometheusRule.runbookUrl": TEXT | {"pattern": "^$|^https?://[^#]+$"},
    "kafkaTopics.apiVersion": {"enum": ["", "kafka.strimzi.io/v1", "kafka.strimzi.io/v1beta2"]},
    "kafkaTopics.partitions": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "service.port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "autoscaling.minReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.maxReplicas": {"type": "integer", "minimum": 1},
    "resources.requests": FREE,
    "resources.limits": FREE,
    "podSecurityContext": FREE,
    "dashboard.labels": FREE,
}


def settings() -> Schema:
    """Give what `settings` may hold: relay's own names, and what relay would take for each."""

    def known(part: Schema, path: str) -> Schema:
        if "properties" not in part:
            return _setting(part, path)
        inner = {
            name: known(one, f"{path}.{name}".removeprefix("."))
            for name, one in part["properties"].items()
        }
        return {"type": "object", "additionalProperties": False, "properties": inner}

    file = told.schema()
    # What is in `apps` would be a secret in a ConfigMap: guards.yaml says so.
    return known({**file, "properties": file["properties"] | {"apps": {"writeOnly": True}}}, "")


def _setting(part: Schema, path: str) -> Schema:
    """Give what relay takes for one setting, in a file or as the text of a variable; null is none.

    A secret may be anything here: guards.yaml says where it belongs.
    """
    if part.get("writeOnly"):
        return {}
    kept = {name: one for name, one in part.items() if name not in {"default", "description"}}
    if "enum" in kept:
        del kept["type"]
        return kept | {"enum": [*part["enum"], None]}
    shape = {"pattern": SHAPES[path]} if path in SHAPES else {}
    return kept | AS_TEXT.get(str(part["type"]), {}) | shape


def bounds() -> str:
    """Give what guards.yaml must know of the settings: the bounds of times, and a default."""
    sections = told.schema()["properties"]
    times = {
        f"{section}.{name}": [part["minimum"], part["maximum"]]
        for section, about in sections.items()
        for name, part in about.get("properties", {}).items()
        if part.get("type") == TIME["type"]
    }
    default = sections["journal"]["properties"]["max_bytes"]["default"]
    return json.dumps({"journal.max_bytes": default, "times": times}, indent=2) + "\n"


def sentences(text: str) -> dict[str, str]:
    """Give each value's path with the `# --` sentence before it."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#") and comment:
            comment.append(stripped.removeprefix("#").strip())
        elif match := re.match(r"^( *)([\w-]+):", line):
            indent = len(match[1])
            path = [step for step in path if step[0] < indent] + [(indent, match[2])]
            if comment:
                found[".".join(name for _, name in path)] = " ".join(comment)
            comment = []
        else:
            comment = []
    return found


def leaves(value: Json, told: dict[str, str], path: str = "") -> Iterator[tuple[str, Any]]:
    """Give each value that has a sentence, or none inside it."""
    for name, inner in value.items():
        here = f"{path}{name}"
        deeper = any(other.startswith(f"{here}.") for other in told)
        if isinstance(inner, dict) and inner and deeper:
            yield from leaves(inner, told, f"{here}.")
        else:
            yield here, inner


def schema_of(value: Any, told: dict[str, str], path: str = "") -> Schema:
    """Give the schema of a value by its default."""
    if path in TYPES:
        return TYPES[path]
    if isinstance(value, dict) and value:
        inner = {
            name: schema_of(one, told, f"{path}.{name}" if path else name)
            for name, one in value.items()
        }
        for name, one in inner.items():
            if sentence := told.get(f"{path}.{name}" if path else name):
                inner[name] = {"description": sentence, **one}
        return {"type": "object", "additionalProperties": False, "properties": inner}
    kinds = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
    return {"type": kinds[type(value)]}


def schema(values: Json, told: dict[str, str]) -> str:
    """Give values.schema.json."""
    made = schema_of(values, told)
    made["properties"]["settings"] |= settings()
    made["properties"]["global"] = {"type": "object", "description": "Helm's own"}
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "relay"}
    return json.dumps(head | made, indent=2) + "\n"


def table(values: Json, told: dict[str, str]) -> str:
    """Give the README's table of values."""
    rows = ["| value | default | |", "|---|---|---|"]
    for path, default in leaves(values, told):
        shown = json.dumps(default).replace("|", "\\|")
        rows.append(f"| `{path}` | `{shown}` | {told.get(path, '').replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def files() -> dict[Path, str]:
    """Give what the files must hold."""
    text = (CHART / "values.yaml").read_text()
    values, told = yaml.safe_load(text), sentences(text)
    readme = (CHART / "README.md").read_text()
    head, _, _ = readme.partition("## Values\n")
    return {
        CHART / "values.schema.json": schema(values, told),
        CHART / "files" / "settings.json": bounds(),
        CHART / "README.md": f"{head}## Values\n\n{table(values, told)}",
    }


def main() -> int:
    """Write the files; with --check, say which are out of date instead."""
    stale = [
        path for path, text in files().items() if not path.exists() or path.read_text() != text
    ]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.name} is out of date: run `make chart`")
        return bool(stale)
    for path, text in files().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
