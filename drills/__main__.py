"""Runs drills and writes their report: `python -m drills [NAME...] [--long] [--edge E] [--seed N]`; status 1 if one failed."""

import argparse
import asyncio
import gc
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from random import Random, SystemRandom

from deploy.local import own_folder
from deploy.local.own_folder import ForeignFolderError
from deploy.local.settings import ROOT
from drills import checker, history
from drills.report import Report, Result, result_of
from drills.scenario import Drill
from drills.scenarios import SCENARIOS

FOLDER = ROOT / ".tokenrelay" / "drill"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m drills", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which; by default all: {', '.join(SCENARIOS)}")
    parser.add_argument("--long", action="store_true", help="at the size that docs/promises.md reports")
    parser.add_argument("--seed", type=int, default=SystemRandom().getrandbits(31), help="to have the same chances again")
    parser.add_argument("--edge", choices=("envoy", "grpcio"), help="what serves in the gateways; by default what they choose")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="for logs, histories and the report; one of an earlier drill is emptied"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(SCENARIOS)
    if unknown:
        parser.error(f"there is no drill {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    names = options.names or list(SCENARIOS)
    folder: Path = options.folder.resolve()
    try:
        own_folder.make_anew(folder)
    except ForeignFolderError as error:
        parser.error(str(error))
    _show(f"{len(names)} drills, seed {options.seed}, in {folder}")
    results = [_run(name, folder / name, options.seed, options.edge, long=options.long) for name in names]
    command = " ".join(
        [
            "python -m drills",
            *options.names,
            *(["--long"] if options.long else []),
            *(["--edge", options.edge] if options.edge else []),
        ]
    )
    report = Report(command, options.seed, results)
    report.write(folder)
    _show(report.markdown())
    _show(f"the report is in {folder / 'report.md'} and report.json; histories and logs lie beside it")
    return 0 if report.is_good else 1


def _run(name: str, folder: Path, seed: int, edge: str | None, *, long: bool) -> Result:
    """Runs one scenario, and checks what it wrote down."""
    scenario, story = SCENARIOS[name]
    folder.mkdir()
    file, started, problem = folder / "history.jsonl", time.monotonic(), None
    with history.History(file) as written:
        drill = Drill(name, folder, written, Random(f"{seed} {name}"), long, _show, edge)
        try:
            asyncio.run(scenario(drill))
        except Exception as error:
            traceback.print_exc()
            problem = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    events = list(history.read(file))
    result = result_of(drill, story, str(seed), seconds, events)
    result.problem = problem
    if problem is None and any(event["kind"] == "drill" for event in events):
        drill.say(f"checking {len(events)} events")
        result.violations = checker.check(events)
    for line in [*map(str, result.violations), *(f"missed: {bar}" for bar in result.bars if not bar.held)]:
        drill.say(line)
    drill.say("done: " + ("all held" if result.is_good else "FAILED"))
    del events
    gc.collect()  # a long history is hundreds of megabytes of small objects
    return result


def _show(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
