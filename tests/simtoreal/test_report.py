"""The page an engineer mails to a colleague: what it says, that it is safe, and that a browser shows it."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from simtoreal.differences import compare_bundles
from simtoreal.report import severity_curve, shade, stands_out, worst_episodes, write_report
from simtoreal.statistics import Episode, Estimate, Gate, summarise
from simtoreal.verdict import percent, points, quantity, verdict

sys.path.insert(0, str(Path(__file__).parent))
from browser import CHROMIUM, Browser, chromium

HOSTILE = '<script>alert("x")</script>'
AWKWARD = "机器人 $x_{$ \"'&<img src=x>"
CONDITIONS = ("link.trunk.mass", "ground.friction", "actuator.latency", "all")


def episodes(robust: str = "panda-dr", plain: str = "panda-plain", n: int = 20) -> list[Episode]:
    """`robust` fails 2 of 20 cases of latency and 4 of `all`; `plain` fails the more severe half of all held out."""
    made = []
    for bundle in (robust, plain):
        for suite, conditions in (("nominal", ("nominal",)), ("heldout", CONDITIONS)):
            for condition in conditions:
                for k in range(n):
                    severity = (k + 0.5) / n if suite == "heldout" else 0.0
                    lost = {"actuator.latency": 2, "all": 4}.get(condition, 0) if bundle == robust else n // 2
                    success = suite == "nominal" or k < n - lost
                    made.append(Episode(
                        bundle=bundle, suite=suite, condition=condition, case=f"{condition}/{k}", seed=0,
                        engine="pybullet",
                        return_=400.0 - k if success else 100.0 - k, success=success, length=500 if success else 20 * k,
                        falls=int(not success), violations=k % 3, held_out=suite == "heldout", severity=severity,
                        parameters={"actuator.latency": 0.04 * severity, "link.trunk.mass": 4.7},
                    ))  # fmt: skip
    return made


def write(path: Path, made: list[Episode], **changes: Any) -> str:
    plain: dict[str, Any] = {
        "title": "PandaReach", "replay_command": lambda e: f"simtoreal replay 'out dir' {e.suite}:{e.case}",
        "provenance": {"seed": 0, "versions": {"simtoreal": "0.1.0"}},
    }  # fmt: skip
    if "comparisons" not in changes:
        plain["comparisons"] = compare_bundles(made)
    write_report(path, summarise(made), made, **(plain | changes))
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Counts elements, keeps every address, and the text of each element of a class."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        asking = ("src", "href", "srcset", "action", "xlink:href")
        self.addresses += [str(value) for name, value in attrs if name in asking]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_verdict_says_first_what_matters() -> None:
    made = episodes()
    said = verdict(summarise(made), compare_bundles(made))
    assert said[:3] == [
        "panda-dr succeeds in 92 % [85, 97] of its episodes under conditions it never saw; "
        "panda-plain in 50 % [39, 61].",
        "Weakest condition: for panda-dr actuator.latency, 90 % [70, 97]; "
        "for panda-plain link.trunk.mass, 50 % [30, 70].",
        "With everything changed at once: panda-dr 80 % [58, 92], panda-plain 50 % [30, 70].",
    ]
    assert any(s.startswith("Over the same 80 cases panda-dr is ahead of panda-plain by 4") for s in said)


def test_verdict_of_one_bundle_in_nominal_alone_claims_no_more() -> None:
    made = [e for e in episodes() if e.suite == "nominal" and e.bundle == "panda-dr"]
    said = verdict(summarise(made))
    assert said[0] == "panda-dr succeeds in 100 % [84, 100] of its episodes in suite nominal."
    assert "nothing here tells" in said[-1]


def test_verdict_owns_up_to_ties_faults_and_crowds() -> None:
    made = [replace(e, bundle=name, faults=int(e.case == "all/3")) for name in "abcd" for e in episodes()[:100]]
    said = verdict(summarise(made), compare_bundles(made))
    assert said[0].startswith("Best and worst of 4 bundles: ")
    assert "Physics broke 4 times; see the faults below before trusting a figure." in said
    assert sum("cannot be told apart" in s for s in said) == 1


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        ((0.93, 0.9, 0.95), "93 % [90, 95]"),
        ((1.0, 0.963, 1.0), "100 % [96, 100]"),
        ((0.998, 0.9929, 0.9991), "99.8 % [99, 99.9]"),
        ((0.0, 0.0, 0.004), "0 % [0, 0.4]"),
    ],
)
def test_a_hundred_percent_means_all(rate: tuple[float, float, float], text: str) -> None:
    assert percent(Estimate(*rate)) == text


def test_numbers_carry_the_decimals_that_their_interval_deserves() -> None:
    assert quantity(Estimate(413.71, 398.2, 421.9)) == "414 [398, 422]"
    assert quantity(Estimate(-0.01234, -0.0129, -0.0118)) == "−0.0123 [−0.0129, −0.0118]"
    assert quantity(Estimate(31234.5, 30000, 32000)) == "31\u202f234 [30\u202f000, 32\u202f000]"
    assert quantity(Estimate(7.0, 7.0, 7.0)) == "7.000 [7.000, 7.000]"
    assert quantity(Estimate(0.0, 0.0, 0.0)) == "0 [0, 0]"
    assert quantity(Estimate(5.0, -math.inf, math.inf)) == "5.000 [–, –]"
    assert points(Estimate(-0.012, -0.05, 0.02)) == "−1 point [−5, +2]"
    assert points(Estimate(1.0, -math.inf, math.inf)) == "+100 points [–, –]"


def test_severity_curve_of_a_hand_worked_case() -> None:
    base = episodes()[0]
    made = [replace(base, severity=s, success=ok) for s, ok in
            [(0.0, True), (0.0, True), (0.1, True), (0.2, False), (1.0, False), (math.inf, False)]]  # fmt: skip
    curve = severity_curve(made, top=1.0, confidence=0.95)
    assert [(p.n, p.rate) for p in curve] == [(2, 1.0), (2, 0.5), (1, 0.0)]
    assert [p.severity for p in curve] == pytest.approx([0.0, 0.15, 1.0])
    assert (curve[1].low, curve[1].high) == pytest.approx((0.0945, 0.9055), abs=1e-4)  # Wilson, 1 of 2


@pytest.mark.parametrize("percent_", range(0, 101, 5))
def test_heat_map_text_keeps_a_contrast_of_4_5(percent_: int) -> None:
    def luminance(colour: str) -> float:
        colour = "".join(2 * c for c in colour) if len(colour) == 3 else colour
        channels = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    background, text = (part.split("#")[1] for part in shade(percent_ / 100).split(";"))
    light, dark = sorted((luminance(background), luminance(text)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_worst_episodes_are_failures_by_return() -> None:
    worst = worst_episodes(episodes(), "panda-dr")
    assert [e.case for e in worst] == ["actuator.latency/19", "all/19", "actuator.latency/18", "all/18", "all/17"]
    only_good = worst_episodes([e for e in episodes() if e.suite == "nominal"], "panda-dr", count=2)
    assert [e.return_ for e in only_good] == [381.0, 382.0]


def test_what_stands_out_is_the_parameter_far_from_the_others() -> None:
    made = episodes()
    last = next(e for e in made if e.case == "all/19")
    assert stands_out(last, made, {"actuator.latency": "s"}) == "actuator.latency 0.039 s"


def test_page_holds_figures_commands_gates_and_provenance(tmp_path: Path) -> None:
    made = episodes()
    gate = Gate.parse("success >= 0.5").check(summarise(made))
    page = Tags(write(tmp_path / "report.html", made, gates=[gate], units={"actuator.latency": "s"}))
    shown = (
        "92\u202f%",
        "[85,\u00a097]",
        "not met: weakest is panda-plain",
        "versions.simtoreal",
        "pybullet",
        "simtoreal replay 'out dir' heldout:actuator.latency/19",
        "actuator.latency 0.039 s",
    )
    for text in shown:
        assert text in page.text
    assert page.text.count("simtoreal replay") == 10  # five per bundle


def test_page_is_small_and_asks_for_nothing(tmp_path: Path) -> None:
    text = write(tmp_path / "report.html", episodes(n=50))
    page = Tags(text)
    assert len(text.encode()) < 2_000_000
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.names)
    assert [a for a in page.addresses if not a.startswith(("data:", "#"))] == []
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_same_input_same_page(tmp_path: Path) -> None:
    assert write(tmp_path / "a.html", episodes()) == write(tmp_path / "b.html", episodes())


@pytest.mark.filterwarnings("error")
def test_markup_in_any_name_is_escaped(tmp_path: Path) -> None:
    made = [
        replace(
            e,
            condition=e.condition + HOSTILE,
            case=e.case + HOSTILE,
            engine=HOSTILE,
            parameters={HOSTILE: e.severity},
        )
        for e in episodes(robust=HOSTILE, plain=AWKWARD)
    ]
    hostile = {HOSTILE: HOSTILE}
    path = tmp_path / "report.html"
    text = write(path, made, title=HOSTILE, replay_command=lambda e: e.case, provenance=hostile, units=hostile)
    page = Tags(text)
    assert not {"script", "img"} & set(page.names)
    assert page.handlers == []
    assert HOSTILE in page.text
    assert AWKWARD in page.text


@pytest.mark.filterwarnings("error")
def test_thin_evidence_still_makes_a_page(tmp_path: Path) -> None:
    lone = [replace(episodes()[0], severity=math.inf)]
    page = Tags(write(tmp_path / "report.html", lone, provenance={}))
    assert "The smallest condition has 1 case" in page.text
    assert "there is nothing to draw" in page.text


def test_seen_cases_and_bundles_that_did_not_run_are_labelled(tmp_path: Path) -> None:
    made = [e for e in episodes() if not (e.bundle == "panda-plain" and e.condition == "all")]
    made = [replace(e, held_out=e.held_out and e.case != "ground.friction/0") for e in made]
    with pytest.raises(ValueError, match="only one of them ran heldout:all/0"):
        compare_bundles(made)
    page = Tags(write(tmp_path / "report.html", made, comparisons=()))
    assert "not run" in page.text
    assert "1 left out" in page.text


def test_refusals_leave_nothing_half_written(tmp_path: Path) -> None:
    made = episodes()
    path = tmp_path / "ünï codé.html"
    write(path, made)
    before = path.read_bytes()

    def broken(_: Episode) -> str:
        raise RuntimeError("no command")

    with pytest.raises(RuntimeError, match="no command"):
        write(path, made, replay_command=broken)
    with pytest.raises(ValueError, match="the same bundles and suites"):
        write_report(path, summarise(made[:20]), made, title="", replay_command=broken, provenance={})
    with pytest.raises(FileNotFoundError, match="absent"):
        write(tmp_path / "absent" / "report.html", made)
    with pytest.raises(IsADirectoryError):
        write(tmp_path, made)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None or shutil.which("bash") is None:
        pytest.skip("needs Chromium and bash on PATH")
    with chromium(CHROMIUM) as running:
        yield running


def test_the_browser_check_itself_catches_a_bad_page(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text('<img src="http://127.0.0.1:9/pixel.png"><script>console.error("oh")</script>')
    browser.open(path)
    assert browser.requests() == ["http://127.0.0.1:9/pixel.png"]
    assert any("oh" in complaint for complaint in browser.complaints())


@pytest.mark.parametrize("width", [1100, 390])
@pytest.mark.parametrize("name", ["panda-dr", HOSTILE, "a_name_without_any_break_" * 6])
def test_a_browser_shows_it_without_complaint_or_request(
    browser: Browser, tmp_path: Path, name: str, width: int
) -> None:
    path = tmp_path / "report.html"
    write(path, episodes(robust=name), title=name)
    browser.open(path, width)
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.evaluate("document.title") == name
    assert browser.evaluate("document.querySelector('.lead').innerText.includes('under conditions it never saw')")
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    box = "document.querySelector('figure svg').getBoundingClientRect()"
    assert browser.evaluate(f"{box}.width") > 300
    assert browser.evaluate(f"{box}.height") > 100
    browser.click("code.command")
    assert browser.evaluate("getSelection().toString()") == "simtoreal replay 'out dir' heldout:actuator.latency/19"


def test_it_prints_whole(browser: Browser, tmp_path: Path) -> None:
    write(tmp_path / "report.html", episodes())
    browser.open(tmp_path / "report.html")
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.call("Emulation.setDeviceMetricsOverride", width=680, height=960, deviceScaleFactor=1, mobile=False)
    assert browser.evaluate("document.documentElement.scrollWidth <= 680")  # A4 less its margins [CSS px]
