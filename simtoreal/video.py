"""Film files: frames of an environment into an .mp4 or .gif that appears only once it is whole."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simtoreal.config import ConfigError
from simtoreal.runs import output_path

FORMATS = (".mp4", ".gif")
FPS = 30  # frames for each simulated second


@contextmanager
def filming(
    env: gym.Env[Any, Any], video: Path | None, control_dt: float, *, force: bool
) -> Iterator[Callable[[], None] | None]:
    """A function to be called after each control step of `env`, that films into the file `video` (.mp4 or .gif); None
    when there is no video.

    A film has 30 frames for each simulated second, whatever the control rate: each shows the first control step at or
    after its end. The file appears only once it is complete. Raises ConfigError for a file that cannot be written, or
    is there and `force` is False.
    """
    if video is None:
        yield None
        return
    if video.suffix not in FORMATS:
        raise ConfigError(f"{video}: a film is {' or '.join(FORMATS)}")
    if not video.parent.is_dir():
        raise ConfigError(f"{video}: there is no folder {video.parent}")
    output_path(video)
    if os.path.lexists(video) and not (force and video.is_file()):
        raise ConfigError(f"{video} exists; choose another file{' or pass --force' if video.is_file() else ''}")
    partial = video.with_name(f".{video.stem}.partial{video.suffix}")
    _check_writable(video, partial)
    try:
        film = _Film(video, partial, control_dt)
        try:
            yield lambda: film.step(lambda: frame(env))
        except BaseException:
            with suppress(FilmError):  # what ended the film is the fault to tell
                film.close()
            raise
        film.close()
        film.check()
        os.replace(partial, video)
    finally:
        partial.unlink(missing_ok=True)


def _check_writable(video: Path, partial: Path) -> None:
    """Raises ConfigError unless `partial` can be made: permissions do not tell, of /proc or a full disk, say."""
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise ConfigError(f"{video}: the folder {video.parent} cannot be written to: {error.strerror}") from None


class FilmError(RuntimeError):
    """A film could not be written."""


class _Film:
    """The frames of the film `video`, written into the file `partial`."""

    def __init__(self, video: Path, partial: Path, control_dt: float) -> None:
        self._video, self._partial, self._frames = video, partial, 0
        self._control_dt, self._steps = control_dt, 0
        self._writer = _Gif(partial) if video.suffix == ".gif" else _mp4(partial)

    def step(self, look: Callable[[], NDArray[np.uint8]]) -> None:
        """A control step has passed: add the frames that are due, if any, of what `look` shows."""
        self._steps += 1
        due = math.ceil(FPS * self._steps * self._control_dt - 1e-6) - self._frames
        if not due:
            return
        image = look()
        with self._writing():
            for _ in range(due):
                self._writer.append_data(image)
                self._frames += 1

    def close(self) -> None:
        with self._writing():
            self._writer.close()

    def check(self) -> None:
        """Raises FilmError unless every frame is in the file: ffmpeg ends without a word when a disk is full."""
        if isinstance(self._writer, _Gif):
            return  # written in this process, which would have said so
        import imageio_ffmpeg

        try:
            found, _ = imageio_ffmpeg.count_frames_and_secs(str(self._partial))
        except RuntimeError:  # not readable at all
            found = 0
        if found != self._frames:
            raise FilmError(f"{self._video}: only {found} of {self._frames} frames could be written; is the disk full?")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = str(error).strip().splitlines()
            raise FilmError(f"{self._video} could not be written: {reason[0] if reason else error!r}") from error


def _mp4(path: Path) -> Any:
    import imageio.v2 as imageio

    return imageio.get_writer(str(path), fps=FPS, macro_block_size=8, quality=7)


class _Gif:
    """Frames for an animation, written when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images: list[Image.Image] = []

    def append_data(self, image: NDArray[np.uint8]) -> None:
        self._images.append(Image.fromarray(image))

    def close(self) -> None:
        if not self._images:
            return  # nothing was shown
        first, *others = self._images
        ends = [round(100 * k / FPS) for k in range(len(self._images) + 1)]  # this format counts hundredths
        durations = [10 * (end - begin) for begin, end in itertools.pairwise(ends)]  # [ms]
        first.save(self._path, save_all=True, append_images=others, duration=durations, loop=0)


def frame(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    """The current image [h, w, 3]. Raises ConfigError when the environment lacks what it needs to draw."""
    try:
        image: Any = env.render()
    except gym.error.Error as error:
        raise ConfigError(f"no image of {env.spec.id if env.spec else env}: {error}") from error
    return np.asarray(image, np.uint8)
