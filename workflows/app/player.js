// The player of the app. The text of timeline.js stands before this one, in the same module.

const players = new WeakMap(); // by their places: Streamlit calls again for each change of what is shown

function build(place, { src, name, duration, labels }) {
  const make = (kind, className) => Object.assign(document.createElement(kind), { className });
  const video = make("video"), now = make("p", "now"), line = make("div"), legend = make("ul"), classes = describe(labels);
  Object.assign(video, { src, controls: true, playsInline: true, preload: "auto" });
  video.setAttribute("aria-label", name);
  legend.append(...[...classes].map(([label, { colour, code }]) => {
    const item = make("li"), mark = make("span");
    mark.textContent = code;
    mark.style.background = colour;
    item.append(mark, ` ${label}`);
    return item;
  }));
  place.replaceChildren(video, now, line, legend);

  let tracks = [];
  const seek = (t) => { video.currentTime = t; };
  const view = mount(line, { duration, tracks, classes, onSeek: seek, onSelect: (segment) => seek(segment.start) });
  function shown() {
    const t = video.currentTime;
    view.setTime(t, !video.paused);
    const here = tracks.flatMap((track) => track.segments.filter((s) => s.start <= t + 1e-3 && t < s.end));
    now.textContent = [...new Set(here.map((s) => s.label))].join(", ") || "\u00a0";
  }
  function each() { // frame by frame; timeupdate comes four times a second
    shown();
    if (place.isConnected) video.requestVideoFrameCallback?.(each);
  }
  each();
  for (const event of ["timeupdate", "seeking", "seeked"]) video.addEventListener(event, shown);
  video.addEventListener("error", () => { now.textContent = "The browser cannot play this video. The timeline works without it."; });
  return {
    update(change) {
      tracks = change.tracks;
      view.update({ tracks });
      shown();
    },
    destroy() {
      video.pause();
      video.removeAttribute("src");
      video.load();
      view.destroy();
    },
  };
}

export default function ({ data, parentElement }) {
  const place = parentElement.querySelector(".balletal");
  if (!players.has(place)) players.set(place, build(place, data));
  players.get(place).update(data);
  return () => {
    players.get(place)?.destroy();
    players.delete(place);
  };
}
