"""What `make check` says of known holes in the dependencies. A script stands for pip-audit, whose index may be out of
reach."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit"
HOLE = {"id": "PYSEC-2026-1", "fix_versions": ["2.1"], "aliases": [], "description": "…"}
SOUND = {"name": "sound", "version": "1.0", "vulns": []}


@pytest.mark.parametrize(
    ("found", "code", "told"),
    [
        ([SOUND], 0, "1 scanned, 0 known holes"),
        ([SOUND, {"name": "old", "version": "2.0", "vulns": [HOLE]}], 1, "old 2.0: PYSEC-2026-1, mended in 2.1"),
        ([SOUND, {"name": "own", "skip_reason": "…"}], 0, "1 of 2 dependencies were NOT scanned; the index has no own"),
        (None, 0, "NOT scanned, because pip-audit could not ask its index: no route"),
    ],
)
def test_what_is_known_and_what_was_not_asked_is_told(
    tmp_path: Path, found: list[dict[str, Any]] | None, code: int, told: str
) -> None:
    """A known hole fails the check; a dependency that could not be looked up does not, and is never taken for sound."""
    stand_in = tmp_path / "pip_audit.py"
    says = "" if found is None else json.dumps({"dependencies": found, "fixes": []})
    stand_in.write_text(f"import sys\nprint({says!r})\nsys.stderr.write('no route')\nsys.exit({code})\n")
    done = subprocess.run(
        [sys.executable, AUDIT, sys.executable, stand_in, "requirements.lock"], capture_output=True, text=True
    )
    assert done.returncode == code and told in done.stdout + done.stderr, done
