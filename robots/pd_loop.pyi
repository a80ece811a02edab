from simtoreal.robots.actuators import Gains
from simtoreal.robots.world import EngineCalls, State

def run(
    calls: EngineCalls,
    gains: Gains,
    state: State,
    targets: list[list[float]],
    kept: list[tuple[bool, bool]],
    nothing: State,
    bound: float,
    compensates_gravity: bool,
    /,
) -> tuple[list[State], State, list[float]]: ...
