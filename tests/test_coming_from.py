"""docs/coming-from.md: complete beside the five manuals, and everything on our side runs and prints what it says."""

import contextlib
import io
import re
import shlex
from dataclasses import dataclass, field

import pytest
import torch

from minibatch.tools import cli
from minibatch.train.recipes import RECIPES
from tests.coming_from_data import prepare_raw_data, shorter
from tests.syntax import ROOT
from tests.tools.samples import run

PAGE = ROOT / "docs" / "coming-from.md"
TEXT = PAGE.read_text(encoding="utf-8")
SEEDS = ROOT.parent / "shared" / "reference" / "seeds"
FIRST = "Before the first block"
MANUALS = {
    "theanets": "theanets-training-a-model.txt",
    "cuda-convnet2": "cuda-convnet2-training.md",
    "CNTK": "cntk-how-to-train-in-python.md",
    "HALCON": "halcon-train_dl_model_batch.txt",
    "MindSpore": "mindspore-model-training.md",
}
HALCON_SECTIONS = (
    *("Name", "Signature", "Description", "Further Information on the Algorithms", "Attention"),
    *("Execution Information", "Parameters", "Result", "Possible Predecessors", "Possible Successors", "See also"),
)


@dataclass(kw_only=True)
class Block:
    """A fenced block of the page: in a quotation it is theirs. follows: the output that is shown below our code."""

    system: str
    section: str
    theirs: bool
    language: str
    code: str
    line: int
    shows: list[str] = field(default_factory=list)


def blocks():
    """Every fenced block of the page, in order; our ```text blocks belong to the last code of ours before them."""
    found, system, section, fence = [], "", "", None
    for number, line in enumerate(TEXT.splitlines(), start=1):
        theirs = line.startswith(">")
        inner = line.removeprefix(">").removeprefix(" ") if theirs else line
        if inner.startswith("```"):
            if fence is None:
                fence = Block(
                    system=system, section=section, theirs=theirs, language=inner[3:].strip(), code="", line=number
                )
                continue
            assert fence.theirs == theirs, f"line {number}: the block of line {fence.line} is half in a quotation"
            if fence.language == "text" and not theirs:
                ours = [block for block in found if not block.theirs and block.system == system]
                assert ours, f"line {fence.line}: output without code before it"
                ours[-1].shows.append(fence.code)
            else:
                found.append(fence)
            fence = None
        elif fence is not None:
            assert fence.theirs == theirs, f"line {number}: the block of line {fence.line} is half in a quotation"
            fence.code += inner + "\n"
        elif line.startswith("## "):
            system, section = line[3:].partition(":")[0], ""
        elif re.match("###+ ", line):
            section = line.lstrip("# ")
    assert fence is None
    return found


BLOCKS = blocks()
SYSTEMS = list(dict.fromkeys(block.system for block in BLOCKS if block.system != FIRST))


def of(system, *, theirs):
    return [block for block in BLOCKS if block.system == system and block.theirs == theirs]


def plain(text):
    """`text` with every run of white space as one space."""
    return " ".join(text.split())


def manual(system):
    path = SEEDS / MANUALS[system]
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path.read_text(encoding="utf-8")


def code_of(text):
    """The code blocks of a manual in Markdown: fenced ones, and those that are indented by four spaces."""
    fenced = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    indented = re.compile(r"(?:^    \S[^\n]*\n)+", re.MULTILINE)
    places = [(found.start(), found[1]) for found in fenced.finditer(text)]
    without = fenced.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    places += [(found.start(), found[0]) for found in indented.finditer(without)]
    return [plain(code) for _, code in sorted(places)]


def headings_of(system, text):
    """The headings of a manual; in theanets' text, which has lost its lines, an underline is as long as its heading."""
    if system == "HALCON":
        lines = text.splitlines()
        assert all(heading in lines for heading in HALCON_SECTIONS)
        return HALCON_SECTIONS
    if system == "theanets":
        underlines = list(re.finditer(r" ([=-])\1{3,}", text))
        found = [text[one.start() - len(one[0]) + 1 : one.start()] for one in underlines]
        return [heading for heading in found if heading.strip("=-")]
    without = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [heading.strip(" #") for heading in re.findall(r"^#+ (.+)$", without, re.MULTILINE)]


def test_the_page_is_of_these_systems():
    assert list(MANUALS) == SYSTEMS


@pytest.mark.parametrize("system", ["cuda-convnet2", "CNTK", "MindSpore"])
def test_every_code_block_of_a_manual_is_quoted_in_its_order(system):
    wanted = code_of(manual(system))
    assert len(wanted) == {"cuda-convnet2": 11, "CNTK": 8, "MindSpore": 6}[system]
    quoted = iter(plain(block.code) for block in of(system, theirs=True))
    for code in wanted:
        assert code in quoted, f"docs/coming-from.md does not quote, or not in this place: {code}"


def test_every_code_block_of_theanets_is_quoted_in_its_order():
    text = manual("theanets")
    begins = [found.end() for found in re.finditer(r"(?<!math):: ", text)]
    assert len(begins) == 11
    quoted = [plain(block.code) for block in of("theanets", theirs=True)]
    place = 0
    for begin in begins:
        rest = text[begin:]
        while place < len(quoted) and not rest.startswith(quoted[place]):
            place += 1
        assert place < len(quoted), f"docs/coming-from.md does not quote, or not in this place: {rest[:80]} …"
        after = rest[len(quoted[place]) :]
        # Lines are lost in this text, so that the block is whole shows in what comes next: a sentence.
        assert re.match(r" (?!exp|for|print)[A-Za-z']+,? [a-z]", after), f"{quoted[place]} goes on: {after[:80]} …"
        place += 1


def test_the_operator_of_halcon_is_quoted_with_its_parameters():
    text = manual("HALCON")
    quoted = plain("\n".join(block.code for block in of("HALCON", theirs=True)))
    signature = text.split("\nSignature\n")[1].split("\nDescription\n")[0]
    place = 0
    for line in filter(None, signature.splitlines()):
        place = quoted.find(plain(line), place)
        assert place >= 0, f"docs/coming-from.md does not quote: {line}"
    parameters = re.findall(r"^(\w+?)\1+ \((\w+)\)", text, re.MULTILINE)
    assert len(parameters) == 3
    for name, direction in parameters:
        assert f"{name} ({direction})" in quoted
    words = {*re.findall(r"'(\w+)'\"\1\"", text), "class_weights", "total_loss"}
    assert {"batch_size", "batch_size_multiplier", "weight_prior", "cudnn_deterministic"} < words
    everything = " ".join(quoted_sentences("HALCON"))
    for word in words:
        assert f"'{word}'" in everything, f"docs/coming-from.md does not quote '{word}'"


def part_of(system):
    """What the page says of a system."""
    return re.search(rf"^## {re.escape(system)}(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)[0]


def quoted_sentences(system):
    """What is quoted beside code: paragraphs and items of lists, where […] leaves something out between two."""
    lines = re.sub(r"^> ```.*?^> ```$", "", part_of(system), flags=re.MULTILINE | re.DOTALL).splitlines()
    text = "\n".join(line[1:].strip() if line.startswith(">") else "" for line in lines)
    return [plain(piece) for piece in re.split(r"\n\n|\n(?=- )|\[…\]", text) if piece.strip()]


def words_of(text):
    """The words of a text without marks of any kind."""
    return " ".join(word.strip("_") for word in re.findall(r"\w+", re.sub(r":(class|func|math):", " ", text)))


@pytest.mark.parametrize("system", MANUALS)
def test_what_is_quoted_stands_in_the_manual(system):
    text = manual(system)
    # HALCON's words stand there once for each language: batch_size as 'batch_size' and four times "batch_size".
    text = re.sub(r"'(\w+)'(\"\1\")+", r"'\1'", text)
    text = re.sub(r"\b([a-z]+(?:_[a-z]+?)+?)(?:(?:T_)?\1)+([A-Za-z]+?)?\2*\b", r"\1", text)
    text = re.sub(r"\b(DL[A-Za-z]+?)\1+\b", r"\1", text)
    whole = f" {words_of(text)} "
    for sentence in quoted_sentences(system):
        assert f" {words_of(sentence)} " in whole, f"this does not stand in the manual of {system}: {sentence}"


@pytest.mark.parametrize("system", MANUALS)
def test_every_section_of_a_manual_has_its_heading(system):
    part = part_of(system)
    # Its title is in our heading of the system.
    here = iter([plain(part.splitlines()[0].partition(":")[2]), *re.findall(r"^###+ (.+)$", part, re.MULTILINE)])
    for heading in headings_of(system, manual(system)):
        assert plain(heading) in here, f"docs/coming-from.md has no section {heading!r} of {system}, or elsewhere"


@pytest.mark.parametrize("system", MANUALS)
def test_every_quotation_with_code_is_answered(system):
    ours = {block.section for block in of(system, theirs=False)}
    for block in of(system, theirs=True):
        assert block.section in ours, f"line {block.line}: {block.section} has nothing to write here"


# Everything on our side, run.


def form(expected):
    """A pattern for output: numbers with a fraction stand for any such number, … for anything, spaces for spaces.

    In a table (│) numbers are rounded to some digits, so there they may have any number of decimals, or none.
    """
    pieces = re.split(r"(…|-?\d[\d,]*\.\d+(?:e[+-]\d+)?%?|\s+|[─━]+)", expected.strip())
    pattern = ""
    for piece in pieces:
        if piece == "…":
            pattern += r"[\s\S]*?"
        elif found := re.fullmatch(r"-?\d[\d,]*\.(\d+)(?:e[+-]\d+)?%?", piece):
            decimals = "*" if "│" in expected else f"{{{len(found[1])}}}"
            power = r"e[+-]\d+" if "e" in piece else ""
            pattern += rf"-?\d[\d,]*\.?\d{decimals}{power}{'%' if piece.endswith('%') else ''}"
        elif piece and not piece.strip():
            pattern += r"\s+"
        elif piece and not piece.strip("─━"):
            pattern += "[─━]+"
        else:
            pattern += re.escape(piece)
    return re.compile(pattern)


def check_output(block, expected, printed):
    assert form(expected).fullmatch(printed.strip()), (
        f"docs/coming-from.md, line {block.line}: it prints\n{printed}\nwhich has not the form of\n{expected}"
    )


def run_python(block, namespace):
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * block.line + block.code, str(PAGE), "exec"), namespace)
    except Exception as error:
        error.add_note(f"docs/coming-from.md, line {block.line}, {block.system}, {block.section}")
        raise
    for expected in block.shows:
        check_output(block, expected, printed.getvalue())


def commands(block):
    """The commands of a ```console block, each with the output that is shown for it."""
    found = []
    for line in block.code.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found[-1][0].endswith("\\"):
            found[-1] = (found[-1][0].removesuffix("\\") + line.strip(), [])
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(shown)) for command, shown in found]


def run_console(block):
    printed = ""
    for command, shown in commands(block):
        program, *arguments = shlex.split(command, comments=True)
        assert program == "minibatch", f"line {block.line}: {command}"
        result = run(*arguments, *shorter(arguments))
        assert result.exit_code == 0, f"docs/coming-from.md, line {block.line}: {command}\n{result.output}"
        said = result.stderr + result.stdout
        if shown:
            check_output(block, shown, said)
        printed += said
    for expected in block.shows:
        check_output(block, expected, printed)


@pytest.fixture
def one_thread():
    """Steps this small are slowed down by threads."""
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(deterministic)  # the recipe step_by_step switches them on


@pytest.mark.parametrize("system", MANUALS)
def test_our_blocks_run(system, tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minibatch.tools.train.MEASURED_EVERY", 256)  # the layers' lines, in so short a run
    prepare_raw_data(system, tmp_path)
    namespace = {"__name__": "coming_from"}
    ran = 0
    for block in (*of(FIRST, theirs=False), *of(system, theirs=False)):
        if block.language == "python":
            run_python(block, namespace)
        elif block.language == "console":
            run_console(block)
        else:  # of a recipe that takes longer
            assert block.language == "sh", f"line {block.line}: a block of {block.language!r} cannot be run"
            for command in block.code.splitlines():
                check_command(command)
        ran += 1
    assert ran > len(of(system, theirs=True)) // 2


# The table at the top.


def rows():
    table = TEXT.split(f"## {FIRST}")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if "](#" in line]


def anchors():
    """How GitHub calls the headings in an address; what is there already gets a number."""
    found = []
    for heading in re.findall(r"^##+ (.+)$", TEXT, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        before = [one for one in found if re.fullmatch(rf"{re.escape(name)}(-\d+)?", one)]
        found.append(f"{name}-{len(before)}" if before else name)
    return found


def test_the_table_leads_from_every_section_to_a_recipe_and_a_command():
    headings, seen = anchors(), set()
    for section, recipe, command in rows():
        for target in re.findall(r"\(#(.+?)\)", section):
            assert target in headings, section
        for name, path in re.findall(r"\[`?(\w+)`?\]\((.+?)\)", recipe):
            assert path == f"../train/recipes/{RECIPES[name]}.py", recipe
            seen.add(name)
        for code in re.findall(r"`(.+?)`", command):
            check_command(code)
    # The demo is of none of the manuals, nor is a language model.
    assert {RECIPES[name] for name in seen} == {*RECIPES.values()} - {"demo", "charlm"}


def check_command(code):
    """The command exists and takes the arguments it is written with."""
    program, name, *rest = shlex.split(code)
    assert program == "minibatch", code
    assert name in cli.COMMANDS, code
    cli.load(name).make_context(name, [*rest])  # which takes the list apart
    if name == "train":
        assert rest[0] in RECIPES, code


def test_links_to_recipes_and_documents_lead_to_files():
    paths = re.findall(r"\]\((\.\./[^)#]+|[\w-]+\.md)", TEXT)
    assert len(paths) > len(RECIPES)
    for path in paths:
        assert (PAGE.parent / path).exists(), path


# What the checks above would let pass if they were wrong.


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("1.1 (0.00%)... logprob: 7.156030", "1.1 (0.01%)... logprob: 2.301234", True),
        ("1.1 (0.00%)... logprob: 7.156030", "1.1 (0.01%)... logprob: 2.3", False),
        ("step 3, loss 0.5000", "step 4, loss 0.5000", False),
        ("first\n…\nlast 1.25", "first\nanything\n2\nlast 9.99", True),
        ("first\nlast", "first\nother\nlast", False),
        ("[2.681663e-05]", "[1.000000e-03]", True),
        ("[2.681663e-05]", "[0.001000]", False),
    ],
)
def test_output_is_compared_by_its_form(expected, printed, same):
    assert bool(form(expected).fullmatch(printed)) == same
