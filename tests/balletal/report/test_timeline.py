from html import unescape
from pathlib import Path

import balletal.report

SCRIPT = (Path(balletal.report.__file__).parent / "timeline.js").read_text()

# What a user does, and what the widget says then, line by line.
DRIVER = """
const told = [], log = (...words) => told.push(words.join(" "));
const host = document.getElementById("host");
const view = mount(host, { duration: 100, onSeek: (t) => log("seek", t.toFixed(2)), tracks: [
  { name: "truth", segments: [{ label: "Courus", start: 50, end: 51 }, { label: "Pirouette", start: 1, end: 2 },
    { label: "Courus", start: 50.5, end: 52 }] },
  { name: "<b>model</b>", segments: [{ label: "<img src=x>", start: 90, end: 91, score: 0.3 }] }] });
const svg = host.querySelector("svg"), segments = () => svg.querySelectorAll("[role=button]");
const press = (key) => {
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  log(key, "->", document.activeElement.getAttribute("aria-label"));
};
const click = (share) => {
  const box = svg.getBoundingClientRect();
  const at = { clientX: box.left + 128 + share * (box.width - 128), clientY: box.top + 5, bubbles: true };
  for (const type of ["pointerdown", "pointerup"]) svg.dispatchEvent(new PointerEvent(type, at));
};
const first = svg.querySelector('[tabindex="0"]');
first.focus();
// A headless page may not have the focus yet, and then tells nobody of it.
if (!document.hasFocus()) first.dispatchEvent(new FocusEvent("focus"));
log(host.querySelector("output").textContent);
for (const key of ["ArrowRight", "End", "ArrowDown", "ArrowUp", "Home", "Enter"]) press(key);
log("in reach of Tab:", svg.querySelectorAll('[tabindex="0"]').length, "of", segments().length);
view.zoom(40, 60);
log("zoomed:", segments().length);
click(0.5);
view.zoom(0, 100);
view.highlight("Courus");
log([...segments()].map((segment) => segment.getAttribute("opacity")).join());
log(clock(59.999), clock(65, 0), clock(7.5));
view.highlight(null);
view.zoom(0, 10);
view.setTime(50, true);
log("followed:", segments().length);
view.setRange(50, 51);
log("range:", svg.querySelectorAll('rect[stroke-dasharray="4 3"]').length);
view.setRange(null);
const guess = { label: "Courus", start: 1, end: 2, state: "provisional" };
view.update({ duration: 10, tracks: [{ name: "live", segments: [guess] }] });
log("live:", segments().length, segments()[0].querySelector("rect").getAttribute("fill-opacity"));
const chosen = mount(host, { duration: 10, tracks: [{ name: "one", segments: [{ label: "Jete", start: 1, end: 2 }] }],
  onSeek: (t) => log("seek", t.toFixed(2)), onSelect: (segment, track) => log("select", segment.label, track) });
const box = host.querySelector("[role=button]"), up = { bubbles: true, clientX: 300, clientY: 50 };
for (const type of ["pointerdown", "pointerup"]) box.dispatchEvent(new PointerEvent(type, up));
box.dispatchEvent(new MouseEvent("click", up));
log([...describe(["CabrioleDevant", "CabrioleDerriere", "Pirouette"])].map(([, { code }]) => code).join());
document.getElementById("told").textContent = told.join("\\n");
"""


def test_keys_zoom_seek_and_hostile_labels(browse) -> None:
    page = browse(
        f'<!doctype html><div id="host"></div><pre id="told"></pre><script type="module">{SCRIPT}{DRIVER}</script>'
    )
    assert "<img" not in page.split("<script")[0].replace("&lt;img", "")
    told = unescape(page.split('<pre id="told">')[1].split("</pre>")[0]).splitlines()
    pirouette, first, second = (
        f"truth: {s}"
        for s in ("Pirouette · 1.00 s – 2.00 s", "Courus · 50.00 s – 51.00 s", "Courus · 50.50 s – 52.00 s")
    )
    model = "<b>model</b>: <img src=x> · 1:30.00 – 1:31.00 · score 0.30"
    assert told == [
        pirouette,
        f"ArrowRight -> {first}",
        f"End -> {second}",
        f"ArrowDown -> {model}",
        f"ArrowUp -> {second}",
        f"Home -> {pirouette}",
        "seek 1.00",
        f"Enter -> {pirouette}",
        "in reach of Tab: 1 of 4",
        "zoomed: 2",
        "seek 50.00",
        "0.15,1,1,0.15",
        "1:00.00 1:05 7.50 s",
        "followed: 2",
        "range: 1",
        "live: 1 0.2",
        "select Jete one",
        "CD,Ca,Pi",
    ]
