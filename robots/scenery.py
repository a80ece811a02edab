"""What a camera sees of a scene apart from motion: its light, and the colour and pattern of each thing in it."""

from __future__ import annotations

from collections.abc import Mapping

from simtoreal.robots.parameters import Parameter
from simtoreal.robots.patterns import PATTERNS, texture
from simtoreal.robots.world import Light, World, rendered

CHANNELS = ("red", "green", "blue")
MOST_TURN = 1.0  # [rad]
DARKEST, BRIGHTEST = 0.3, 1.7


class Scenery:
    """Light, colours and textures of a world that is rendered, as parameters.

    `light.yaw` and `.pitch` turn where it comes from, about the vertical and upwards; `light.ambient` and `.diffuse`
    are factors on what comes from everywhere and from there. `NAME.colour.red`, `.green` and `.blue` are added to the
    colour of each shape of a thing of `Looks.names`, from 0 to 1. On each lies the pattern of `NAME.texture.variant`
    (`patterns.pattern`, by its whole part), which makes it brighter and darker by at most `NAME.texture.contrast` of
    its colour, to a tenth.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        names = rendered(world.looks).names
        self._painted = {name: tuple(f"{name}.colour.{channel}" for channel in CHANNELS) for name in names}
        factor = "factor on the light that comes from "
        self.parameters = [
            Parameter("light.yaw", "rad", 0.0, -MOST_TURN, MOST_TURN, "of where light comes from, about the vertical"),
            Parameter("light.pitch", "rad", 0.0, -MOST_TURN, MOST_TURN, "of where light comes from, upwards"),
            Parameter("light.ambient", "-", 1.0, DARKEST, BRIGHTEST, f"{factor}everywhere"),
            Parameter("light.diffuse", "-", 1.0, DARKEST, BRIGHTEST, f"{factor}one side"),
            *(
                Parameter(channel, "-", 0.0, -1.0, 1.0, "added to its colour, from 0 to 1")
                for channels in self._painted.values()
                for channel in channels
            ),
            *(
                parameter
                for name in self._painted
                for parameter in (
                    Parameter(f"{name}.texture.contrast", "-", 0.0, 0.0, 1.0, "of a pattern on it, of its colour"),
                    Parameter(f"{name}.texture.variant", "-", 0.0, 0.0, PATTERNS - 0.01, "whole part: which pattern"),
                )
            ),
        ]
        self._values = {parameter.name: parameter.nominal for parameter in self.parameters}

    def apply(self, values: Mapping[str, float]) -> None:
        self._values = {name: values[name] for name in self._values}
        lit = Light(*(values[f"light.{part}"] for part in ("yaw", "pitch", "ambient", "diffuse")))
        looks = rendered(self._world.looks)
        looks.illuminate(lit)
        for name, channels in self._painted.items():
            red, green, blue = (values[channel] for channel in channels)
            laid = texture(values[f"{name}.texture.contrast"], values[f"{name}.texture.variant"])
            looks.paint(name, (red, green, blue), laid)

    def read_back(self) -> dict[str, float]:
        return dict(self._values)
