"""Files of golden values: every line asks something, and says the answer for ever.

One question a line, `KIND ARGUMENT… = ANSWER`, beside comments and one `version = N`. Filling in never touches an
answer that stands there, unless the version at the top is older than the twins' own.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One line: what is asked, its arguments, and the answer, all as they are written."""

    line: int
    kind: str
    arguments: tuple[str, ...]
    answer: tuple[str, ...]


Answer = Callable[[Golden], tuple[str, ...]]


def equal(golden: Golden, answer: tuple[str, ...]) -> bool:
    """Whether an answer is the frozen one, to the letter."""
    return answer == golden.answer


@dataclass(frozen=True, kw_only=True)
class GoldenFile:
    """A file of golden values: the version of the package that it is of, and who answers its questions."""

    path: Path
    version: int
    package_answer: Answer
    plain_answer: Answer
    agrees: Callable[[Golden, tuple[str, ...]], bool] = equal

    def read(self) -> tuple[int, list[Golden]]:
        """The version that the file says, and all its lines."""
        version, lines = 0, []
        for number, text in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            if not text.strip() or text.startswith("#"):
                continue
            asked, _, answer = text.partition("=")
            kind, *arguments = asked.split()
            if kind == "version":
                version = int(answer)
            else:
                lines.append(Golden(line=number, kind=kind, arguments=tuple(arguments), answer=tuple(answer.split())))
        return version, lines

    def differences(self, answer: Answer) -> list[str]:
        """One sentence for every line that is answered differently."""
        version, lines = self.read()
        said = [(golden, answer(golden)) for golden in lines]
        found = [
            f"{self.path.name}:{golden.line}: {golden.kind} {' '.join(golden.arguments)} gives {' '.join(words)}, "
            f"frozen is {' '.join(golden.answer)}"
            for golden, words in said
            if not self.agrees(golden, words)
        ]
        if version != self.version:
            found = [f"{self.path.name} is of version {version}, the package of {self.version}", *found]
        return found

    def fill(self) -> int:
        """Let the twins answer what is asked and not answered yet; returns how many lines changed."""
        version, lines = self.read()
        renewed = version < self.version
        text = self.path.read_text(encoding="utf-8").splitlines()
        changed = 0
        for golden in lines:
            if renewed or not golden.answer:
                asked = text[golden.line - 1].partition("=")[0].rstrip()
                text[golden.line - 1] = f"{asked} = {' '.join(self.plain_answer(golden))}"
                changed += 1
        if renewed:
            text = [f"version = {self.version}" if line.startswith("version") else line for line in text]
        self.path.write_text("\n".join(text) + "\n", encoding="utf-8")
        return changed

    def main(self) -> int:
        """The command line: compare, or with `--fill` answer."""
        if sys.argv[1:] == ["--fill"]:
            print(f"{self.fill()} lines filled")
            return 0
        found = self.differences(self.package_answer)
        print("\n".join(found) or f"{len(self.read()[1])} golden values hold")
        return 1 if found else 0
