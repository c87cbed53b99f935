"""A run as it is read: the one table, what it does not flatter, the report and the page, and figures in other texts."""

from __future__ import annotations

import json
import lzma
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.answers import Kind
from bench.cli import bench
from bench.drawing import svg
from bench.measure import Interval
from bench.native import BenchError
from bench.report import Figure, Log, grid, machines, standing
from bench.report.blocks import Heading, Items, Table, Text, parse
from bench.report.contents import contents
from bench.report.html import inline, page
from bench.report.markdown import render
from bench.report.shape import plain, shaped
from bench.report.snippets import fill, names
from bench.report.summary import Summary
from bench.report.words import Verdict, faster, times, verdict
from bench.report.write import of_results, stored, write
from support.plotted import BARS, CURVES, PLOTS
from support.summarized import PACKETS, PORTMAP, RUN, SUMMARY, TRIP, UPDATES, around

PLOTTED = {CURVES.name, BARS.name}


def quiet(_: str) -> None:
    """Nobody listens."""


@pytest.mark.parametrize(
    ("low", "middle", "high", "text"),
    [
        (0.46, 0.48, 0.5, "2.1x faster (2.0 - 2.2)"),
        (1.2, 1.25, 1.4, "1.25x slower (1.20 - 1.40)"),
        (0.98, 1.0, 1.03, "same (0.980 - 1.030)"),
        (0.7, 1.0, 1.4, "not told apart (0.700 - 1.400)"),
        (0.009, 0.0096, 0.0101, "104x faster (99 - 111)"),
        (0.95, 0.97, 0.99, "1.031x faster (1.010 - 1.053)"),
        (1.01, 1.02, 1.03, "1.020x slower (1.010 - 1.030)"),
        (0.0, 0.1, 0.2, "10x faster (5 - any)"),
    ],
)
def test_a_ratio_is_told_as_a_factor_above_1(low: float, middle: float, high: float, text: str) -> None:
    """Whichever way it goes, with its interval turned the same way; and "same" only where that is known."""
    assert faster(Interval(low, middle, high, 12)) == text


def test_what_holds_1_is_neither_faster_nor_slower() -> None:
    """However far its middle is from 1."""
    assert verdict(Interval(0.5, 0.6, 1.0, 12)) is Verdict.UNSURE
    assert verdict(Interval(0.5, 0.6, 0.999, 12)) is Verdict.FASTER


def test_factors_near_another_form_are_rounded_to_it() -> None:
    """9.96 is 10, and not 10.0."""
    assert [times(value) for value in (1.0996, 1.996, 9.96, 1234.5)] == ["1.10x", "2.0x", "10x", "1,234x"]


def test_the_one_table_sets_ours_beside_each() -> None:
    """A row an answer, a column for whom it is beside; words before numbers; growth of all that have it."""
    table = standing.table(SUMMARY, Kind.PACKET)
    assert table.header[:2] == ("", "ours")
    (row,) = table.rows
    grown = (
        "ours: same (0.980 - 1.020) at 60,000 published ports beside 1\n"
        f"{PORTMAP}: 7.5x slower (7.3 - 7.7) at 10,000 published ports beside 1"
    )
    assert row == (
        "UDP round trip, published port",
        "9.6 us (9.41 - 9.79)",
        "**1.50x slower (1.47 - 1.53)** than raw veth",
        "**same (0.980 - 1.020)** as nft map",
        f"**4.0x faster (3.9 - 4.1)** than {PORTMAP}",
        grown,
    )
    (doubtful,) = standing.table(SUMMARY, Kind.UPDATE).rows
    assert "doubtful" in doubtful[0]


def test_what_is_not_won_and_what_is_doubtful_is_said() -> None:
    """Everybody who is as fast or faster, growth, a limit that is missed, controls, what was cut off or left out."""
    missed = replace(PACKETS, figures=(*PACKETS.figures, Figure("lost", 3.0, "", count=1, must="0", met=False)))
    text = render(standing.reservations(Summary((missed, UPDATES), SUMMARY.left_out)))
    for line in (
        "published port (layers): 1.50x slower (1.47 - 1.53) than raw veth, the least there is",
        "published port (layers): same (0.980 - 1.020) as nft map",
        "of many (updates): 1.40x slower (1.37 - 1.43) than libnftables",
        "of many (updates): not told apart (0.630 - 1.170) from Go portmap",
        "of many (updates): grows with size: 1.20x slower",
        "layers, lost: 3, must be 0",
        "updates: control: the same twice: RUN INVALID",
        "updates, add one mapping | of many: control: differs",
        "updates: interrupted",
        "storm.jsonl: left out",
    ):
        assert line in text
    assert PORTMAP not in text


def test_where_all_is_won_the_report_says_so() -> None:
    """And does not say that nothing is slower where nothing was compared."""
    won = Summary((replace(PACKETS, answers=(replace(TRIP, besides=TRIP.besides[2:]),)),))
    assert "Nowhere in this table." in render(standing.reservations(won))
    nothing = Summary((replace(PACKETS, answers=()),))
    assert "win" not in render(standing.reservations(nothing))
    assert "None of these scenarios" in render(standing.tables(nothing))


def test_a_smoke_run_says_nothing_and_says_that_once() -> None:
    """Neither figures nor rows of the table are to be believed."""
    smoke = replace(PACKETS, run={**RUN, "extent": "smoke"})
    assert smoke.doubts == ("run only to see that it runs: no figure says anything",)
    assert smoke.doubt(TRIP)
    assert all(smoke.why_not(figure) for figure in smoke.figures)
    text = render(contents(Summary((smoke,)), drawn=()))
    assert text.count("only to see that it runs") == 3  # the table's doubts (the scenario, its row), the scenario


def test_machine_facts_stand_beside_every_result() -> None:
    """Kernel, processor, nft, mitigations and steal: below each scenario, and once in all."""
    text = render(contents(SUMMARY, drawn=PLOTTED))
    facts = machines.facts(SUMMARY).rows
    assert ("kernel", "6.18.0") in facts
    assert ("mitigations", "spectre_v2: Mitigation: Retpolines") in facts
    for told in SUMMARY.scenarios:
        below = text.partition(f"## {told.name}: ")[2]
        assert "Some CPU x 2; Linux 6.18.0; nftables v1.0.6" in below
        assert "hypervisor kvm; mitigations: spectre_v2" in below
    assert "steal 0.1% in the middle block, 5.0% in the worst of 3; 1 had more than 2%: left out" in text


def test_scenarios_of_several_runs_have_the_facts_of_each() -> None:
    """A report of a directory where one scenario was repeated on another kernel shows both."""
    other = replace(UPDATES, run={**RUN, "kernel": "6.19.0"})
    assert ("kernel", "6.18.0\n6.19.0") in machines.facts(Summary((PACKETS, other))).rows


def test_the_report_is_markdown() -> None:
    """Headings, tables whose cells cannot break out, pictures beside it, no HTML of a name's own."""
    text = render(contents(SUMMARY, drawn=PLOTTED), "plots")
    assert text.startswith("# ")
    assert f"![{CURVES.title}](plots/first_packet.svg)" in text
    assert "add one mapping \\| of many<br>**doubtful: see below**" in text
    assert "&lt;b>1&lt;/b>" in text
    assert "<= 2 x" in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    widths = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| ")]
    assert set(widths) == {3, 7}


def test_a_plot_that_was_not_drawn_is_not_linked() -> None:
    """Without matplotlib the report has no broken pictures."""
    assert "![" not in render(contents(SUMMARY, drawn=()))


class Page(HTMLParser):
    """What a browser would see: tags that are closed, and where it would go."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.asked: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in {"src", "href", "xlink:href", "srcset", "data", "action"} or name.startswith("on"):
                self.asked.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else() -> None:
    """No script, no link to anywhere but itself, every tag closed, every name of a drawing its own."""
    drawings = {plot.name: svg(plot) for plot in PLOTS}
    text = page("Figures & <more>", contents(SUMMARY, drawn=drawings), drawings)
    seen = Page()
    seen.feed(text)
    assert not seen.open
    assert not seen.tags & {"script", "link", "img", "iframe", "object"}
    assert all(one.startswith("#") and one[1:] in seen.ids for one in seen.asked)
    assert len(seen.ids) == len(set(seen.ids))
    assert "url(http" not in text
    assert "@import" not in text
    assert "<title>Figures &amp; &lt;more&gt;</title>" in text
    assert "&lt;b&gt;1&lt;/b&gt;" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_a_drawing_takes_the_colours_of_the_page() -> None:
    """Light on dark where the page is: no colour of its own is left, nor a size."""
    drawn = inline("layers", svg(BARS))
    assert "#0072b2" not in drawn
    assert "var(--ours)" in drawn
    assert "var(--paper)" in drawn
    assert " width=" not in drawn.partition(">")[0]
    assert 'id="layers-' in drawn


def test_a_table_of_a_scenario_comes_back_from_markdown() -> None:
    """Title, header, cells with what would end them."""
    text = grid("sides", ("", "a|b"), [("x\ny", "1"), ("**z**", "")]) + "\na remark\n"
    assert list(parse(text)) == [
        Heading(3, "sides"),
        Table(("", "a|b"), (("x\ny", "1"), ("**z**", ""))),
        Text("a remark"),
    ]


def test_a_list_is_rendered_as_one() -> None:
    """An item a line."""
    assert render([Items(("a", "b <i>"))]) == "* a\n* b &lt;i>\n"


def test_a_summary_comes_back_from_json() -> None:
    """Equal to what it was: reports and comparisons need no raw results."""
    text = json.dumps(SUMMARY.to_json())
    assert Summary.from_json(json.loads(text)) == SUMMARY
    ratio = json.loads(text)["scenarios"]["updates"]["figures"][1]
    assert (ratio["valid"], ratio["why"]) == (
        False,
        "the machine differs from itself by up to 30%, and this by no more",
    )


@pytest.mark.parametrize("fields", [{}, {"version": 1}, {"version": 2}, {"version": 2, "scenarios": {"x": {}}}])
def test_what_is_no_summary_is_refused(fields: dict[str, object], tmp_path: Path) -> None:
    """With the file, and what to do."""
    (tmp_path / "summary.json").write_text(json.dumps(fields))
    with pytest.raises(BenchError, match=r"could not read the summary .*summary.json: "):
        stored(tmp_path)


def test_values_keep_their_types() -> None:
    """A value of another type is refused and not carried on; unknown fields are left out."""
    interval = Interval(1.0, 2.0, 3.0, 4)
    assert shaped(Interval, {**plain(interval), "later": 1}) == interval
    with pytest.raises(ValueError, match="this is no Interval"):
        shaped(Interval, {**plain(interval), "count": "4"})
    with pytest.raises(ValueError, match="this is no Interval"):
        shaped(Interval, {"low": 1.0})


def test_snippets_are_drawn_from_the_summary() -> None:
    """Between marks, on lines of their own or within one; what is around stays; a second time changes nothing."""
    text = (
        "# Title\n\n<!-- bench: answers per packet -->\nby hand\n<!-- /bench -->\n"
        "A trip takes <!-- bench: value layers: round trip, ours -->?<!-- /bench --> here, "
        f"<!-- bench: value layers: {TRIP.what}: {PORTMAP} --><!-- /bench -->.\n"
        "<!-- bench: plot layers --><!-- /bench -->\n<!-- bench: figures layers -->\n<!-- /bench -->\n"
        "<!-- bench: machine -->\n<!-- /bench -->\n<!-- bench: not won -->\n<!-- /bench -->\n"
    )
    drawn = fill(text, SUMMARY, "bench/results/plots")
    assert "round trip, ours -->9.6 us (9.4 - 9.8)<!-- /bench --> here" in drawn
    assert "4.0x faster (3.9 - 4.1)<!-- /bench -->" in drawn
    assert f"![{BARS.title}](bench/results/plots/layers.svg)" in drawn
    assert "by hand" not in drawn
    assert "**same (0.980 - 1.020)** as nft map" in drawn
    assert fill(drawn, SUMMARY, "bench/results/plots") == drawn
    assert names(drawn)[0] == "answers per packet"


def test_a_text_without_marks_stays_as_it_is() -> None:
    """Also one that speaks of comments."""
    assert fill("# Title <!-- other -->\n", SUMMARY, "plots") == "# Title <!-- other -->\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<!-- bench: nothing --><!-- /bench -->", 'snippet "nothing"'),
        ("<!-- bench: plot none --><!-- /bench -->", 'snippet "plot none"'),
        ("<!-- bench: figures none --><!-- /bench -->", 'scenario "none"'),
        ("<!-- bench: value layers: none --><!-- /bench -->", 'value "layers: none"'),
        ("<!-- bench: value updates: Go portmap / ours --><!-- /bench -->", "differs from itself"),
        ("<!-- bench: value updates: add one mapping | of many: libnftables --><!-- /bench -->", "control: differs"),
        ("<!-- bench: machine -->", "each has an end of its own"),
        ("<!-- bench: machine --><!-- bench: machine --><!-- /bench -->", "each has an end of its own"),
        ("<!-- /bench -->", "each has an end of its own"),
    ],
)
def test_a_snippet_that_cannot_be_drawn_is_an_error(text: str, why: str) -> None:
    """A wrong name, an end that is missing, or a figure that says nothing: no text has that."""
    with pytest.raises(ValueError, match=why):
        fill(text, SUMMARY, "plots")


def test_readme_writes_texts_and_checks_them(tmp_path: Path) -> None:
    """``--check`` fails where a text was edited, and not after it was drawn anew."""
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY.to_json()))
    text = tmp_path / "docs" / "text.md"
    text.parent.mkdir()
    text.write_text("<!-- bench: plot layers -->\n<!-- /bench -->\n")
    check = ["readme", str(tmp_path), str(text), "--check"]
    stale = CliRunner().invoke(bench, check)
    assert stale.exit_code == 1
    assert "text.md are not those of" in stale.output
    assert CliRunner().invoke(bench, check[:3]).exit_code == 0
    assert "](../plots/layers.svg)" in text.read_text()
    assert CliRunner().invoke(bench, check).exit_code == 0


def lines(directory: Path, name: str, *, end: bool = True) -> str:
    """Raw results, as a scenario writes them."""
    path = directory / f"{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        log = Log(file, {**RUN, "scenario": name}, quiet)
        log.sample("rss", "idle", 26.0)
        log.block(0, 0.0, 0.5)
        if end:
            log.end()
    return path.read_text()


def test_packed_results_are_read(tmp_path: Path) -> None:
    """As those that are not; which are read where there are both."""
    text = lines(tmp_path, "agent_cost")
    (whole,) = of_results(tmp_path).scenarios
    (tmp_path / "agent_cost.jsonl").unlink()
    with lzma.open(tmp_path / "agent_cost.jsonl.xz", "wt") as file:
        file.write(text)
    assert of_results(tmp_path).scenarios == (whole,)
    assert not whole.cut


@pytest.mark.parametrize("keep", [1.0, 0.97])
def test_an_interrupted_run_is_told_as_far_as_it_came(tmp_path: Path, keep: float) -> None:
    """Whether it ended between two lines or within one, and the report says so."""
    text = lines(tmp_path, "agent_cost", end=False)
    (tmp_path / "agent_cost.jsonl").write_text(text[: int(len(text) * keep)])
    summary = of_results(tmp_path)
    (told,) = summary.scenarios
    assert "interrupted" in told.cut
    assert [one.value for one in told.figures if one.what.startswith("idle: resident")] == [26.0]
    assert "agent_cost: interrupted" in render(contents(summary, drawn=()))


def test_files_that_are_no_results_are_left_out_and_named(tmp_path: Path) -> None:
    """An empty one, damage in the middle, a broken archive: the rest is reported."""
    text = lines(tmp_path, "agent_cost")
    (tmp_path / "storm.jsonl").write_text("")
    (tmp_path / "repair.jsonl").write_text(text.replace('{"kind": "sample"', "{kind", 1))
    (tmp_path / "continuity.jsonl.xz").write_bytes(lzma.compress(text.encode())[:-20])
    summary = of_results(tmp_path)
    assert [told.name for told in summary.scenarios] == ["agent_cost"]
    assert set(summary.left_out) == {"storm.jsonl", "repair.jsonl", "continuity.jsonl.xz"}
    assert "line 2 is no JSON" in summary.left_out["repair.jsonl"]


def test_a_directory_without_results_is_an_error(tmp_path: Path) -> None:
    """That says how to make some."""
    with pytest.raises(BenchError, match=r"there are no results; dpctl bench run --out DIR"):
        of_results(tmp_path)


def test_all_files_are_written(tmp_path: Path) -> None:
    """Summary, report, page and plots; again from the summary alone, and equal."""
    write(SUMMARY, tmp_path, quiet)
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    expected = {"summary.json", "report.md", "report.html"}
    expected |= {f"plots/{name}.{kind}" for name in PLOTTED for kind in ("svg", "png")}
    assert {str(name) for name in files} == expected
    done = CliRunner().invoke(bench, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == files


def test_without_matplotlib_all_but_the_plots_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is said how to have them."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("bench.drawing", "bench.sheets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("bench.drawing", raising=False)
    said: list[str] = []
    text = write(SUMMARY, tmp_path, said.append)
    assert "pip install 'dataplane[bench]'" in said[0]
    assert "![" not in text
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "plots").exists()


def test_answers_keep_their_intervals() -> None:
    """What the table is drawn from is what the scenario said."""
    assert around(2.0).contains(2.0)
    assert Summary.from_json(json.loads(json.dumps(SUMMARY.to_json()))).scenarios[0].answers == (TRIP,)
