"""Drives against the motions that follow from their laws."""

from dataclasses import replace

import numpy as np
import pytest

from simtoreal.robots.actuators import PDDrive
from simtoreal.robots.motors import (
    ActuatorNetwork,
    DCMotor,
    DCMotorDrive,
    NetworkDrive,
    VelocityDrive,
    position_drive,
)
from simtoreal.robots.tasks.walk import A1Walk

DT = 0.0005  # [s]
MASS = 2.0  # [kg] of the slider


def nominal(drive, **values):
    drive.apply({p.name: p.nominal for p in drive.parameters} | {f"actuator.{k}": v for k, v in values.items()})
    return drive


def speeds(world, drive, command, steps, q=0.0, qd=0.0):
    """Of the slider [steps]."""
    w = world("slider", physics_dt=DT)
    w.reset([q], [qd])
    drive.start(command)
    state, out = w.state(), []
    for _ in range(steps):
        state = w.step(drive.torque(state, command, ()))
        out.append(state[1][0])
    return np.array(out)


def test_a_velocity_drive_approaches_its_target(world):
    """m v' = kd (target - v): v = target (1 - exp(-kd t / m)); twice as fast with twice the gain."""
    t = DT * np.arange(1, 1001)
    for factor in (1.0, 1.5):
        found = speeds(world, nominal(VelocityDrive([10.0], [1000.0]), kd=factor), [3.0], 1000)
        assert found == pytest.approx(3.0 * (1.0 - np.exp(-10.0 * factor * t / MASS)), abs=0.01)
    limited = speeds(world, nominal(VelocityDrive([10.0], [8.0]), torque_limit=0.5, strength=0.8), [3.0], 100)
    assert limited[-1] == pytest.approx(0.8 * 4.0 / MASS * 100 * DT, rel=1e-6)


MOTOR = DCMotor(stall_torque=(40.0,), free_speed=(5.0,), voltage=24.0)


@pytest.mark.parametrize("volts", [24.0, 12.0, 28.0])
def test_a_motor_runs_up_to_the_speed_that_its_voltage_gives(world, volts):
    """At full command m v' = stall (s - v / free), s the voltage's share: v = s free (1 - exp(-stall t / free m))."""
    drive = DCMotorDrive([1e6], [0.0], [1e6], MOTOR)
    drive.apply({p.name: p.nominal for p in drive.parameters} | {"battery.voltage": volts})
    t = DT * np.arange(1, 4001)
    found = speeds(world, drive, [1000.0], 4000)
    top = 5.0 * volts / 24.0
    assert found == pytest.approx(top * (1.0 - np.exp(-40.0 * t / (5.0 * MASS))), abs=0.01)
    assert found[-1] == pytest.approx(top, rel=1e-3)


def test_a_motor_that_is_driven_too_fast_asks_for_nothing_more_but_brakes_in_full():
    drive = nominal(DCMotorDrive([1e6], [0.0], [1e6], MOTOR))
    assert drive.torque(([0.0], [6.0]), [1000.0], ()) == [0.0]
    assert drive.torque(([0.0], [2.5]), [1000.0], ()) == pytest.approx([20.0])
    assert drive.torque(([0.0], [2.5]), [-1000.0], ()) == pytest.approx([-60.0])
    assert drive.torque(([0.0], [-6.0]), [-1000.0], ()) == [0.0]


def test_a_motor_is_also_held_by_its_current_limit_and_is_ideal_within_both():
    drive, ideal = (
        nominal(made) for made in (DCMotorDrive([50.0], [3.0], [15.0], MOTOR), PDDrive([50.0], [3.0], [15.0]))
    )
    for q, qd in ((0.1, 0.5), (-0.2, -1.0), (0.9, 0.0), (-3.0, 1.0)):
        assert drive.torque(([q], [qd]), [0.0], ()) == ideal.torque(([q], [qd]), [0.0], ())
    assert drive.torque(([-9.0], [0.0]), [0.0], ()) == [15.0]


@pytest.mark.parametrize("change", [{"stall_torque": (0.0,)}, {"free_speed": (-1.0,)}, {"voltage": 0.0}])
def test_a_motor_of_nothing_is_refused(change):
    with pytest.raises(ValueError, match="above 0"):
        DCMotor(**({"stall_torque": (1.0,), "free_speed": (1.0,), "voltage": 1.0} | change))


def linear(kp, kd):
    """A network that is a PD controller at its first instant."""

    def network(rows):
        k = rows.shape[1] // 2
        return kp * rows[:, 0] - kd * rows[:, k]

    return network


def test_a_network_that_learned_a_pd_controller_is_one(world):
    learned = nominal(NetworkDrive(ActuatorNetwork(linear(200.0, 6.0), (0.0, 0.01, 0.02)), [50.0], DT))
    ideal = nominal(PDDrive([200.0], [6.0], [50.0]))
    found, wanted = (speeds(world, drive, [0.5], 800) for drive in (learned, ideal))
    assert found == pytest.approx(wanted, abs=1e-4)
    assert np.abs(wanted).max() > 1.0


def test_a_network_sees_each_instant_as_long_ago_as_it_was():
    """Errors newest first, then velocities; before the episode the robot was as it is."""
    seen = []

    def network(rows):
        seen.append(rows[0].tolist())
        return np.zeros(len(rows), np.float32)

    drive = nominal(NetworkDrive(ActuatorNetwork(network, (0.0, 0.002)), [1.0], 0.001))
    drive.encoder_bias = [0.25]
    drive.start([0.0])
    for k in range(4):
        drive.torque(([float(-k)], [10.0 * k]), [0.0], ())
    assert seen == [
        [-0.25, -0.25, 0.0, 0.0],
        [0.75, -0.25, 10.0, 0.0],
        [1.75, -0.25, 20.0, 0.0],
        [2.75, 0.75, 30.0, 10.0],
    ]
    drive.start([0.0])
    drive.torque(([5.0], [7.0]), [0.0], ())
    assert seen[-1] == [-5.25, -5.25, 7.0, 7.0]


def test_a_network_s_torque_is_limited_weakened_and_carried():
    drive = nominal(
        NetworkDrive(ActuatorNetwork(linear(100.0, 0.0), (0.0,)), [10.0, 10.0], 0.001), torque_limit=0.5, strength=0.8
    )
    assert drive.torque(([-9.0, 0.0], [0.0, 0.0]), [0.0, 0.0], [1.0, 2.0]) == pytest.approx([4.0, 1.6])
    assert drive.read_back() == {
        "actuator.strength": 0.8,
        "actuator.torque_limit": 0.5,
        "actuator.latency": 0.0,
        "actuator.jitter": 0.0,
    }


@pytest.mark.parametrize("lags", [(), (-0.01,)])
def test_lags_that_are_none_are_refused(lags):
    with pytest.raises(ValueError, match="lags"):
        ActuatorNetwork(linear(1.0, 1.0), lags)


def test_the_robot_says_which_drive_it_has():
    made = [position_drive(actuator, [1.0], [1.0], [1.0], 0.001) for actuator in (None, MOTOR)]
    assert [type(drive) for drive in made] == [PDDrive, DCMotorDrive]
    assert made[0].gains is not None
    assert made[1].gains is None


def test_a_walk_on_motors_has_a_battery(engine):
    """At nominal voltage a standing A1 asks for less than its motors give; at half, with weak motors, it sags."""
    weak = replace(A1Walk.robot, actuator=DCMotor((30.0,) * 12, (25.0,) * 12, 22.0))
    task = type("WeakWalk", (A1Walk,), {"robot": weak, "__doc__": "An A1 on motors."})
    heights = []
    for volts, strength in ((22.0, 1.0), (11.0, 0.4)):
        env = task(engine=engine)
        env.reset(seed=0, options={"parameters": {"battery.voltage": volts, "actuator.strength": strength}})
        assert env.read_parameters()["battery.voltage"] == volts
        for _ in range(40):
            env.step(np.zeros(12, np.float32))
        heights.append(env.world.state()[2][2])
        env.close()
    assert heights[0] > heights[1] + 0.02
