"""Measures how large modules, functions and classes are, and how much is commented: `python -m tools.measure`.

Prints a table with a row for each package, then each measure that misses its bar; exit status 1 if one does. Tests and
generated stubs are not measured.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "gateway",
    "broker_worker",
    "engine_service",
    "tokenrelay",
    "clients",
    "deploy",
    "bench",
    "drills",
    "tools",
)
COMMENTED = ("gateway", "broker_worker", "tokenrelay/store")
"""Where several tasks and processes meet, so that comments must say why."""
GENERATED = "*_pb2*.py"
# Their methods are those of the contract.
LARGE_BY_NATURE = ("Servicer", "Client")

MODULE_LINES, FUNCTION_LINES, CLASS_METHODS = 300, 60, 15
COMMENTS_PER_100 = 2.0
TOP_LEVEL = 10  # packages and modules of bench

Functions = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Named:
    """A size, and what has it."""

    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.size} {self.name}" if self.name else "0"


NOTHING = Named(0, "")


@dataclass
class Measured:
    """What one package came to.

    Attributes:
        missed: a line for each bar that a module, a function or a class of it misses.
    """

    package: str
    modules: int = 0
    lines: int = 0
    comments: int = 0
    longest_module: Named = NOTHING
    longest_function: Named = NOTHING
    largest_class: Named = NOTHING
    missed: list[str] = field(default_factory=list)

    @property
    def comments_per_100(self) -> float:
        return 100 * self.comments / self.lines if self.lines else 0.0

    def add(self, path: Path, source: str) -> None:
        """Measures a module and counts it in."""
        name = path.relative_to(ROOT).as_posix()
        lines = source.count("\n")
        self.modules += 1
        self.lines += lines
        self.comments += comments(source)
        self.longest_module = max(self.longest_module, Named(lines, name), key=lambda one: one.size)
        if lines > MODULE_LINES:
            self.missed.append(f"{name} has {lines} lines, at most {MODULE_LINES}")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, Functions):
                self._add_function(name, node)
            elif isinstance(node, ast.ClassDef):
                self._add_class(name, node)

    def _add_function(self, module: str, node: Functions) -> None:
        length = function_lines(node)
        self.longest_function = max(self.longest_function, Named(length, node.name), key=lambda one: one.size)
        if length > FUNCTION_LINES:
            self.missed.append(f"{module}:{node.lineno} {node.name} has {length} lines, at most {FUNCTION_LINES}")

    def _add_class(self, module: str, node: ast.ClassDef) -> None:
        if node.name.endswith(LARGE_BY_NATURE):
            return
        methods = sum(isinstance(one, Functions) for one in node.body)
        self.largest_class = max(self.largest_class, Named(methods, node.name), key=lambda one: one.size)
        if methods > CLASS_METHODS:
            self.missed.append(f"{module}:{node.lineno} {node.name} has {methods} methods, at most {CLASS_METHODS}")


def function_lines(node: Functions) -> int:
    """Returns a function's lines from `def` to its end, without its docstring."""
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if has_docstring else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - docstring


def comments(source: str) -> int:
    """Returns how many comments there are, on lines of their own and behind code. Directives to tools are none."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = (token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)
    return sum(not text.startswith(("noqa", "type:", "pragma", "!")) for text in found)


def measure(package: str) -> Measured:
    """Measures a package. What a symbolic link in it leads to is measured where it lies."""
    measured = Measured(package)
    for path in _modules(ROOT / package):
        measured.add(path, path.read_text(encoding="utf-8"))
    if package in COMMENTED and measured.comments_per_100 < COMMENTS_PER_100:
        measured.missed.append(
            f"{package} has {measured.comments_per_100:.1f} comments per 100 lines, at least {COMMENTS_PER_100}"
        )
    return measured


def _modules(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _modules(path)
        elif path.suffix == ".py" and not path.match(GENERATED):
            yield path


def top_level(package: str) -> list[str]:
    """Returns the names of the packages and modules that lie directly in a package, without `__init__` and `__main__`."""
    children = (ROOT / package).iterdir()
    return sorted(
        path.stem
        for path in children
        if (path.suffix == ".py" and not path.name.startswith("__")) or (path / "__init__.py").exists()
    )


def table(found: Sequence[Measured]) -> str:
    """Returns the measures as a table."""
    lines = [
        "| package | modules | lines | longest module | longest function | most methods | comments per 100 lines |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one.package} | {one.modules} | {one.lines} | {one.longest_module} | {one.longest_function} "
        f"| {one.largest_class} | {one.comments_per_100:.1f} |"
        for one in found
    ]
    return "\n".join(lines)


def main() -> int:
    """Prints all measures; returns the exit status."""
    found = [measure(package) for package in dict.fromkeys((*PACKAGES, *COMMENTED))]
    # A package within another one is measured twice, and told of once.
    missed = list(dict.fromkeys(line for one in found for line in one.missed))
    names = top_level("bench")
    print(table(found))
    print(f"\nbench has {len(names)} packages and modules at its top: {', '.join(names)}")
    if len(names) > TOP_LEVEL:
        missed.append(f"bench has {len(names)} packages and modules at its top, at most {TOP_LEVEL}")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
