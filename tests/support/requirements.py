"""What pyproject.toml and requirements/*.in ask for, as parsed requirements."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def pins(name: str) -> dict[str, Requirement]:
    """Returns the lines of a file in requirements/, those of other files that it includes too, by package."""
    found: dict[str, Requirement] = {}
    for line in (ROOT / "requirements" / f"{name}.in").read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            found |= pins(text.removeprefix("-r ").removesuffix(".in"))
        elif text:
            parsed = Requirement(text)
            found[parsed.name] = parsed
    return found


def extras() -> dict[str, list[Requirement]]:
    """Returns what each extra asks for, and what everybody gets under the name ""; extras within extras are resolved."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = {"": project["dependencies"], **project["optional-dependencies"]}

    def resolved(name: str) -> list[Requirement]:
        found: list[Requirement] = []
        for parsed in map(Requirement, told[name]):
            if parsed.name == project["name"]:
                found.extend(one for extra in sorted(parsed.extras) for one in resolved(extra))
            else:
                found.append(parsed)
        return found

    return {name: resolved(name) for name in told}
