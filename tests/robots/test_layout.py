import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from simtoreal.robots.layout import ChoiceLayout, CommandLayout, Field, ImageLayout, Layout

OBSERVATION = Layout(Field("q", 2, "rad"), Field("error", 2, "rad"), Field("height", 1, "m"))
COMMAND = CommandLayout(
    Field("target", 2, "rad"),
    scale=[0.1, 0.2],
    low=[-1.0, -1.0],
    high=[1.0, 1.5],
    offset=[0.0, 0.5],
    relative_to=("q", "error"),
)


def test_fields_are_packed_in_their_order_and_not_in_that_of_the_values():
    packed = OBSERVATION.pack({"height": [5.0], "error": np.array([3.0, 4.0]), "q": (1.0, 2.0)})
    assert packed.dtype == np.float32
    assert packed.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert OBSERVATION.size == 5
    assert OBSERVATION.space() == Box(-np.inf, np.inf, (5,), np.float32)


@pytest.mark.parametrize("height", [[], [1.0, 2.0]])
def test_a_value_of_another_size_is_refused(height):
    with pytest.raises(ValueError, match="5"):
        OBSERVATION.pack({"q": [1.0, 2.0], "error": [3.0, 4.0], "height": height})


def test_a_short_value_is_not_stretched():
    with pytest.raises(ValueError, match="5"):
        OBSERVATION.pack({"q": [1.0], "error": [3.0, 4.0], "height": [5.0]})


def test_a_field_checks_itself():
    with pytest.raises(ValueError, match="'q' must have at least one element"):
        Field("q", 0, "rad")
    with pytest.raises(ValueError, match="'q' has 2 elements but 1 labels"):
        Field("q", 2, "rad", labels=("one",))
    with pytest.raises(ValueError, match="'q' appears twice"):
        Layout(Field("q", 1, "rad"), Field("q", 2, "rad"))


def test_a_command_is_offset_scale_and_reference_within_limits():
    """0 + .1 a0 + .3 + .1 and .5 + .2 a1 - .2 + .1, cut at -1..1 and -1..1.5."""
    obs = np.array([0.3, -0.2, 0.1, 0.1, 9.0], np.float32)
    command = COMMAND.command(np.array([1.0, -0.5]), obs, OBSERVATION)
    np.testing.assert_allclose(command, [0.5, 0.3], atol=1e-7)
    far = np.array([5.0, -5.0, 0.0, 0.0, 9.0], np.float32)
    assert COMMAND.command(np.array([0.0, 0.0]), far, OBSERVATION).tolist() == [1.0, -1.0]


CAR = CommandLayout(
    Field("angle", 1, "rad"),
    Field("speed", 1, "m/s"),
    scale=[0.4, 1.25],
    offset=[0.0, 1.25],
    low=[-0.4, 0],
    high=[0.4, 2.5],
)
SHOWN = Layout(Field("last_angle", 1, "rad"), Field("height", 1, "m"), Field("last_speed", 1, "m/s"))


def test_a_command_that_changes_the_last_one_counts_from_the_fields_that_show_it():
    """From 0.1 rad and 2.4 m/s: 0.5 * 0.4 * 0.5 more, and up to 0.2 * 1.25 m/s, cut at 2.5."""
    changing = CAR.changing([0.5, 0.2], SHOWN)
    assert changing.relative_to == ("last_angle", "last_speed")
    obs = np.array([0.1, 7.0, 2.4], np.float32)
    for action, command in (([0.0, 0.0], [0.1, 2.4]), ([0.5, -1.0], [0.2, 2.15]), ([-1.0, 1.0], [-0.1, 2.5])):
        np.testing.assert_allclose(changing.command(np.array(action), obs, SHOWN), command, atol=1e-7)
    np.testing.assert_allclose(changing.action(np.array([0.2, 2.15]), obs, SHOWN), [0.5, -1.0], atol=1e-6)
    assert CAR.offset.tolist() == [0.0, 1.25]


def test_fields_that_are_shorter_than_the_command_are_laid_end_to_end():
    """One number each of (1, 2) and the two of (10, 20) on top."""
    layout = Layout(Field("b", 1, "m"), Field("both", 2, "m"), Field("a", 1, "m"))
    command = CommandLayout(
        Field("x", 2, "m"), scale=[1, 1], low=[-99, -99], high=[99, 99], relative_to=("a", "b", "both")
    )
    obs = np.array([2.0, 10.0, 20.0, 1.0], np.float32)
    assert command.command(np.zeros(2), obs, layout).tolist() == [11.0, 22.0]


@pytest.mark.parametrize(
    "fields", [[Field("last_angle", 1, "rad")], [Field("last_angle", 1, "rad"), Field("last_speed", 2, "m/s")]]
)
def test_a_last_command_that_is_not_shown_cannot_be_changed(fields):
    with pytest.raises(ValueError, match=r"does not show the last command: it has no last_speed \[1\]"):
        CAR.changing([0.5, 0.2], Layout(*fields))


def test_an_action_beyond_one_counts_as_one():
    obs = np.zeros(5, np.float32)
    a = COMMAND.command(np.array([7.0, -7.0]), obs, OBSERVATION)
    assert a.tolist() == COMMAND.command(np.array([1.0, -1.0]), obs, OBSERVATION).tolist()


def test_action_is_the_inverse_of_command():
    obs = np.array([0.3, -0.2, 0.1, 0.1, 9.0], np.float32)
    action = np.array([0.25, -0.75])
    np.testing.assert_allclose(COMMAND.action(COMMAND.command(action, obs, OBSERVATION), obs, OBSERVATION), action)


@pytest.mark.parametrize("change", [{"low": [0.0]}, {"offset": [0.0] * 3}, {"scale": [1.0, 0.0]}])
def test_a_command_layout_checks_itself(change):
    good = {"scale": [1.0, 1.0], "low": [-1.0, -1.0], "high": [1.0, 1.0]}
    with pytest.raises(ValueError, match="command"):
        CommandLayout(Field("target", 2, "rad"), **(good | change))


def test_choices_stand_for_commands_in_even_steps():
    """Three of 4 N apart around 2 N: to a policy of [-1, 1] they are -1, 0 and 1."""
    layout, seen = ChoiceLayout(Field("force", 1, "N"), (-2, 2, 6)), Layout(Field("q", 1, "rad"))
    assert layout.space() == Discrete(3)
    assert [layout.numbers(choice).tolist() for choice in (0, 1, np.int64(2))] == [[-1.0], [0.0], [1.0]]
    for action, command in ((-1.0, -2.0), (-0.6, -2.0), (-0.4, 2.0), (0.4, 2.0), (0.6, 6.0), (9.0, 6.0)):
        assert layout.command(np.array([action]), np.zeros(1), seen).tolist() == [command]
        assert layout.action(np.array([command]), np.zeros(1), seen)[0] == (command - 2.0) / 4.0
    assert layout.fields[0].description == "one of -2, 2, 6; else the nearest"
    assert np.isnan(layout.numbers(np.nan)).all()


@pytest.mark.parametrize(("action", "words"), [(3, "from 0 to 2"), (-1, "got -1"), (0.5, "whole"), ([1], "shape")])
def test_what_is_no_choice_is_refused(action, words):
    with pytest.raises(ValueError, match=words):
        ChoiceLayout(Field("force", 1, "N"), (-2, 2, 6)).numbers(action)


@pytest.mark.parametrize("commands", [(1.0,), (1.0, 1.0), (2.0, 1.0), (0.0, 1.0, 3.0)])
def test_choices_rise_in_even_steps(commands):
    with pytest.raises(ValueError, match="two or more that rise in even steps"):
        ChoiceLayout(Field("force", 1, "N"), commands)


def test_an_image_is_its_layout_s_shape_and_bytes():
    layout = ImageLayout("image", (2, 3, 4), "camera", "two frames")
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert layout.pack({"image": image}) in layout.space()
    assert (layout.fields[0].size, layout.fields[0].unit) == (24, "1/255")
    for other in (image.astype(float), image[:, :, :3]):
        with pytest.raises(ValueError, match=r"an image must be uint8 \[2, 3, 4\], got"):
            layout.pack({"image": other})
