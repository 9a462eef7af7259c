"""Checks every command that the README and the documentation show against the real definitions, without running it."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from scripts.docs import commands
from tests.docs import blocks
from tests.docs.expected import differs

ROOT = pathlib.Path(__file__).resolve().parents[2]
_COMMAND = re.compile(r"(?:^|[\s'\"(;&|/])python3? -m ([\w.]+)((?:\\\n|[^\n|;&>`#])*)")
_FLAG = re.compile(r"--(\w[\w-]*)(?:=(\S*))?")
_FOREIGN = ("apache_beam.runners", "http.server", "venv", "pip")  # modules of others
_NUMBERS = {"int": int, "float": float}
_OF_BEAM = (
    "import json, sys; from apache_beam.options.pipeline_options import PipelineOptions; "
    "print(json.dumps(list(PipelineOptions(sys.argv[1:]).get_all_options(drop_default=True))))"
)
_NOT_OURS = {"--restart", "--setup_file", "--worker-id"}  # flags of others that pages mention in passing


def shown():
    """Yields place, module and arguments of every command of ours that a page shows, in a block or in a line."""
    for page in blocks.pages():
        text = page.read_text(encoding="utf-8")
        for found in _COMMAND.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            if not found[1].startswith(_FOREIGN):
                yield f"{page.relative_to(ROOT)}:{line}", found[1].rstrip("."), found[2].replace("\\\n", " ")


def is_placeholder(value):
    return value is None or "…" in value or bool(re.fullmatch(r"[A-Z_]+", value.strip("'\"")))


def problem_of(flags, name, value):
    """Says what is wrong with a flag of a command; "" for nothing, None for one that the command does not have."""
    if name not in flags:
        base = flags.get(name.removeprefix("no"))
        return "" if base and base["type"] == "bool" and name.startswith("no") else None
    flag = flags[name]
    if is_placeholder(value):
        return ""
    if flag["values"] and value not in flag["values"]:
        return f"{value} is not one of {', '.join(flag['values'])}"
    if convert := _NUMBERS.get(flag["type"]):
        try:
            convert(value)
        except ValueError:
            return f"{value} is no {flag['type']}"
    return ""


def test_every_module_and_flag_that_is_shown_exists():
    known, of_beam, count = commands.read(), {}, 0
    for place, module, arguments in shown():
        count += 1
        if module not in known:
            path = ROOT / module.replace(".", "/")
            source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__main__.py"
            assert source.exists(), f"{place}: there is no {module}"
            text = source.read_text(encoding="utf-8")
            for name, _ in _FLAG.findall(arguments):
                assert f'"{name}"' in text, f"{place}: {module} has no --{name}"
            continue
        flags = {flag["name"]: flag for flag in known[module]["flags"]}
        for found in _FLAG.finditer(arguments):
            if found[1] in ("help", "version"):
                continue
            problem = problem_of(flags, found[1], found[2])
            if problem is None and module == "beam_jobs.build_tfrecords":
                of_beam[found[1]] = (place, found[0].replace("…", "x").replace("=N", "=1"))
                continue
            assert problem == "", f"{place}: {module} --{found[1]}: {problem or 'no such flag'}"
    assert count > 50
    if of_beam:
        given = [flag for _, flag in of_beam.values()]
        done = subprocess.run([sys.executable, "-c", _OF_BEAM, *given], check=True, capture_output=True, text=True)
        for name in of_beam.keys() - set(json.loads(done.stdout.splitlines()[-1])):
            raise AssertionError(f"{of_beam[name][0]}: neither the builder nor Beam has --{name}")


def test_a_wrong_flag_is_noticed():
    flags = {flag["name"]: flag for flag in commands.read()["trainer.main"]["flags"]}
    assert problem_of(flags, "no_such_flag", "1") is None
    assert problem_of(flags, "strategy", "quantum").startswith("quantum is not one of auto")
    assert problem_of(flags, "seed", "three") == "three is no int"
    assert (
        problem_of(flags, "noprofile", None) == problem_of(flags, "seed", "N") == problem_of(flags, "seed", "3") == ""
    )


def test_flags_that_are_mentioned_in_passing_exist():
    """Those that stand alone in backquotes: `--tta`, `--set=…`."""
    names = {flag["name"] for known in commands.read().values() for flag in known["flags"]}
    for page in blocks.pages():
        if page.parent.name == "from":
            continue  # names flags of other projects, too
        for flag in re.findall(r"`(--[^`\n]+)`", page.read_text(encoding="utf-8")):
            name = _FLAG.match(flag)[1]
            bare = name.removeprefix("no")
            known = names | {"help", "version"}
            if not {name, bare} & known and f"--{name}" not in _NOT_OURS:
                assert name in _beam_flags(), f"{page.relative_to(ROOT)}: no command has {flag}"


def _beam_flags():
    return {
        *("sdk_container_image", "template_location", "runner", "job_endpoint", "direct_num_workers"),
        *("direct_running_mode", "environment_type", "environment_config"),
    }


def test_every_block_is_of_a_kind_and_run_or_marked():
    found = blocks.all_blocks()
    for block in found:
        assert block.language in (*blocks.RUN, *blocks.OTHERS), f'{block.place}: language "{block.language}"'
        if block.language in blocks.OTHERS:
            assert not block.mark, f"{block.place}: only what could be run is marked"
            assert not re.search(r"^(\$ |python -m )", "\n".join(block.lines), re.MULTILINE), f"{block.place}: is shell"
        if block.mark == "run by":
            assert_is_run_by(block)
    assert sum(block.language in blocks.RUN and not block.mark for block in found) >= 15, "hardly a block is run"


def assert_is_run_by(block):
    """Asserts that the test that is named speaks of the command, or of what it calls."""
    file = ROOT / block.why
    assert file.is_file(), f"{block.place}: no {block.why}"
    text = "\n".join([file.read_text(encoding="utf-8"), *(p.read_text(encoding="utf-8") for p in _helpers(file))])
    for command in re.findall(r"-m ([\w.]+)|sh (examples/\w+\.sh)|make (\w+)", "\n".join(block.lines)):
        name = next(filter(None, command)).rpartition("/")[2]
        assert name in text, f"{block.place}: {block.why} does not mention {name}"


def _helpers(file):
    return [p for p in file.parent.glob("*.py") if not p.name.startswith("test_")]


def test_no_command_stands_outside_a_fence():
    for page in blocks.pages():
        fenced = False
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            fenced ^= line.startswith("```")
            assert fenced or not re.match(r"\s*(\$ |python -m )", line), f"{page.relative_to(ROOT)}:{number}"


def test_links_of_the_readme_lead_somewhere():
    """Those of the documentation are checked by Sphinx."""
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 10
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 100


def test_extras_and_targets_that_are_shown_exist():
    setup, makefile = (ROOT / "setup.py").read_text(), (ROOT / "Makefile").read_text()
    for page in blocks.pages():
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`?(?:\.|tpu-retraining)\[(\w[\w-]*)\]|extra `\[(\w[\w-]*)\]`", text):
            assert f'"{name[0] or name[1]}": ' in setup, f"{page.name}: no extra {name}"
        for target in re.findall(r"(?:`|^|\$ )make ([\w-]+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: no make {target}"


@pytest.mark.parametrize(
    ("pattern", "printed", "wrong"),
    [
        ("800 images: 800 kept, 0 left out, in 6.2 s", "40 images: 39 kept, 1 left out, in 12.1 s", ""),
        ("test: accuracy 0.9563, loss 0.1611", "test: accuracy 1.0000, no loss", "test: accuracy 0.9563, loss 0.1611"),
        ("…\npublished …", "one\ntwo\npublished data/versions/2.0.0", ""),
        ("published …", "one\npublished x", "published …"),
        ("… done", "done", ""),
        ("… done", "12:45 done", ""),
        ("one", "one\ntwo", "nothing more; but it printed: two"),
        ("one\n…", "one\ntwo", ""),
        ("one\n…\nthree", "one\ntwo", "three"),
        ("run  0.95  33 min", "run  0.95  63 s", ""),
        ("in 2 h 10 min", "in 40 s", ""),
        ("33 min", "33 minus", "33 min"),
    ],
)
def test_what_is_shown_is_compared_in_shape(pattern, printed, wrong):
    assert differs(pattern.split("\n"), printed.split("\n")) == wrong


def test_a_transcript_is_taken_apart():
    block = blocks.Block(page="x", line=1, language="console", lines=("$ a \\", "  --b", "out", "$ c"))
    assert block.commands() == [("a \\\n  --b", ("out",)), ("c", ())]
