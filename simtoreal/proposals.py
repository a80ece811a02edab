"""A robot file proposed from a URDF: what its tree, shapes and limits suggest, for an engineer to look over."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from simtoreal.robots.ballast import SHARES
from simtoreal.robots.dynamics import falling, holding, mass_matrix
from simtoreal.robots.inspection import PHYSICS_DT, inspect_robot, load
from simtoreal.robots.legs import ALIKE, mirror_cosine
from simtoreal.robots.model import MOVING, Joint, ModelError, RobotModel, with_rotor
from simtoreal.robots.tasks.balance import UPRIGHT

CALM = 0.6  # kd dt / I of an explicit damper that does not ring
CROUCH = 0.82  # of a leg's length, the height of its hip when standing
LEG_GAIN, LEG_DAMPING = 5.0, 1 / 35  # [N m/rad] per kg of robot, [s] of kp: as on the A1 and the Aliengo
LEG_EFFORT, LEG_SPEED = 2.0, 20.0  # [N m] per kg of robot, [rad/s], where the URDF gives none: less than theirs
ARM_GAIN, ARM_DAMPING = 5.0, 0.08  # as on the Panda and the iiwa
ARM_EFFORT = 20.0  # [N m] for its gains, where the URDF gives none
ROTOR = 0.1  # [kg m^2] of an arm's joint: 0.2-0.6 in the maker's model of the Panda's successor
LEAST_LEG, LEAST_ARM = 2, 4  # joints
COM_SHARE = 0.45  # of the radius of gyration, how far a trunk's centre of mass moves
PAYLOAD_SHARE = 0.5  # of the robot's mass
SAME_FOOT = 0.2  # of a leg's length, how near to each other the ends of two legs are one foot
STARTS = 8  # of a search for a pose
GOALS = 300  # poses that are looked at for the box of goals
TABLE_EDGE, FLOOR = 0.2, 0.1  # [m] goals are farther and higher than this
IN_REACH = 1e-3  # [m]
AUTHORITY = 4.4  # of what holds a pole that leans as far as it may, a balancer's effort: as the cart-pole's 10 N
TURN = 2.0  # [rad] to each side of a joint without an end

HEADER = """Proposed from {name}. Look at every line: what a URDF does not say is a guess, gains above all.
See it stand:   simtoreal play {family} --robot {file} --video stand.mp4
Train it:       simtoreal train {family} --robot {file} --steps {steps} --out runs/{robot}"""


def propose(urdf: Path, beside: Path) -> tuple[dict[str, Any], str]:
    """A robot file for a URDF, to be written as `beside`, and its first comment lines.

    Raises:
        ModelError: no usable URDF, or neither legs nor an arm nor a pole are found in it.
    """
    found = inspect_robot(urdf)
    model = RobotModel(urdf)
    trunk = model.standing()
    chains = [_chain(model, joint) for joint in model.joints.values() if joint.parent in trunk]
    legs = [
        chain
        for chain in chains
        if chain and len(chain) >= LEAST_LEG and _touches(model, chain[-1].child) and not _rolls(chain)
    ]
    _check_loops(model, legs)
    bad = [problem for problem in found.problems if problem.severity == "error" and not problem.repairable]
    if bad:
        more = f" (and {len(bad) - 1} more: simtoreal inspect {urdf})" if bad[1:] else ""
        raise ModelError(f"{urdf}: {bad[0].element}: {bad[0].text}: mend it before a robot file is proposed{more}")
    arms = [chain for chain in chains if chain and len(chain) >= LEAST_ARM]
    poles = [chain for chain in chains if chain and len(chain) == 2 and chain[0].effort and not chain[1].effort]
    robot = "".join(c if c.isalnum() else "_" for c in urdf.stem)
    data: dict[str, Any] = {"robot": robot, "urdf": _path(urdf, beside.parent)}
    if any(problem.repairable for problem in found.problems if problem.severity == "error"):
        data["repair_inertias"] = True
    if len(legs) >= 2 and len(legs) % 2 == 0 and len({len(leg) for leg in legs}) == 1:
        family, steps = "Walk", 120_000
        data |= _walker(model, legs)
    elif len(arms) == 1:
        family, steps = "Reach", 15_000
        data |= _reacher(model, arms[0])
    elif len(poles) == 1:
        family, steps = "Balance", 20_000
        data |= _balancer(model, *poles[0])
    else:
        found_chains = [chain for chain in chains if chain]
        kinds = ", ".join(f"{len(c)} joint{'s' * (len(c) > 1)} to {c[-1].child}" for c in found_chains)
        wheels = kinds and all(map(_rolls, found_chains))
        raise ModelError(
            f"{urdf}: neither pairs of legs nor one arm nor a pole; root {model.root} has {kinds or 'no joints'}"
            + ("; these are wheels, and a robot file is of no robot on wheels" if wheels else "")
        )
    header = HEADER.format(name=urdf.name, family=family, file=beside, steps=steps, robot=robot)
    return data, header


def _rolls(chain: Sequence[Joint]) -> bool:
    """Is it a wheel, steered or not? Legs of three joints without limits are legs."""
    return chain[-1].kind == "continuous" and len(chain) <= 2


def _path(urdf: Path, folder: Path) -> str:
    """From a folder to a URDF; from the root where they have nothing else in common, for the folder may move then."""
    whole, start = urdf.absolute(), folder.absolute()
    return str(whole) if os.path.commonpath([whole, start]) == whole.anchor else os.path.relpath(whole, start)


def _balancer(model: RobotModel, driven: Joint, pole: Joint) -> dict[str, Any]:
    """A joint with a motor, and one without that hangs on it. The motor may be far stronger than the pole needs: a
    policy that throws it over at every step learns nothing, so its effort is a multiple of what holds the pole."""
    middle, room = 0.5 * (driven.lower + driven.upper), 0.25 * (driven.upper - driven.lower)
    if driven.kind == "continuous":
        middle, room = 0.0, TURN
    names, stands = (driven.name, pole.name), 0.0
    if falling(model, names, (middle, 0.0), 1) < 0.0:
        stands = round(np.pi, 4)  # at 0 it hangs
    enough = _round(AUTHORITY * UPRIGHT * holding(model, names, (middle, stands)))
    if not enough > 0.0:
        raise ModelError(f"{model.path}: what turns on {pole.name} does not fall, or {driven.name} does not move it")
    effort = {"effort": enough} if enough < driven.effort else {}
    return {
        "joints": {
            driven.name: {"at": round(middle, 4), **effort, "range": [middle - 2 * room, middle + 2 * room]},
            pole.name: stands,
        },
        "balance": {"driven": driven.name, "pole": pole.name, "room": round(room, 4)},
    }


def _children(model: RobotModel, link: str) -> list[Joint]:
    return [joint for joint in model.joints.values() if joint.parent == link]


def _chain(model: RobotModel, first: Joint) -> list[Joint] | None:
    """The moving joints from `first` to the end, where no two of them are side by side but a gripper's fingers."""
    if first.kind not in MOVING:
        return None
    out, links = [first], [first.child]
    while links:
        joints = [joint for link in links for joint in _children(model, link)]
        moving = [joint for joint in joints if joint.kind in MOVING]
        if len(moving) == 1 and moving[0].kind != "prismatic":
            out += moving
        elif len(moving) > 1 and any(joint.kind != "prismatic" for joint in moving):
            return None
        links = [joint.child for joint in joints if joint.kind not in MOVING or joint in out]
    return out


def _check_loops(model: RobotModel, legs: Sequence[list[Joint]]) -> None:
    """Raises ModelError where two legs of one side end at one foot: the loop that they close is not in a URDF."""
    ends = []
    for leg in legs:
        names = [joint.name for joint in leg]
        ends.append(np.array(model.chain(_end(model, leg[-1].child), names).position([0.0] * len(leg))))
    for (one, a), (other, b) in combinations(zip(legs, ends, strict=True), 2):
        apart, length = float(np.linalg.norm(a - b)), model.reach(_end(model, one[-1].child))[1]
        if a[1] * b[1] > 0.0 and apart < SAME_FOOT * length:
            raise ModelError(
                f"{model.path}: links {one[-1].child} and {other[-1].child} end {apart:.2g} m from each other, as legs "
                "that share a foot: such a closed loop is not in a URDF, and no robot file can describe it"
            )


def _end(model: RobotModel, link: str) -> str:
    """The last link that is fixed, one after the other, to a link."""
    while fixed := [joint for joint in _children(model, link) if joint.kind not in MOVING]:
        link = fixed[-1].child
    return link


def _touches(model: RobotModel, link: str) -> bool:
    return model.links[_end(model, link)].has_collision


def _walker(model: RobotModel, legs: list[list[Joint]]) -> dict[str, Any]:
    hips = [model.chain(leg[0].child, []).position([]) for leg in legs]
    names = _names(hips)
    feet = [_end(model, leg[-1].child) for leg in legs]
    sides = {}
    for name, (x, y, _) in zip(names, hips, strict=True):
        other = next(
            (n for n, (u, v, _) in zip(names, hips, strict=True) if abs(u - x) < 0.01 and abs(v + y) < 0.01), None
        )
        if other is None:
            raise ModelError(f"{model.path}: the leg at x {x:.3g} m, y {y:.3g} m has none on the other side")
        sides[name] = other
    joints: dict[str, Any] = {}
    poses: dict[str, NDArray[np.float64]] = {}
    for name, leg, foot in zip(names, legs, feet, strict=True):
        if sides[name] in poses:
            pairs = zip(legs[names.index(sides[name])], leg, strict=True)
            poses[name] = poses[sides[name]] * np.sign([mirror_cosine(model, a.name, b.name) for a, b in pairs])
        else:
            poses[name] = _crouch(model, leg, foot)
        joints |= {j.name: _joint(j, q) for j, q in zip(leg, poses[name], strict=True)}
    mass = model.mass
    kp = _round(LEG_GAIN * mass)
    kd = _round(LEG_DAMPING * kp)
    rotor = _steady_rotor(model, [joint for leg in legs for joint in leg], kd)
    turns = zip(names, _rows(hips), hips, strict=True)  # neighbours take turns: a trot, or three legs of six
    first = {name for name, row, (_, y, _) in turns if (row % 2 == 0) != (y > 0)}
    return {
        "joints": joints,
        "drive": {"kp": kp, "kd": kd} | ({"rotor": rotor} if rotor else {}) | _missing(legs, mass),
        **_locked(model, joints),
        "payload": {"link": model.root, "point": [0.0, 0.0, 0.1], "most": _round(PAYLOAD_SHARE * mass)},
        **_movable(model),
        "walk": {
            "legs": dict(zip(names, feet, strict=True)),
            "other_side": {name: other for name, other in sides.items() if hips[names.index(name)][1] < 0},
            "together": [name for name in names if name in first],
        },
    }


def _missing(legs: list[list[Joint]], mass: float) -> dict[str, float]:
    """Limits that the URDF does not give."""
    joints = [joint for leg in legs for joint in leg]
    effort = {} if all(joint.effort for joint in joints) else {"effort": _round(LEG_EFFORT * mass)}
    return effort | ({} if all(joint.velocity for joint in joints) else {"velocity": LEG_SPEED})


def _steady_rotor(model: RobotModel, joints: Sequence[Joint], kd: float) -> float:
    """The rotor's inertia [kg m^2] at which an explicit damping of `kd` stays calm on every link: 0 where it does."""
    least = min(load(joint, model.inertial(joint.child)) for joint in joints)
    needed = kd * PHYSICS_DT / CALM - least
    return 0.0 if needed <= 0.0 else float(f"{1.05 * needed:.2g}")


def _names(hips: Sequence[Sequence[float]]) -> list[str]:
    """FR, FL, RR, RL; with other than two pairs R1, L1, R2 and so on, from the front."""
    rows = _rows(hips)
    sides = ["L" if y > 0 else "R" for _, y, _ in hips]
    if max(rows) == 1:
        return [f"{'FR'[row]}{side}" for row, side in zip(rows, sides, strict=True)]
    return [f"{side}{row + 1}" for row, side in zip(rows, sides, strict=True)]


def _rows(hips: Sequence[Sequence[float]]) -> list[int]:
    """How many rows of legs are before each."""
    rows = sorted({round(x, 2) for x, *_ in hips}, reverse=True)
    return [rows.index(round(x, 2)) for x, *_ in hips]


def _range(joint: Joint) -> tuple[float, float]:
    """Of positions; one turn where there is no end."""
    return (joint.lower, joint.upper) if joint.lower < joint.upper else (-np.pi, np.pi)


def _joint(joint: Joint, at: float) -> float | dict[str, Any]:
    position = round(float(at), 3) + 0.0  # never -0.0
    return position if joint.lower < joint.upper else {"at": position, "range": [-3.14, 3.14]}


def _crouch(model: RobotModel, leg: list[Joint], foot: str) -> NDArray[np.float64]:
    """A leg's positions with the foot under the hip, the knee behind it, and what moves it sideways at zero."""
    names = [joint.name for joint in leg]
    chain, last = model.chain(foot, names), model.chain(leg[-1].child, names)
    low, high = np.array([_range(joint) for joint in leg]).T
    rng = np.random.default_rng(0)
    poses = rng.uniform(low, high, (GOALS, len(leg)))
    swung = [abs(model.axis(name)[1]) > 1.0 - ALIKE for name in names]  # about the axis to the left
    poses[:, [not s for s in swung]] = np.clip(0.0, low, high)[[not s for s in swung]]
    hip = np.array(model.chain(leg[swung.index(True) if any(swung) else 0].child, names).position(poses[0]))
    length = max(float(np.linalg.norm(chain.position(q) - hip)) for q in poses)
    goal = hip - (0.0, 0.0, CROUCH * length)

    def miss(q: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = poses[0].copy()
        whole[swung] = q
        return np.subtract(chain.position(whole), goal)[[0, 2]]

    ends = [
        least_squares(miss, np.clip(q[swung], low[swung] + 1e-6, high[swung] - 1e-6), bounds=(low[swung], high[swung]))
        for q in poses[:STARTS]
    ]
    good = [end.x for end in ends if np.abs(end.fun).max() < 0.01]
    if not good:
        raise ModelError(f"{model.path}: no way to stand on link {foot} was found: give the joints' positions by hand")

    def knee(q: NDArray[np.float64]) -> float:
        whole = poses[0].copy()
        whole[swung] = q
        return last.position(whole)[0] + 0.01 * float(np.abs(q).sum())

    out = poses[0].copy()
    out[swung] = min(good, key=knee)
    return out


def _movable(model: RobotModel) -> dict[str, Any]:
    body = model.inertial(model.root) if model.links[model.root].has_inertial else None
    if body is None or body.mass == 0.0:
        return {}
    reach = COM_SHARE * np.array(body.spread) * np.sqrt(SHARES)
    return {"com": {"link": model.root, "reach": [_round(r) for r in reach]}} if reach.min() > 1e-3 else {}


def _reacher(model: RobotModel, arm: list[Joint]) -> dict[str, Any]:
    names, tool = [joint.name for joint in arm], _end(model, arm[-1].child)
    chain = model.chain(tool, names)
    low, high = np.array([_range(joint) for joint in arm]).T
    middle, half = (low + high) / 2, (high - low) / 2
    rng = np.random.default_rng(0)
    poses = middle + 0.8 * half * rng.uniform(-1.0, 1.0, (GOALS, len(arm)))
    places = np.array([chain.position(q) for q in poses])
    before = places[(places[:, 0] > TABLE_EDGE) & (places[:, 2] > FLOOR)]
    if len(before) < GOALS // 30:
        raise ModelError(f"{model.path}: link {tool} hardly gets before and above the base: is z up, x to the front?")
    corner, far = np.quantile(before, 0.2, axis=0), np.quantile(before, 0.8, axis=0)

    def solved(point: Sequence[float]) -> NDArray[np.float64] | None:
        for start in [poses[int(i)] for i in np.linalg.norm(places - point, axis=1).argsort()[:STARTS]]:
            end = least_squares(lambda q: np.subtract(chain.position(q), point), start, bounds=(low, high))
            if np.linalg.norm(end.fun) < IN_REACH:
                return np.asarray(end.x)
        return None

    while any(solved(point) is None for point in product(*zip(corner, far, strict=True))):
        corner, far = 0.85 * corner + 0.15 * far, 0.15 * corner + 0.85 * far
    above = (corner + far) / 2 + (0.0, 0.0, 0.6 * (far[2] - corner[2]))
    home = solved(above.tolist())
    if home is None:
        home = solved(((corner + far) / 2).tolist())
    assert home is not None
    gains = _arm_gains(model, arm, home)
    drive = max(gains)
    joints: dict[str, Any] = {}
    for joint, q, (kp, kd) in zip(arm, home, gains, strict=True):
        entry = _joint(joint, q)
        entry = entry if isinstance(entry, dict) else {"at": entry}
        joints[joint.name] = entry | ({} if (kp, kd) == drive else {"kp": kp, "kd": kd})
    return {
        "joints": joints,
        "drive": {"kp": drive[0], "kd": drive[1], "rotor": ROTOR, "damping": 0.5},
        **_locked(model, joints),
        "payload": {"link": arm[-1].child, "most": _round(0.1 * model.mass)},
        "reach": {"tool": tool, "low": _rounded(corner), "high": _rounded(far)},
    }


def _arm_gains(model: RobotModel, arm: Sequence[Joint], home: NDArray[np.float64]) -> list[tuple[float, float]]:
    """kp and kd of each joint: as its effort suggests, but no more than stays calm on what it moves at `home`, the
    others free. Some files give a wrist the shoulder's effort."""
    rotors = {joint.child: with_rotor(model.inertial(joint.child), ROTOR, joint.axis) for joint in arm}
    moved = 1.0 / np.diag(np.linalg.inv(mass_matrix(model, [joint.name for joint in arm], home.tolist(), rotors)))
    strongest = max(joint.effort for joint in arm) or ARM_EFFORT
    out = []
    for joint, inertia in zip(arm, moved.tolist(), strict=True):
        kp = ARM_GAIN * (joint.effort or strongest)
        kp = _round(min(kp, CALM * inertia / PHYSICS_DT / ARM_DAMPING))
        out.append((kp, _round(ARM_DAMPING * kp)))
    return out


def _locked(model: RobotModel, joints: Mapping[str, Any]) -> dict[str, Any]:
    rest = [joint.name for joint in model.joints.values() if joint.kind in MOVING and joint.name not in joints]
    return {"lock": rest} if rest else {}


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(x), 3) for x in values]


def _round(value: float) -> float:
    """To two digits."""
    return float(f"{value:.2g}")
