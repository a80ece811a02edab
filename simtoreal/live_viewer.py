"""A live session in a browser; the only file that imports viser."""

from __future__ import annotations

import errno
import html
import io
import math
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import viser

from simtoreal.config import ConfigError
from simtoreal.live_scene import Scene, aim
from simtoreal.live_session import SPEEDS, Session, Snapshot
from simtoreal.robots.parameters import Parameter

TOLD_EVERY = 5  # snapshots: figures that change faster cannot be read
NOTCHES = 200  # of a slider, at least
STYLE = "margin: 0 1em; font-size: 0.85em"
MOST_NAMED = 4  # parameters in the panel's first lines
PUSH = 2.0  # [m/s] at most


@dataclass
class Knob:
    """A slider, and the value that it was last given: by a hand, or by `show`.

    A hand's values arrive on the server's thread, and all else is done on the session's. Until the session has done
    what the hand asked for, `show` leaves the slider alone: it would take back what is on its way.
    """

    handle: Any
    given: float
    asked: int = 0
    """Values of a hand that the session has not taken yet."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def turn(self, value: float) -> None:
        """By a hand."""
        with self.lock:
            self.given = value
            self.asked += 1

    def taken(self) -> None:
        """The session has had one of a hand's values."""
        with self.lock:
            self.asked -= 1

    def show(self, value: float) -> None:
        """Put it where `value` is, unless it is there or a hand's value is on its way."""
        with self.lock:
            if self.asked or math.isclose(value, self.given, rel_tol=1e-6, abs_tol=1e-9):
                return
            self.given = value
            self.handle.value = on_scale(value, self.handle.min, self.handle.max)


class Viewer:
    """A page with the scene and a panel of sliders, served to any number of browsers.

    Callbacks of the page only put wishes into the session's queue, and `show` is called by the session's own loop.

    Args:
        title: of the panel.
        host, port: to serve at; port 0 is any that is free.

    Raises:
        ConfigError: no such host here, or the port is taken.
    """

    def __init__(self, session: Session, title: str, host: str, port: int) -> None:
        self._session = session
        port = free_port(host, port)
        with redirect_stdout(io.StringIO()):  # where it says where it is
            self._server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        # any page can talk to a port of this machine: none may have the session tunnelled to the outside
        self._server.request_share_url = lambda verbose=True: None  # type: ignore[method-assign]
        self._server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="large")
        self._server.gui.main_panel.dock_right()
        if self._server.get_port() != port:
            self.close()
            raise ConfigError(f"port {port} of {host} was taken meanwhile; choose another with --port")
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        aim(self._server.initial_camera, session.task.camera)
        self._scene = Scene(self._server.scene, session.task.robot)
        self._told = 0
        self._panel(self._server.gui)

    def close(self) -> None:
        """End the server; browsers see that it is gone."""
        with redirect_stdout(io.StringIO()):
            self._server.stop()

    def show(self, now: Snapshot) -> None:
        """Bring every browser up to date."""
        with self._server.atomic():
            self._scene.show(now, follow=self._follow.value)
        if self._told % TOLD_EVERY == 0 or now.paused:
            self._status.content = status(now, self._session.task.parameters)
            self._terms.content = table((name, f"{value:+.3f}") for name, value in now.terms.items())
        self._told += 1
        for name, knob in self._knobs.items():
            knob.show(now.parameters[name])
        for (name, index), knob in self._goal_knobs.items():
            knob.show(now.goal[name][index])

    def _panel(self, gui: Any) -> None:
        session = self._session
        self._status = gui.add_html("")
        wishes = {
            "Pause / go on": lambda: session.pause(not session.paused),
            "Step": session.step,
            "Reset": session.reset,
            "New seed": session.next_episode,
        }
        buttons = gui.add_button_group("", tuple(wishes), hint="Reset begins the same episode again")

        @buttons.on_click
        async def _(event: Any) -> None:
            session.ask(wishes[buttons.value])

        speed = gui.add_slider("speed [x]", *SPEEDS, 0.05, session.snapshot().speed, hint="simulated seconds a second")
        self._on_change(speed, session.set_speed)
        limit = gui.add_checkbox("end at the time limit", session.time_limit)
        self._on_change(limit, session.set_time_limit)
        self._follow = gui.add_checkbox("follow the robot", True, visible=session.task.robot.floating)
        with gui.add_folder("Reward terms", expand_by_default=False):
            self._terms = gui.add_html("")
        self._goal_knobs: dict[tuple[str, int], Knob] = {}
        if session.task.goals:
            with gui.add_folder("Goal"):
                self._goals(gui)
        if session.task.robot.floating:
            with gui.add_folder("Push"):
                hard = gui.add_slider("speed [m/s]", 0.0, PUSH, 0.05, 0.5, hint="that the base is given at once")
                where = gui.add_slider("towards [deg]", -180, 180, 5, 90, hint="from the ground's x to its y")
                self._button(gui, "Push", lambda: session.push(hard.value, where.value))
        self._knobs: dict[str, Knob] = {}
        with gui.add_folder("Robot"):
            self._button(gui, "All to nominal", session.set_nominal)
            if session.can_draw:
                self._button(gui, "Draw another from the preset", session.draw)
            groups: dict[str, list[Parameter]] = {}
            for parameter in session.task.parameters.values():
                groups.setdefault(parameter.name.partition(".")[0], []).append(parameter)
            for group, members in groups.items():
                with gui.add_folder(f"{group} ({len(members)})", expand_by_default=False):
                    for parameter in members:
                        self._knobs[parameter.name] = self._parameter(gui, parameter)

    def _goals(self, gui: Any) -> None:
        session, now = self._session, self._session.task.goal
        for name, (low, high) in session.task.goals.items():
            for index, (least, most) in enumerate(zip(low, high, strict=True)):
                axis = f".{'xyz'[index]}" if len(low) == 3 else ""
                value = float(now[name][index])
                shown = on_scale(value, least, most)
                handle = gui.add_slider(name + axis, float(least), float(most), notch(least, most), shown)
                knob = self._goal_knobs[name, index] = Knob(handle, value)
                self._on_change(handle, partial(self._set_goal, name, index), knob)
        self._button(gui, "Draw another, in a new episode", session.draw_goal)

    def _set_goal(self, name: str, index: int, value: float) -> None:
        low, high = self._session.task.goals[name]
        goal = list(self._session.task.goal[name])
        goal[index] = min(max(value, low[index]), high[index])  # a notch may end beyond its bound
        self._session.set_goal({name: goal})

    def _parameter(self, gui: Any, p: Parameter) -> Knob:
        value = self._session.snapshot().parameters[p.name]
        unit = "" if p.unit == "-" else f" [{p.unit}]"
        handle = gui.add_slider(
            f"{p.name.partition('.')[2]}{unit}",
            p.low,
            p.high,
            notch(p.low, p.high),
            on_scale(value, p.low, p.high),
            disabled=p.low == p.high,
            hint=f"{p.name}: {p.description + ', ' if p.description else ''}nominal {p.nominal:g}{unit}, "
            f"from {p.low:g} to {p.high:g}",
        )
        knob = Knob(handle, value)
        self._on_change(handle, lambda given: self._set_parameter(p, given), knob)
        return knob

    def _set_parameter(self, p: Parameter, value: float) -> None:
        self._session.set_parameters({p.name: min(max(value, p.low), p.high)})

    def _button(self, gui: Any, label: str, wish: Callable[[], None]) -> Any:
        button = gui.add_button(label)

        @button.on_click
        async def _(event: Any) -> None:
            self._session.ask(wish)

        return button

    def _on_change(self, handle: Any, wish: Callable[[Any], None], knob: Knob | None = None) -> None:
        """Ask for `wish` with the value that a reader gives, in the order given; what `show` writes is none."""

        def take(value: Any) -> None:
            try:
                wish(value)
            finally:
                if knob is not None:
                    knob.taken()

        @handle.on_update
        async def _(event: Any) -> None:
            if event.client_id is None:
                return
            value = handle.value
            if knob is not None:
                knob.turn(value)
            self._session.ask(partial(take, value))


def notch(low: float, high: float) -> float:
    """A slider's step: a power of ten, or 1, so that there are `NOTCHES` of them or more."""
    return 10.0 ** math.floor(math.log10((high - low) / NOTCHES)) if high > low else 1.0


def on_scale(value: float, low: float, high: float) -> float:
    """Where a slider shows `value`: at its notch, within the bounds."""
    step = notch(low, high)
    return min(max(round(round(value / step) * step, 12), low), high)


def free_port(host: str, port: int) -> int:
    """`port`, or one that is free if it is 0. Raises ConfigError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise ConfigError(f"no host {host!r}: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is in use; choose another with --port") from None
        raise ConfigError(f"cannot serve at port {port} of {host}: {error.strerror}") from None


def status(now: Snapshot, table_of: Mapping[str, Parameter]) -> str:
    """The panel's first lines, as HTML."""
    off = [
        f"{name} {value:g}{'' if table_of[name].unit == '-' else f' {table_of[name].unit}'}"
        for name, value in now.parameters.items()
        if not math.isclose(value, table_of[name].nominal, rel_tol=1e-5, abs_tol=1e-9)
    ]
    judged = "" if now.time <= now.limit else f" (judged up to {now.limit:g} s)"
    rate = "" if now.real_time is None else f", really {now.real_time:.2f}"
    rows: list[tuple[str, str]] = [
        ("time", f"{now.time:.2f} s of episode {now.episode}, seed {now.seed}"),
        ("clock", "paused" if now.paused else f"{now.speed:g} x real time{rate}"),
        ("return", f"{now.total:.2f}{judged}"),
        ("success so far", _success(now)),
        ("goal met now", "yes" if now.met else "no"),
        ("violations", f"{now.violations} control steps"),
        ("failed episodes", f"{now.falls}" + (f", physics broke {now.faults} times" if now.faults else "")),
        (
            "not nominal",
            ", ".join(off[:MOST_NAMED]) + (f" and {len(off) - MOST_NAMED} more" if off[MOST_NAMED:] else ""),
        ),
    ]
    return table(rows) + f'<p style="{STYLE}; color: #c92a2a">{html.escape(now.note)}</p>'


def table(rows: Iterable[tuple[str, str]]) -> str:
    """What is to be read and what it is, as HTML."""
    cells = "".join(f"<tr><td>{html.escape(a)}</td><td><b>{html.escape(b)}</b></td></tr>" for a, b in rows)
    return f'<table style="{STYLE}">{cells}</table>'


def _success(now: Snapshot) -> str:
    if now.success is None:
        return "not yet"
    return "yes" if now.success else f"no{f' ({now.unmet})' if now.unmet else ''}"
