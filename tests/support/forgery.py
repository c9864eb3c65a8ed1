"""What whoever may write to a store can do: change records so that all that rests on them fits again."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def forge(store: Path, id: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the records with an ID in a store, and every hash that names what changed by that."""
    records = [path for path in store.rglob("records/*.json") if json.loads(path.read_bytes())["id"] == id]
    assert records, f"no record has the ID {id}"
    pending: list[tuple[Path, bytes]] = []
    for path in records:
        fields = json.loads(path.read_bytes())
        change(fields)
        pending.append((path, json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"))
    while pending:
        path, data = pending.pop()
        before, after = (hashlib.sha256(bytes.rstrip()).hexdigest().encode() for bytes in (path.read_bytes(), data))
        path.write_bytes(data)
        for other in store.rglob("*.json"):
            text = other.read_bytes()
            if before in text:
                pending.append((other, text.replace(before, after)))
