"""Progress on a terminal: steps, steps per second, time left, mean return, success rate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Rich would end the program; what a broken pipe means is for the command line to say."""
        raise BrokenPipeError


def console() -> Console:
    """Standard output for tables: as wide as the terminal, or wide enough for any table where there is none."""
    return _Console(width=None if sys.stdout.isatty() else 160)


class RateColumn(ProgressColumn):
    """Steps or episodes per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("-" if speed is None else f"{speed:,.0f} {task.fields['unit']}/s")


def _bar(*extra: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        *extra,
        console=Console(stderr=True),
    )


class BarReporter:
    """Shows a training on a bar."""

    def __init__(self, bar: Progress, title: str) -> None:
        self._bar = bar
        self._task = bar.add_task(title, total=None, figures="", unit="steps")

    def update(self, step: int, figures: Mapping[str, float]) -> None:
        words = []
        if "return" in figures:
            words.append(f"return {figures['return']:.2f}")
        if "success" in figures:
            words.append(f"success {figures['success']:.0%}")
        if "evaluation_success" in figures:
            words.append(f"evaluated {figures['evaluation_success']:.0%}")
        self._bar.update(self._task, completed=step, total=figures.get("steps"), figures="  ".join(words))


@contextmanager
def training_progress(title: str) -> Iterator[BarReporter | None]:
    """A bar on stderr if that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    with _bar(TextColumn("{task.fields[figures]}")) as bar:
        yield BarReporter(bar, title)


@contextmanager
def counting_progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar of things done on stderr if that is a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    with _bar() as bar:
        task = bar.add_task(title, total=None, unit=title)
        yield lambda done, total: bar.update(task, completed=done, total=total)
