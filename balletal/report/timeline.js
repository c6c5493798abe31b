// A timeline of labelled segments as SVG: one row a track, time in seconds. No dependency, no stylesheet needed.
//
//   const view = mount(element, { duration, tracks: [{ name, segments: [{ label, start, end, score }] }], onSeek });
//   view.setTime(seconds, follow); view.zoom(from, to); view.scale(factor); view.highlight(label | null);
//   view.setRange(start | null, end); view.update({ duration, tracks, classes }); view.destroy();
//
// Mouse: hover reads a segment, a click seeks, Ctrl + wheel zooms, drag or wheel sideways pans.
// Keys on a segment: left/right next one, up/down other track, Enter seeks, + and - zoom, 0 shows all.
// `classes` (optional, from `describe`) keeps colours and codes equal over several timelines. `onSelect` (optional) is
// told of the segment and the name of its track where a click or Enter meets one; `onSeek` then hears of the rest.
// A segment with `state: "provisional"` is drawn as an outline. On a narrow page the names stand above their tracks.

const COLOURS = ["#e3a64a", "#6aa3d8", "#dd7f8c", "#74b88c", "#ab8fd0", "#c7a784",
  "#54b5b3", "#e5935f", "#95a7ba", "#c9bf55", "#d792c4", "#8796e3"];
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
const GUTTER = 128, LANE = 17, GAP = 7, AXIS = 22, LANES = 5, NARROW = 520, HEADING = 18;

/** Label -> {colour, code}: a fill that carries dark text, and two letters that read without colour. */
export function describe(labels) {
  const taken = new Set();
  return new Map([...labels].map((label, i) => {
    const letters = label.replace(/[^\p{L}\p{N}]/gu, "") || "?";
    const capitals = letters.replace(/[^\p{Lu}]/gu, "");
    const candidates = [capitals.length > 1 ? capitals.slice(0, 2) : "", letters.slice(0, 2),
      ...[...letters.slice(1)].map((c) => letters[0] + c), ...Array.from({ length: 99 }, (_, n) => letters[0] + n)];
    const code = candidates.find((c) => c && !taken.has(c)) ?? letters[0];
    taken.add(code);
    return [label, { colour: COLOURS[i % COLOURS.length], code }];
  }));
}

/** 83.456 -> "1:23.46"; 7.5 -> "7.50 s". */
export function clock(seconds, digits = 2) {
  const rounded = Number(seconds.toFixed(digits));
  if (rounded < 60) return `${seconds.toFixed(digits)} s`;
  const rest = (rounded % 60).toFixed(digits);
  return `${Math.floor(rounded / 60)}:${rest.padStart(digits ? digits + 3 : 2, "0")}`;
}

// Overlapping segments of one track lie in lanes below each other; what exceeds LANES shares the last one.
function lanesOf(segments) {
  const ends = [];
  return segments.map((s) => {
    let lane = ends.findIndex((end) => end <= s.start + 1e-6);
    if (lane < 0) lane = Math.min(ends.length, LANES - 1);
    ends[lane] = Math.max(ends[lane] ?? 0, s.end);
    return lane;
  });
}

// Tracks as they are drawn: segments in order, each with its lane.
function rowsOf(tracks) {
  return tracks.map(({ name, segments }) => {
    const sorted = [...segments].sort((a, b) => a.start - b.start || a.end - b.end);
    const lanes = lanesOf(sorted);
    return { name, segments: sorted, lanes, height: LANE * (lanes.reduce((a, b) => Math.max(a, b), 0) + 1) };
  });
}

export function mount(element, { duration, tracks, onSeek = null, onSelect = null, classes = null }) {
  let total = Math.max(duration, 1e-3), rows = rowsOf(tracks);
  classes ??= describe([...new Set(rows.flatMap((r) => r.segments.map((s) => s.label)))].sort());
  let from = 0, to = total, time = null, range = null, lit = null, active = null, drag = null;
  let width = 0, gutter = GUTTER, bottom = 0, playhead = null;

  const node = (name, attributes = {}, text = null) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    return made;
  };
  const bar = document.createElement("div");
  bar.className = "timeline-bar";
  const readout = document.createElement("output");
  bar.append(readout);
  for (const [sign, name, act] of [["−", "Zoom out", () => scale(2)], ["+", "Zoom in", () => scale(0.5)],
    ["↔", "Show all", () => zoom(0, total)]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = sign;
    button.title = name;
    button.setAttribute("aria-label", name);
    button.addEventListener("click", act);
    bar.append(button);
  }
  const svg = node("svg", { role: "group", "aria-label": "Timeline", width: "100%", "font-size": 12 });
  svg.style.display = "block";
  svg.style.touchAction = "pan-y";
  element.replaceChildren(bar, svg);

  const x = (t) => Math.round(10 * (gutter + ((t - from) / (to - from)) * (width - gutter))) / 10;
  const timeAt = (event) =>
    Math.min(to, Math.max(from,
      from + ((event.clientX - svg.getBoundingClientRect().left - gutter) / (width - gutter)) * (to - from)));
  const tell = (s) => `${s.label} · ${clock(s.start)} – ${clock(s.end)}` +
    (s.score === undefined || s.score === null ? "" : ` · score ${s.score.toFixed(2)}`);

  function zoom(a, b) {
    const span = Math.min(total, Math.max(Math.min(0.5, total), b - a));
    from = Math.min(Math.max(0, a), total - span);
    to = from + span;
    draw();
  }
  function scale(factor, centre = active ? (active.start + active.end) / 2 : (from + to) / 2) {
    zoom(centre - (centre - from) * factor, centre + (to - centre) * factor);
  }

  function draw() {
    width = Math.max(svg.getBoundingClientRect().width || element.clientWidth, GUTTER + 80);
    gutter = width < NARROW ? 0 : GUTTER;
    const heading = gutter ? 0 : HEADING;
    const hadFocus = svg.contains(document.activeElement);
    const height = rows.reduce((sum, r) => sum + heading + r.height + GAP, 0) + AXIS;
    svg.setAttribute("height", height);
    svg.replaceChildren();
    if (active && (active.end < from || active.start > to)) active = null;
    bottom = height - AXIS;
    const step = STEPS.find((s) => (s / (to - from)) * (width - gutter) >= 64) ?? 7200;
    for (let n = Math.ceil(from / step - 1e-9); n * step <= to + 1e-9; n++) {
      svg.append(node("line", { x1: x(n * step), x2: x(n * step), y1: 0, y2: bottom, stroke: "currentColor", "stroke-opacity": 0.1 }));
      const place = x(n * step) > width - 30 ? "end" : x(n * step) < 20 ? "start" : "middle";
      svg.append(node("text", { x: x(n * step), y: height - 6, "text-anchor": place, fill: "currentColor",
        "fill-opacity": 0.6, "font-size": 11 }, clock(n * step, step < 1 ? 1 : 0)));
    }
    let y = 0;
    for (const row of rows) {
      const group = node("g", { role: "group", "aria-label": `Track ${row.name}` });
      // Names of models begin alike and differ at the end: the middle is what can be spared.
      const most = gutter ? 17 : 40;
      const title = row.name.length > most ? `${row.name.slice(0, 3)}…${row.name.slice(4 - most)}` : row.name;
      const place = gutter ? { x: gutter - 12, "text-anchor": "end" } : { x: 0 };
      const name = node("text", { ...place, y: y + 13, fill: "currentColor" }, title);
      name.append(node("title", {}, row.name));
      y += heading;
      group.append(name, node("rect", { x: gutter, y, width: width - gutter, height: row.height, rx: 3, fill: "currentColor", "fill-opacity": 0.045 }));
      row.segments.forEach((segment, i) => {
        if (segment.end >= from && segment.start <= to) group.append(segmentNode(row, segment, y + row.lanes[i] * LANE));
      });
      svg.append(group);
      y += row.height + GAP;
    }
    if (range && range[1] > from && range[0] < to) {
      const left = Math.max(x(range[0]), gutter), right = Math.min(x(range[1]), width);
      svg.append(node("rect", { x: left, y: 1, width: right - left, height: bottom - 2, rx: 3, fill: "currentColor",
        "fill-opacity": 0.06, stroke: "currentColor", "stroke-dasharray": "4 3", "pointer-events": "none" }));
    }
    playhead = node("line", { stroke: "currentColor", "stroke-width": 1.5, "pointer-events": "none" });
    svg.append(playhead);
    drawTime();
    if (hadFocus) svg.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
  }

  function drawTime() {
    const seen = time !== null && time >= from && time <= to;
    for (const [key, value] of Object.entries({ x1: seen ? x(time) : 0, x2: seen ? x(time) : 0, y1: 0, y2: seen ? bottom : 0 }))
      playhead.setAttribute(key, value);
  }

  function segmentNode(row, segment, y) {
    const { colour, code } = classes.get(segment.label) ?? { colour: "#999", code: "?" };
    const left = Math.max(x(segment.start), gutter), right = Math.min(x(segment.end), width);
    const wide = Math.max(right - left - 1, 2);
    active ??= segment;
    const g = node("g", { role: "button", tabindex: segment === active ? 0 : -1, "aria-label": `${row.name}: ${tell(segment)}`,
      opacity: lit !== null && lit !== segment.label ? 0.15 : 1 });
    g.style.cursor = "pointer";
    g.style.outline = "none";
    const provisional = segment.state === "provisional";
    const box = node("rect", { x: left, y: y + 1, width: wide, height: LANE - 2, rx: 2.5, fill: colour,
      "fill-opacity": provisional ? 0.2 : segment.score === undefined ? 1 : 0.6 + 0.4 * segment.score });
    const outline = provisional ? { stroke: colour, "stroke-width": 1, "stroke-dasharray": "3 2" } : { stroke: "none", "stroke-width": 0 };
    const dress = (look) => { for (const [key, value] of Object.entries(look)) box.setAttribute(key, value); };
    dress(outline);
    g.append(node("title", {}, tell(segment)), box);
    // The name, or its code, or its code on its side: whatever fits.
    const text = wide > segment.label.length * 6.2 + 8 ? segment.label : wide > 8.5 ? code : "";
    const middle = left + wide / 2, upright = wide > 18;
    const place = upright ? { x: middle, y: y + 12 } : { transform: `translate(${middle + 3} ${y + LANE / 2}) rotate(-90)` };
    if (text) g.append(node("text", { ...place, "text-anchor": "middle", "font-size": upright ? 10.5 : 9, fill: provisional ? "currentColor" : "#16181c",
      "pointer-events": "none" }, text));
    const show = () => { readout.textContent = `${row.name}: ${tell(segment)}`; };
    g.addEventListener("pointerenter", show);
    g.addEventListener("focus", () => {
      if (active !== segment) {
        svg.querySelector('[tabindex="0"]')?.setAttribute("tabindex", -1);
        g.setAttribute("tabindex", 0);
        active = segment;
      }
      dress({ stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": "none" });
      show();
    });
    g.addEventListener("blur", () => dress(outline));
    g.addEventListener("click", () => { if (onSelect) select(segment, row.name); });
    return g;
  }

  function seek(t) {
    time = t;
    draw();
    onSeek?.(t);
  }

  function select(segment, track) {
    if (!onSelect) return seek(segment.start);
    active = segment;
    onSelect(segment, track);
  }

  function go(segment) {
    active = segment;
    const span = to - from;
    if (segment.start < from || segment.end > to) zoom((segment.start + segment.end - span) / 2, (segment.start + segment.end + span) / 2);
    else draw();
  }

  svg.addEventListener("keydown", (event) => {
    if (!active || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = rows.findIndex((row) => row.segments.includes(active));
    const here = rows[at].segments, i = here.indexOf(active), span = here.length - 1;
    const vertical = (d) => {
      for (let r = at + d; r >= 0 && r < rows.length; r += d)
        if (rows[r].segments.length)
          return go(rows[r].segments.reduce((a, b) => (Math.abs(b.start - active.start) < Math.abs(a.start - active.start) ? b : a)));
    };
    const acts = {
      ArrowLeft: () => go(here[Math.max(i - 1, 0)]), ArrowRight: () => go(here[Math.min(i + 1, span)]),
      Home: () => go(here[0]), End: () => go(here[span]), ArrowUp: () => vertical(-1), ArrowDown: () => vertical(1),
      Enter: () => select(active, rows[at].name), " ": () => select(active, rows[at].name), "+": () => scale(0.5), "=": () => scale(0.5),
      "-": () => scale(2), 0: () => zoom(0, total),
    };
    if (acts[event.key]) {
      event.preventDefault();
      acts[event.key]();
    }
  });
  svg.addEventListener("wheel", (event) => {
    const zooming = event.ctrlKey || event.metaKey;
    const sideways = event.shiftKey ? event.deltaY : event.deltaX;
    if (!zooming && (!sideways || to - from >= total)) return;
    event.preventDefault();
    if (zooming) scale(event.deltaY < 0 ? 0.8 : 1.25, timeAt(event));
    else zoom(from + (sideways / width) * (to - from), to + (sideways / width) * (to - from));
  }, { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    if (event.button === 0) drag = { x: event.clientX, from, to, moved: false };
  });
  svg.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const shift = ((drag.x - event.clientX) / (width - gutter)) * (drag.to - drag.from);
    if (Math.abs(event.clientX - drag.x) > 4) drag.moved = true;
    if (drag.moved && drag.to - drag.from < total) zoom(drag.from + shift, drag.to + shift);
  });
  svg.addEventListener("pointerup", (event) => {
    const chosen = onSelect && event.target.closest("[role=button]"); // its own click tells of it
    if (drag && !drag.moved && !chosen && event.clientX - svg.getBoundingClientRect().left >= gutter) seek(timeAt(event));
    drag = null;
  });
  svg.addEventListener("pointerleave", () => { drag = null; });
  svg.addEventListener("pointercancel", () => { drag = null; });

  const observer = new ResizeObserver(() => {
    if (Math.abs(svg.getBoundingClientRect().width - width) > 1) draw();
  });
  observer.observe(element);
  draw();
  return {
    zoom,
    scale,
    setTime(t, follow = false) {
      time = t;
      // Playing on, the window turns like a page, with a little of the last one left in sight.
      if (follow && to - from < total && (t < from || t > to)) zoom(t - (to - from) / 10, t + ((to - from) * 9) / 10);
      else drawTime();
    },
    setRange(start, end) { range = start === null ? null : [start, end]; draw(); },
    highlight(label) { lit = label; draw(); },
    update(change) {
      const whole = to - from >= total;
      if (change.tracks) rows = rowsOf(change.tracks);
      classes = change.classes ?? classes;
      total = Math.max(change.duration ?? total, 1e-3);
      if (active && !rows.some((row) => row.segments.includes(active))) active = null;
      zoom(whole ? 0 : from, whole ? total : to);
    },
    destroy() { observer.disconnect(); element.replaceChildren(); },
  };
}
