"""README, docs and the skill: every command that they show is one, and what can run in a small repository runs."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.doc_commands import DOCUMENTS, SKILL, failing, named, problem, shown
from tests.support.scratch_logbook import git
from tests.support.toy_thread import HERE, fork, research

README = HERE / "README.md"
IDS = {document: document.name if document == SKILL else str(document.relative_to(HERE)) for document in DOCUMENTS}
# Commands that need what is not there, and the tests that run them where it is.
ELSEWHERE = {
    r"\S+ .*(moe_hc|MOE-HC).*": "test_moe_hc_experiment",
    r"make .*|wandb .*": "test_wandb",
    r"research (submit|jobs) .*": "test_submit",
    r"research record .* scripts/iris/dev_tpu\.py .*": "test_recorded_command",
    r"research (dev|status) .*--watch": "test_dev_watch, test_status_watch",
    r"research dev .*--host NAME.*": "test_dev_ssh",
    r"research kickoff .*--create-issue": "test_kickoff",
    r"research reproduce .*": "test_reproduce",
    r"research sync sort --prefix s3://…": "test_store",
}
HANDWRITTEN = "# sort: Research Logbook\n\n### 2026-05-01 10:00 - SORT-003 larger arrays\n- Result: slower\n"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `research new sort` writes, smaller and faster, committed and run: SORT-001 to the seal SORT-005."""
    root = empty(tmp_path_factory.mktemp("prepared"))
    new_sort(root)
    git(root, "commit", "--quiet", "--message", "Sort")
    run(root, ["python", "-m", "experiments.sort", "--seal", "true"])
    assert (root / ".agents" / "logbooks" / "sort" / "SORT-005.jsonl").exists()
    return root


def empty(root: Path) -> Path:
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "A Person")
    git(root, "config", "user.email", "person@example.org")
    (root / ".gitignore").write_text("local_store/\n__pycache__/\n")
    return root


def new_sort(root: Path) -> None:
    assert research(root, "new", "sort").returncode == 0
    folder = root / "experiments" / "sort"
    thread, measure = folder / "__main__.py", folder / "measure.py"
    fast = "sampling_s=0.1,\n    floor_processes=2,"
    thread.write_text(thread.read_text().replace("sampling_s=1.0,", fast).replace("_wait_s=5.0", "_wait_s=0.0"))
    measure.write_text(measure.read_text().replace("100_000", "2_000"))
    git(root, "add", "--all")


def run(root: Path, command: list[str]) -> None:
    """Run a command as a shell there would; it has to succeed."""
    if command[:2] == ["research", "new"]:
        # The thread of the prepared repository is there already.
        root = root.parent / "new"
        root.mkdir()
    if command[0] == "research":
        done = research(root, *command[1:])
        code, printed = done.returncode, done.stdout + done.stderr
    else:
        log = os.open(root / ".git" / "run.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        pid = fork(root, command[2], command[3:], log, log, {"WANDB_MODE": "disabled"})
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(log)
        printed = (root / ".git" / "run.log").read_text()
    if command[:2] == ["research", "check"]:
        code = bool(failing(printed))
    assert code == 0, f"{' '.join(command)}\n{printed}"


def runs_here(document: Path) -> list[list[str]]:
    return [command for command in shown(document) if not any(re.fullmatch(one, " ".join(command)) for one in ELSEWHERE)]


@pytest.fixture
def checkout(prepared: Path, tmp_path: Path) -> Iterator[Path]:
    root = shutil.copytree(prepared, tmp_path / "checkout", symlinks=True)
    yield root
    research(root, "dev", "--stop")


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS.get)
def test_every_command_that_is_shown_is_one(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, options and the number of arguments, in the blocks and in the text."""
    wrong = [f"{' '.join(command)}: {why}" for command in shown(document) if (why := problem(command, monkeypatch))]
    assert wrong + [f"{text}: {why}" for text, why in named(document) if why] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS.get)
def test_every_link_leads_somewhere(document: Path) -> None:
    """Within the repository; the address of a page elsewhere is not asked."""
    # In an entry of a logbook a link is seen from the top.
    links = re.findall(r"\]\(([^)#\s]+)", re.sub(r"(?m)^>.*$", "", document.read_text()))
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "docs/threads.md", "docs/existing_commands.md", "docs/dev_mode.md", "docs/surfaces.md"),
        *("docs/recipes/organize_experiments.md", "docs/recipes/cluster_sweeps.md", "docs/recipes/dev_tpu.md"),
        "docs/recipes/agent_research.md",
    ],
)
def test_the_commands_of_a_document_run_in_their_order(checkout: Path, name: str) -> None:
    """On the thread that `research new sort` writes, once it was run and sealed."""
    if name == "docs/recipes/dev_tpu.md":
        # What the recipe has somebody try elsewhere.
        run(checkout, ["research", "dev", "sort", "--set", "algorithm=quick"])
    for command in runs_here(HERE / name):
        run(checkout, command)


def test_every_command_of_the_skill_runs(checkout: Path) -> None:
    """Those in the blocks, each in its order: what an agent reads there works."""
    assert len(runs_here(SKILL)) == len(shown(SKILL)) > 15
    for command in runs_here(SKILL):
        run(checkout, command)


def test_the_recipe_to_adopt_a_logbook_runs(tmp_path: Path) -> None:
    """What people wrote stays byte by byte, and numbers go on after theirs."""
    root = empty(tmp_path)
    logbook = root / ".agents" / "logbooks" / "sort.md"
    logbook.parent.mkdir(parents=True)
    logbook.write_text(HANDWRITTEN)
    for command in shown(HERE / "docs" / "recipes" / "adopt_a_logbook.md"):
        if command[:2] == ["research", "new"]:
            new_sort(root)
            git(root, "commit", "--quiet", "--message", "Sort")
        else:
            run(root, command)
    assert logbook.read_text().startswith(HANDWRITTEN) and " - SORT-004 " in logbook.read_text()


def test_the_recipe_of_a_kernel_runs_from_zero_to_seal(tmp_path: Path) -> None:
    """Its own files and commands: a Pallas kernel is measured, interpreted on a CPU, and what was found is sealed."""
    recipe = HERE / "docs" / "recipes" / "add_pallas_kernel.md"
    root = empty(tmp_path)
    files = re.findall(r"`(experiments/softmax/\w+\.py)`[^`]*?\n\n```python\n(.*?)```", recipe.read_text(), re.DOTALL)
    assert [Path(name).name for name, _ in files] == ["kernels.py", "measure.py", "__main__.py"]
    for command in shown(recipe):
        if command[:2] == ["research", "new"]:
            assert research(root, "new", "softmax").returncode == 0
            for name, code in files:
                code = code.replace("sampling_s=1.0,", "sampling_s=0.1,\n    floor_processes=1,").replace("=5.0", "=0.0")
                (root / name).write_text(code)
            git(root, "add", "--all")
            git(root, "commit", "--quiet", "--message", "Measure softmax kernels")
        elif command[1] != "doctor" and "--watch" not in command:
            run(root, command)
    research(root, "dev", "--stop")
    tags = subprocess.run(["git", "tag", "--list", "softmax/*"], cwd=root, capture_output=True, text=True, check=True)
    assert len(tags.stdout.split()) == 1
    logbook = (root / ".agents" / "logbooks" / "softmax.md").read_text()
    assert "`implementation=fused`" in logbook and "failed:" not in logbook


def test_the_readme_is_short_and_shows_what_is_written(prepared: Path, tmp_path: Path) -> None:
    """At most 120 lines; its thread is the one that `research new` writes, and its entry the logbook's."""
    readme = README.read_text()
    assert len(readme.splitlines()) <= 120
    assert readme.index("source .venv/bin/activate") < readme.index("research status")
    (thread,) = re.findall(r"(?ms)^```python\n(.*?)^```$", readme)
    assert thread in (prepared / "experiments" / "sort" / "__main__.py").read_text()
    logbook = (HERE / ".agents" / "logbooks" / "moe_hc.md").read_text()
    quoted = [line for line in re.findall(r"(?m)^>\s+(?:#+|-) (.*)$", readme) if not line.startswith("trial")]
    assert len(quoted) == 5 and [line for line in quoted if line not in logbook] == []


def test_the_skill_is_installed_once_and_brought_up_to_date(tmp_path: Path) -> None:
    """In both folders where agents look. A text of an older version gives way; `--dry-run` writes nothing."""
    root = empty(tmp_path)
    paths = [root / folder / "skills" / "run-research" / "SKILL.md" for folder in (".agents", ".claude")]
    assert "would be written: .agents" in research(root, "skill", "install", "--dry-run").stdout
    assert not any(path.exists() for path in paths)
    assert research(root, "skill", "install").returncode == 0
    installed = [path.read_bytes() for path in paths]
    assert installed[0] == installed[1] and installed[0].startswith(SKILL.read_bytes())
    assert research(root, "skill", "install").stdout.count("as it is: ") == 2
    older = b"# Older\n"
    digest = subprocess.run(["sha256sum"], input=older, capture_output=True, check=True).stdout[:64]
    mark = installed[0].splitlines(keepends=True)[-1]
    paths[0].write_bytes(older + re.sub(rb"[0-9a-f]{64}", digest, mark))
    assert "brought up to date: .agents" in research(root, "skill", "install").stdout
    assert [path.read_bytes() for path in paths] == installed


def test_a_skill_that_people_changed_is_left_as_it_is(tmp_path: Path) -> None:
    """Before anything is written elsewhere; and a link that leaves the checkout is not followed."""
    (tmp_path / "checkout").mkdir()
    root = empty(tmp_path / "checkout")
    assert research(root, "skill", "install").returncode == 0
    changed = root / ".claude" / "skills" / "run-research" / "SKILL.md"
    changed.write_text(changed.read_text().replace("# Run research", "# Run our research"))
    (root / ".agents" / "skills" / "run-research" / "SKILL.md").unlink()
    done = research(root, "skill", "install")
    assert done.returncode == 1 and "SKILL.md was changed by people" in done.stderr
    assert "our research" in changed.read_text() and not (root / ".agents/skills/run-research/SKILL.md").exists()

    shutil.rmtree(root / ".claude")
    (tmp_path / "outside").mkdir()
    (root / ".claude").symlink_to(tmp_path / "outside")
    done = research(root, "skill", "install")
    assert done.returncode == 1 and "leads out of" in done.stderr and not list((tmp_path / "outside").iterdir())
    (root / ".claude").unlink()
    (root / ".claude").mkdir()
    (root / ".claude" / "skills").symlink_to("../.agents/skills")
    assert research(root, "skill", "install").stdout == "written: .agents/skills/run-research/SKILL.md\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["status", ""], ["sort"]),
        (["dev", "so"], ["sort"]),
        (["hypothesis", "add", ""], ["sort"]),
        (["seal", "sort", "SORT-00"], [f"SORT-00{number}" for number in (5, 4, 3, 2, 1)]),
        (["show", "SORT-003"], ["SORT-003"]),
        (["compare", "SORT-001", "SORT-002"], ["SORT-002"]),
        (["note", "X"], []),
    ],
    ids=str,
)
def test_a_shell_completes_topics_and_ids(prepared: Path, typed: list[str], offered: list[str]) -> None:
    """By what lies in the checkout, the newest first: a store that can't be reached is not waited for."""
    words = {"COMP_WORDS": " ".join(["research", *typed]), "COMP_CWORD": str(len(typed))}
    done = research(prepared, _RESEARCH_COMPLETE="bash_complete", MARIN_PREFIX="s3://nowhere/at-all", **words)
    assert [line.partition(",")[2] for line in done.stdout.split()] == offered, done.stderr
