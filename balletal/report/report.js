
// The page around the timelines: legend, search, order. A timeline is built when its video comes near the window.
const data = JSON.parse(document.getElementById("data").textContent);
const classes = describe(data.labels);
const list = document.getElementById("list"), find = document.getElementById("find");
const order = document.getElementById("order"), count = document.getElementById("count"), legend = document.getElementById("legend");
const views = new Map();
let lit = null;

const make = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
const segments = (rows) => rows.map(([label, start, end, score]) => ({ label: data.labels[label], start, end, score }));

for (const [label, { colour, code }] of classes) {
  const button = make("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ width: 24, height: 18, "aria-hidden": "true" })) swatch.setAttribute(key, value);
  const box = document.createElementNS(swatch.namespaceURI, "rect"), text = document.createElementNS(swatch.namespaceURI, "text");
  for (const [key, value] of Object.entries({ width: 24, height: 18, rx: 3.5, fill: colour })) box.setAttribute(key, value);
  for (const [key, value] of Object.entries({ x: 12, y: 13, "text-anchor": "middle", "font-size": 11, fill: "#16181c" })) text.setAttribute(key, value);
  text.textContent = code;
  swatch.append(box, text);
  button.append(swatch, make("span", "", label));
  button.addEventListener("click", () => {
    lit = lit === label ? null : label;
    for (const other of legend.children) other.setAttribute("aria-pressed", String(other === button && lit !== null));
    for (const view of views.values()) view.highlight(lit);
  });
  legend.append(button);
}

function build(timeline) {
  const video = timeline.video;
  if (views.has(video.id)) return;
  near.unobserve(timeline);
  const view = mount(timeline, {
    duration: video.duration, classes,
    tracks: [{ name: "ground truth", segments: segments(video.truth) },
      ...data.runs.map((name, i) => ({ name, segments: segments(video.runs[i]) }))],
  });
  if (lit !== null) view.highlight(lit);
  views.set(video.id, view);
  timeline.style.minHeight = "";
}

const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) build(target);
}, { rootMargin: "400px" });

const cards = data.videos.map((video) => {
  const card = make("article", "video"), header = make("header"), timeline = make("div", "timeline");
  const known = video.f1.filter((f) => f !== null);
  const facts = [`${video.truth.length} steps`, clock(video.duration, 0)];
  if (known.length) facts.push("F1 " + data.runs.map((run, i) => `${run} ${video.f1[i] === null ? "–" : (100 * video.f1[i]).toFixed(0)}`).join(", "));
  header.append(make("h3", "", video.id), make("p", "", facts.join(" · ")));
  card.append(header, timeline);
  card.setAttribute("aria-label", video.id);
  timeline.video = video;
  timeline.style.minHeight = `${60 + 24 * (data.runs.length + 1)}px`; // about what it will take, so that nothing jumps
  near.observe(timeline);
  const labels = new Set([...video.truth, ...video.runs.flat()].map(([label]) => data.labels[label]));
  return { card, video, words: [video.id, ...labels].join("\n").toLowerCase(), f1: known.length ? Math.max(...known) : null };
});

function arrange() {
  const wanted = find.value.trim().toLowerCase();
  const missing = order.value === "best" ? -1 : 2;
  const keys = {
    name: () => 0, worst: (c) => c.f1 ?? missing, best: (c) => -(c.f1 ?? missing), steps: (c) => -c.video.truth.length,
  };
  const key = keys[order.value];
  const chosen = cards.filter((c) => c.words.includes(wanted))
    .sort((a, b) => key(a) - key(b) || a.video.id.localeCompare(b.video.id, "en", { numeric: true }));
  list.replaceChildren(...chosen.map((c) => c.card));
  count.textContent = chosen.length === cards.length ? `${cards.length} videos` : `${chosen.length} of ${cards.length} videos`;
}
find.addEventListener("input", arrange);
order.addEventListener("change", arrange);
arrange();
for (const timeline of [...list.querySelectorAll(".timeline")].slice(0, 3)) build(timeline); // a first look at once
