"""`lposekit smallworld`: trains the cells one after the other, measures each, and keeps one page of what is known.

A cell that is done has its figures in a file and is not touched again. One that was interrupted goes on at its newest
checkpoint.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lposekit.errors import Interrupted
from lposekit.setting_values import check_values
from trainer.model.base import load_base
from trainer.run.folder import fingerprint, own_folder
from trainer.smallworld.budgets import BUDGETS
from trainer.smallworld.cells import Cell, chosen_cells
from trainer.smallworld.machine import machine_facts
from trainer.smallworld.measure_cell import measure_cell
from trainer.smallworld.page import PAGE_NAME, write_smallworld_page
from trainer.smallworld.results import add_seconds, claim_cell, collect, finish_cell, write_results
from trainer.smallworld.settings import SmallWorldSettings
from trainer.smallworld.summary import summarise
from trainer.smallworld.training import train_cell, train_settings, write_data

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SmallWorldReport:
    """The end of the command. page: what there is to look at. done, cells: how many of how many."""

    page: Path
    done: int
    cells: int
    interrupted: bool
    seconds: float

    @property
    def exit_code(self) -> int:
        return Interrupted.exit_code if self.interrupted else 0

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "page": str(self.page), "seconds": round(self.seconds, 1)}

    def summary_lines(self) -> list[str]:
        lines = [f"{self.done} of {self.cells} trainings are done and measured: {self.page}"]
        return [*lines, "the same command goes on"] if self.interrupted else lines


def run(settings: SmallWorldSettings) -> SmallWorldReport:
    """Trains and measures what is not done yet, and writes the page.

    Raises:
        UsageError: the folder holds trainings with other settings. LposekitError: as `lposekit train`.
    """
    check_values(settings)
    started = time.monotonic()
    cells = chosen_cells(settings.scope, settings.seeds)
    base = fingerprint(load_base(settings.base).unet)
    done = 0
    with own_folder(settings.output):
        for cell in cells:
            settled = is_done(cell, base, settings)
            if not settled and not run_cell(cell, settings):
                break
            done += 1
            if not settled or done == len(cells):
                write_down(settings, cells)
    page = settings.output / PAGE_NAME
    return SmallWorldReport(page, done, len(cells), done < len(cells), time.monotonic() - started)


def is_done(cell: Cell, base: str, settings: SmallWorldSettings) -> bool:
    """Whether a cell has its figures; if not, it is claimed."""
    budget, folder = BUDGETS[settings.budget], settings.output
    return claim_cell(folder, cell, train_settings(cell, folder, budget, settings), base) is not None


def run_cell(cell: Cell, settings: SmallWorldSettings) -> bool:
    """Trains and measures a cell; False: it was interrupted."""
    log.info("training: %s", cell.title)
    budget, folder = BUDGETS[settings.budget], settings.output
    started = time.monotonic()
    write_data(folder / "data", cell.data, budget, settings)
    report = train_cell(train_settings(cell, folder, budget, settings))
    trained = time.monotonic()
    add_seconds(folder, cell, trained - started)
    if report.interrupted:
        return False
    finish_cell(folder, cell, measure_cell(cell, folder, budget, settings.device), machine_facts(settings.device))
    log.info("%s: trained in %.0f s, measured in %.0f s", cell.title, trained - started, time.monotonic() - trained)
    return True


def write_down(settings: SmallWorldSettings, cells: list[Cell]) -> None:
    """`results.json` and the page, of what is known."""
    known = collect(settings.output, cells)
    bars = summarise(cells, known)
    write_results(settings.output, known, [bar.as_json() for bar in bars])
    write_smallworld_page(settings.output, cells, known, bars)
