"""The package as others get it: a wheel, in an environment that has Marin and not this repository."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.support.toy_thread import Repository

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """No experiments, tests or logbooks travel with it; the marker for type checkers does."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"research_steps", "research_steps-0.1.0.dist-info"}
    assert {"research_steps/py.typed", "research_steps/actions/templates/skill.txt"} <= set(names)
    assert "research_steps/trial/launcher/parent.py" in names


def test_a_thread_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """Installed beside Marin, in an environment without this checkout on its path, a thread leaves its logbook."""
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", str(python), str(wheel)],
        check=True,
    )
    # The other packages come from the environment of the tests; its .pth files, and with them this checkout, do not.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / version / "site-packages"
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    ask = [python, "-c", "import research_steps; print(research_steps.__file__)"]
    printed = subprocess.run(ask, capture_output=True, text=True, check=True)
    assert Path(printed.stdout.strip()).is_relative_to(site)

    repository = Repository(tmp_path / "elsewhere")
    done = subprocess.run(
        [python, "-m", "experiments.toy"], cwd=repository.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003"]
    verify = [environment / "bin" / "research", "verify", "toy"]
    status = subprocess.run(verify, cwd=repository.root, capture_output=True, text=True, check=False)
    checked = "toy: 3 entries, 0 tags, 2 milestones checked, no problems"
    assert (status.returncode, status.stdout.splitlines()[0]) == (0, checked)
