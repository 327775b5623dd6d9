"""The packages by their syntax trees: modules, imports, levels, circles, long functions.

python tests/helpers/house.py [ROOT]   prints the packages of a checkout and their counts
"""

import ast
import pathlib
import sys

LONGEST = 90  # lines of a function, its docstring not counted


def imported(text: str) -> set[str]:
    """Modules that a file imports, as far as its text shows: ``from a import b`` is ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(found: dict[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports."""
    names = {p.removesuffix(".py").removesuffix("/__init__").replace("/", "."): p for p in found}
    known = {}
    for name, place in names.items():
        given = imported(found[place])
        ways = {way for i in given for way in (i, i.rpartition(".")[0]) if way in names}
        # Of ``from a import b`` with a module ``a.b`` it is that, and not the package round it.
        known[name] = {
            w
            for w in ways
            if w in given or not any(i in names for i in given if i.rpartition(".")[0] == w)
        } - {name}
    return known


def circles(known: dict[str, set[str]]) -> list[str]:
    """Modules that import themselves by way of others."""

    def reached(name):
        seen, left = set(), [*known[name]]
        while left:
            if (one := left.pop()) not in seen:
                seen.add(one)
                left += known[one]
        return seen

    return sorted(name for name in known if name in reached(name))


def levels(known: dict[str, set[str]]) -> dict[str, int]:
    """How many modules lie below each, one on another, and itself; a circle is cut where met."""
    depth: dict[str, int] = {}

    def level(name, above):
        if name not in depth:
            below = [level(one, {*above, name}) for one in known[name] - above - {name}]
            depth[name] = 1 + max(below, default=0)
        return depth[name]

    return {name: level(name, set()) for name in sorted(known)}


def long_functions(place: str, text: str) -> list[str]:
    """Functions of more lines than can be read in one go; a docstring is read by itself."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first, lines = node.body[0], node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= first.end_lineno - first.lineno + 1
            if lines > LONGEST:
                found.append(f"{place}: {node.name} has {lines} lines")
    return found


def drawing(root: pathlib.Path) -> str:
    """Each package with its modules, and what they come to."""
    lines = []
    for top in ("jfu", "launch"):
        found = sorted((root / top).rglob("*.py"))
        texts = {path.relative_to(root).as_posix(): path.read_text() for path in found}
        texts = {place: text for place, text in texts.items() if text.strip()}
        inside = modules(texts)
        arrows, rows = sum(map(len, inside.values())), sum(t.count("\n") for t in texts.values())
        lines.append(
            f"{top}: {len(texts)} modules, {rows} lines, {max(levels(inside).values())} levels, "
            f"{arrows} arrows, {len(circles(inside))} modules in circles"
        )
        folders: dict[str, list[str]] = {}
        for path in map(pathlib.PurePosixPath, texts):
            folders.setdefault(path.parent.as_posix(), []).append(path.stem)
        for folder, names in sorted(folders.items()):
            shown = " ".join(name for name in names if name != "__init__")
            lines.append(f"  {folder}/ ({len(names)}): {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(drawing(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
