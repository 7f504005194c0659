"""Check `.github`: the workflows by actionlint, and every file by the schema of its kind.

    python -m devenv.github

Both work offline once actionlint has been built; the schemas come with check-jsonschema.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from devenv import build
from devenv.errors import CommandFailed, DevenvError
from devenv.layout import ROOT

#: The files of each schema that check-jsonschema brings.
SCHEMAS = {
    "github-workflows": "workflows/*.yaml",
    "github-actions": "actions/*/action.yaml",
    "github-issue-forms": "ISSUE_TEMPLATE/*.yaml",
    "github-issue-config": "ISSUE_TEMPLATE/config.yml",
    "dependabot": "dependabot.yml",
}


def check(folder: Path = ROOT / ".github") -> None:
    """Raises CommandFailed with all that is wrong, BuildFailed where actionlint cannot be built."""
    wrong = []
    workflows = [str(path) for path in sorted((folder / "workflows").glob("*.yaml"))]
    # Neither shellcheck nor pyflakes: what a machine happens to have must not decide.
    actionlint = [str(build.binary(build.ACTIONLINT)), "-shellcheck=", "-pyflakes=", "-no-color", *workflows]
    commands = [actionlint]
    for schema, pattern in SCHEMAS.items():
        files = [str(path) for path in sorted(folder.glob(pattern))]
        if not files:
            raise CommandFailed(f"{folder} has no {pattern}")
        commands.append([sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            wrong.append((done.stdout + done.stderr).strip())
    if wrong:
        raise CommandFailed("\n".join(wrong))


def main() -> int:
    """0 where all is well, 1 with what is wrong on standard error."""
    try:
        check()
    except DevenvError as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
