"""The page of results: its numbers are those of the result files, and it is whole in itself."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import statistics
import subprocess
from html import escape

import pytest
from helpers import result_files

from experiments import report, results
from experiments.config.catalog import catalog
from experiments.config.sweep import run_configs
from experiments.reporting import run_data
from experiments.reporting.published import published, score_at

DEMO = ("experiment=demo", "seed=0,1")
NASTY = '<img src=x onerror=alert(1)> & "quotes"'
VOID = {"meta", "img", "br", "link", "hr", "input"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE = 390  # pixels


class Page(html.parser.HTMLParser):
    """A page as a list of (tag, attributes, tags around it) and the text in each cell of a row."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.rows, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes, [*self.open]))
        if tag not in VOID:
            self.open.append((tag, attributes.get("class", "")))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.text += data
        if any(tag in ("td", "th") for tag, _ in self.open):
            self.rows[-1][-1] += data

    def all(self, name):
        return [(attributes, around) for tag, attributes, around in self.tags if tag == name]

    def row(self, name):
        (found,) = (row for row in self.rows if row and row[0] == name)
        return found


def build(outputs, *arguments):
    assert report.main([*arguments, f"paths.outputs={outputs}"]) == 0
    return (outputs / report.PAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Six runs of the demo: five finished, one failed with an error that is markup."""
    outputs = tmp_path_factory.mktemp("report")
    configs = run_configs(DEMO)
    done = result_files.write(outputs, *DEMO, leave=lambda config: config == configs[-1])
    result_files.fail(outputs, configs[-1], f"ValueError: {NASTY}")
    return outputs, done, build(outputs, "demo", "seed=0,1")


def test_numbers_are_those_of_the_results(demo):
    _, done, text = demo
    page = Page(text)
    assert "5 finished runs" in page.text and "5 of 6 runs are finished" in page.text
    progress = page.row("demo")
    assert progress[1].split() == ["83", "%", "83", "%"] and progress[2:6] == ["6", "5", "", "1"]
    head = next(row for row in page.rows if "adapter" in row)
    assert head[0] == "method" and "mini sentiment, accuracy. Kept" in page.text
    lora = [one.metrics.primary_at("best") for one in done if one.method == "lora"]
    cells = [dict(zip(head, cells, strict=True)) for cells in page.rows if len(cells) == len(head)]
    (row,) = (row for row in cells if row.get("method") == "lora")
    mean, spread = 100 * statistics.mean(lora), 100 * statistics.stdev(lora)
    assert row["best"] == f"{mean:.1f} ± {spread:.1f}" and row["adapter"] == "1,000"
    scores = next(a["alt"] for a, _ in page.all("img") if "parameters" in a["alt"])
    assert f"LoRA: {mean:.1f} with 1,000 parameters" in scores


def test_the_page_is_whole_in_itself(demo):
    page = Page(demo[2])
    assert len(page.all("img")) == 3  # importances, scores, curves
    for tag, attributes, _ in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base"), tag
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("data:image/svg+xml;base64,", "#")), name
    assert not re.search(r"url\(|@import", demo[2])
    (policy,) = (a["content"] for a, _ in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_the_page_can_be_read_by_all(demo):
    page = Page(demo[2])
    assert page.all("html")[0][0]["lang"] == "en" and len(page.all("h1")) == len(page.all("title"))
    assert any("width=device-width" in a.get("content", "") for a, _ in page.all("meta"))
    assert all(len(a["alt"]) > 20 and a["width"] and a["height"] for a, _ in page.all("img"))
    assert all(("div", "scroll") in around for _, around in page.all("table"))
    assert all(a["scope"] in ("row", "col") for a, _ in page.all("th"))
    ids = [a["id"] for _, a, _ in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a, _ in page.all("a")}
    targets |= {a["aria-labelledby"] for _, a, _ in page.tags if "aria-labelledby" in a}
    assert targets <= set(ids)


def test_what_results_say_is_text_and_never_markup(demo, tmp_path):
    assert NASTY not in demo[2] and escape(NASTY) in demo[2].replace("&#34;", "&quot;")
    (config,) = run_configs(["experiment=demo", "seed=0", "method=lora"])
    odd = {**config, "id": "odd", "method": {**config["method"], "target_modules": NASTY}}
    outputs = tmp_path / "a<b>"
    for one in (config, odd):
        results.write(outputs, result_files.result(one))
    section = report.section("x<y>", None, "", results.others(outputs, ()), results.times(outputs))
    section.draw(str(outputs))
    text = report.page.render([section], str(outputs), report.START)
    assert NASTY in Page(text).text and not any(
        a.get("src") == "x" for a, _ in Page(text).all("img")
    )
    assert "<b>" not in text and "<y>" not in text


def test_an_empty_folder_gives_a_page_that_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "catalog", lambda: {"demo": catalog()["demo"]})
    text = build(tmp_path)
    assert f"Start with: {report.START}" in " ".join(Page(text).text.split())
    assert not Page(text).all("table") and not Page(text).all("img")


@pytest.mark.slow
def test_without_names_all_that_the_folder_has_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "catalog", lambda: {n: catalog()[n] for n in ("table7", "demo")})
    done = result_files.write(tmp_path, "experiment=demo", "seed=0")
    alone = result_files.write(tmp_path, "task=mini_sentiment", "backbone=tiny_roberta", "seed=5")
    page = Page(build(tmp_path))
    headings = [a["id"] for a, _ in page.all("h2")]
    # table7's mini form has runs of the demo's, its full form has no result
    assert headings == ["progress", "table7-mini", "demo", "other-runs"]
    assert f"{len(done) + len(alone)} finished runs" in page.text
    assert report.main(["--mini", f"paths.outputs={tmp_path}"]) == 0
    assert [a["id"] for a, _ in Page((tmp_path / report.PAGE).read_text()).all("h2")] == headings[
        :2
    ]


def test_a_figure_of_models_that_nobody_measured_is_named(tmp_path):
    result_files.write(tmp_path, "experiment=figure2")
    assert "python -m experiments.figure figure2" in Page(build(tmp_path, "figure2")).text


def test_a_table_that_would_mix_settings_says_so(tmp_path):
    narrowed = ("task=rte", "seed=0", "method=lora", "method.rank=4,8")
    result_files.write(tmp_path, "experiment=table1", *narrowed)
    page = Page(build(tmp_path, "table1", *narrowed))
    assert "differ in more than the seed" in page.text and len(page.all("img")) == 2


def test_the_page_is_where_it_is_asked_for(tmp_path):
    target = tmp_path / "site" / "index.html"
    assert report.main(["demo", "seed=0", f"paths.outputs={tmp_path}", "--to", str(target)]) == 0
    assert target.is_file()
    folder = tmp_path / "public"
    assert report.main(["demo", "seed=0", f"paths.outputs={tmp_path}", "--to", str(folder)]) == 0
    assert (folder / report.PAGE).is_file()
    with pytest.raises(SystemExit):
        report.main(["demmo"])


def test_published_scores_are_the_papers(tmp_path):
    narrowed = ("experiment=table1", "task=rte,cola", "seed=0")
    result_files.write(tmp_path, *narrowed)
    runs = run_data.labelled(results.load([*narrowed, f"paths.outputs={tmp_path}"]))
    paper = run_data.paper_scores("table1", run_data.scores(runs)).set_index(["task", "label"])
    rows = published()["table1"]["models"]["roberta_base"]
    assert len(paper) == 2 * len(rows)
    assert paper.loc[("rte", "LoRA")].tolist() == ["roberta_base", 80.8, 290_000]
    assert run_data.paper_scores("demo", run_data.scores(runs)).empty
    assert score_at("roberta_base", "rte", "lora_drop", "method.threshold", 0.9) == 81.9
    assert score_at("tiny_roberta", "rte", "lora_drop", "method.threshold", 0.9) != 81.9


PROBE = """<!doctype html><iframe style="width:{width}px;height:844px;border:0" srcdoc="{page}">
</iframe><pre id="found"></pre><script>
addEventListener("load", () => {{
  const frame = document.querySelector("iframe").contentWindow, inside = frame.document;
  const wide = [...inside.body.querySelectorAll("*")].filter(one => !one.closest(".scroll")
    && one.getBoundingClientRect().right > {width} + 1).map(one => one.outerHTML.slice(0, 80));
  const left = frame.performance.getEntriesByType("resource").map(one => one.name)
    .filter(name => !name.startsWith("data:"));
  const broken = [...inside.images].filter(one => !one.naturalWidth).length;
  document.getElementById("found").textContent = JSON.stringify({{wide, left, broken,
    width: inside.documentElement.scrollWidth, images: inside.images.length,
    boxes: [...inside.querySelectorAll(".scroll")].filter(one => one.scrollWidth > one.clientWidth)
      .length}});
}});
</script>"""


@pytest.mark.slow
def test_a_phone_shows_the_page_without_scrolling_sideways(demo, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"there is no browser: {', '.join(BROWSERS)}")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=PHONE, page=escape(demo[2])), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    shown = subprocess.run(
        [
            browser,
            *options,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', shown.stdout)
    found = json.loads(html.unescape(found))
    assert found["wide"] == [] and found["width"] <= PHONE
    assert found["boxes"] > 0  # the tables are wider than a phone, each in a box of its own
    assert (found["images"], found["broken"]) == (3, 0)
    assert found["left"] == [] and "CONSOLE" not in shown.stderr, shown.stderr
