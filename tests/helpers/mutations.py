"""Malformed input: seeded mutations of study files, overrides, storage URLs, tables and checkpoints."""

import random
from pathlib import Path

NUMBERS = [
    "1e99999999",
    "-1e99999999",
    "1e-99999999",
    "1" + "0" * 18,
    "9" * 5000,
    "-1",
    "0",
    "nan",
    "inf",
    "1e309",
    "1/0",
]
PIECES = [
    *NUMBERS,
    "[" * 900,
    "[" * 300 + "]" * 300,
    "{a=" * 200,
    ".a" * 20_000,
    '"a".' * 20_000,
    "\x00",
    "\x1b[2J",
    "\u202e",
    "é" * 300,
    "x" * 300,
    "../../etc",
    "%00",
    "?mode=ro",
    "os:system",
    "1..1/32",
    "0..1",
    "1979-05-27T07:32:00Z",
    "{ }",
    "[]",
    "[[panels]]",
    "[task]",
    '"""',
    "'''",
    "=",
    ",",
    "\n",
    ",".join(map(str, range(4000))),
]
FIELDS = [
    "task.epochs", "task", "task.model_args", "task.model_args.hidden", "task.dataset", "task.batch_size", "axes",
    "axes.lr.values", "axes.lr.unit", "axes.lr", "panels", "panels.0", "panels.0.schedule", "panels.0.schedule.period",
    "panels.0.name", "panels.0.epochs", "panels.9", "seeds", "decay", "report.error_range", "title", "a" + ".a" * 2000,
    "task.decay_multipliers", "panels.0.schedule.milestones",
]  # fmt: skip
# Every command, with words that it takes. `sweep`, `plan`, `report` and `compare` get some that they must refuse.
COMMANDS = [
    "list --json --storage sqlite:///{folder}/study.db",
    "show small --storage sqlite:///{folder}/study.db --json",
    "export small --format csv --out {folder}/out.csv --storage sqlite:///{folder}/study.db",
    "report none --style cells --out {folder}/reports --storage sqlite:///{folder}/study.db --every 1",
    "compare paper:figure8/none small/sgd --out {folder}/reports --storage sqlite:///{folder}/study.db",
    "convert --lr 0.1 --weight-decay 0.01 --optimizer adamw --to pytorch --schedule cosine --epochs 10 --beta1 0.9",
    "convert --lr 0.1 --weight-decay 0.01 --optimizer sgd --batch 128 --train-size 50000 --momentum 0.9 --eps 1e-8",
    "sweep {folder}/refused.toml --workers 2 --checkpoint-minutes 1 --set task.epochs=2 --name x --device cpu --coarse",
    "plan {folder}/refused.toml --workers 2 --set task.epochs=2 --json",
    "studies --json",
    "fields",
    "doctor --storage sqlite:///{folder}/study.db --json",
    "backup small {folder}/copy.db --storage sqlite:///{folder}/study.db",
    "--version",
]
URLS = [
    "sqlite:///{folder}/study.db",
    "sqlite:///{folder}/none/study.db",
    "sqlite://",
    "sqlite:///:memory:",
    "postgresql+psycopg://me:secret@127.0.0.1:1/db",
    "postgresql://me:secret@127.0.0.1:1/db?password=secret",
    "mysql://me:secret@127.0.0.1/db",
]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The content after one to four random changes."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        end = min(len(content), at + draw.randint(1, 40))
        match draw.randrange(8):
            case 0 if content:
                changed = bytearray(content)
                changed[at % len(content)] ^= 1 << draw.randrange(8)
                content = bytes(changed)
            case 1:
                content = content[:at] + content[end:]
            case 2:
                content = content[:end] + content[at:]
            case 3 | 4:
                content = content[:at] + draw.choice(PIECES).encode() + content[at:]
            case 5:
                content = content[:at]
            case 6:
                content = content[:at] + draw.randbytes(4) + content[at:]
            case _:
                content = _with_another_value(content, draw)
    return content


def _with_another_value(content: bytes, draw: random.Random) -> bytes:
    """One line `key = value` with an extreme value."""
    lines = content.split(b"\n")
    if places := [i for i, line in enumerate(lines) if b"=" in line]:
        i = draw.choice(places)
        value = draw.choice(PIECES)
        quoted = value if draw.random() < 0.5 else f'"{value}"'
        lines[i] = lines[i].partition(b"=")[0] + b"= " + quoted.encode()
    return b"\n".join(lines)


def override(draw: random.Random) -> str:
    """A `--set` argument."""
    given = f"{draw.choice(FIELDS)}={draw.choice(PIECES)}"
    return mutated(given.encode(), draw).decode(errors="surrogateescape") if draw.random() < 0.3 else given


def arguments(draw: random.Random, folder: Path) -> list[str]:
    """A command's words, one to three of them changed, left out, doubled or put elsewhere."""
    words = draw.choice(COMMANDS).format(folder=folder).split()
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(words))
        match draw.randrange(6):
            case 0:
                words[at] = draw.choice(PIECES)
            case 1:
                words[at] = mutated(words[at].encode(errors="surrogateescape"), draw).decode(errors="surrogateescape")
            case 2 if len(words) > 1:
                del words[at]
            case 3:
                words.insert(at, words[draw.randrange(len(words))])
            case 4:
                draw.shuffle(words)
            case _:
                words.append(
                    draw.choice(["--json", "--quiet", "--help", "--set", "--storage", "--none", "-", "--", "\udcff"])
                )
    return words


def url(draw: random.Random, folder: Path) -> str:
    """A storage URL that reaches no other machine."""
    scheme, _, rest = draw.choice(URLS).format(folder=folder).partition("://")
    if scheme.startswith("postgresql"):  # the host stays: a name would be looked up
        head, _, tail = rest.partition("127.0.0.1:1")
        tail = mutated(tail.encode(), draw).decode(errors="surrogateescape").replace("host", "")
        return f"{scheme}://{head}127.0.0.1:1{tail}"
    return mutated(f"{scheme}://{rest}".encode(), draw).decode(errors="surrogateescape")
