// What of the detections is shown: the classes, the lowest score, the list of one track.
import { clock } from "./timeline.js";
import { make, mark } from "./dom.js";

/**
 * Filters and list over tracks. `onChange(tracks, least)` hears of the tracks that are left and the lowest score, `onChoose(segment)` of a choice.
 * `parts` are the page's elements: score, least, legend, track, list, count.
 */
export function steps(parts, { onChange, onChoose }) {
  const hidden = new Set(), nothing = make("li", { class: "soft" });
  let tracks = [], classes = new Map(), least = 0, rows = [], current = null, touched = false, waiting = null;

  const passes = (segment) => !hidden.has(segment.label) && (segment.score === undefined || segment.score >= least);
  const shown = () => tracks.map((track) => ({ ...track, segments: track.segments.filter(passes) }));
  const chosen = () => tracks.find((track) => track.name === parts.track.value) ?? tracks[0];

  function apply() {
    parts.least.textContent = `${Math.round(100 * least)} %`;
    let count = 0;
    for (const row of rows) {
      const visible = passes(row.segment);
      row.item.hidden = !visible;
      count += visible;
    }
    parts.count.textContent = count === 1 ? "1 step" : `${count} steps`;
    nothing.textContent = rows.length ? "None so sure, or of a step that is shown. Move the slider to the left to see weaker guesses." : "No steps were found.";
    nothing.hidden = count > 0;
    onChange(shown(), least);
  }

  function list() {
    current = null;
    rows = (chosen()?.segments ?? []).map((segment) => {
      const facts = `${clock(segment.start)} – ${clock(segment.end)}`;
      const sure = segment.score === undefined ? null : make("span", { class: "sure" }, `${Math.round(100 * segment.score)} %`);
      const button = make("button", { type: "button", onclick: () => onChoose(segment) },
        mark(classes.get(segment.label)), make("span", { class: "label" }, segment.label), make("span", { class: "when" }, facts), sure);
      return { segment, button, item: make("li", {}, button) };
    });
    parts.list.replaceChildren(nothing, ...rows.map((row) => row.item));
    apply();
  }

  function legend() {
    parts.legend.replaceChildren(...[...classes].map(([label, look]) => make("button", {
      type: "button", "aria-pressed": String(!hidden.has(label)),
      onclick: (event) => {
        if (!hidden.delete(label)) hidden.add(label);
        event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(label)));
        apply();
      },
    }, mark(look), make("span", {}, label))));
  }

  parts.score.addEventListener("input", () => {
    touched = true;
    least = Number(parts.score.value) / 100;
    // Drawing thousands of steps takes longer than the slider's next move.
    waiting ??= requestAnimationFrame(() => {
      waiting = null;
      apply();
    });
  });
  parts.track.addEventListener("change", list);

  return {
    /** Other tracks: [{name, segments}], and their classes (of `describe`). */
    show(newTracks, newClasses) {
      const before = parts.track.value;
      tracks = newTracks.map((track) => ({ ...track, segments: [...track.segments].sort((a, b) => a.start - b.start || b.score - a.score) }));
      classes = newClasses;
      parts.track.replaceChildren(...tracks.map(({ name }) => make("option", { value: name }, name)));
      if (tracks.some(({ name }) => name === before)) parts.track.value = before;
      parts.track.hidden = tracks.length < 2;
      const scores = tracks.flatMap((track) => track.segments.map((segment) => segment.score ?? 1));
      // Weak guesses are there for those who look for them; where all are weak, they are what there is.
      if (!touched) least = scores.some((score) => score >= 0.3) ? 0.3 : 0;
      parts.score.value = String(Math.round(100 * least));
      legend();
      list();
    },
    /** Put the list on a track. */
    pick(name) {
      if (parts.track.value === name) return;
      parts.track.value = name;
      list();
    },
    /** The segment of the list's track at a time: the surest of several. */
    at(time) {
      return rows.map((row) => row.segment).filter((s) => passes(s) && s.start <= time + 1e-3 && time < s.end)
        .reduce((best, s) => (best === null || (s.score ?? 1) > (best.score ?? 1) ? s : best), null);
    },
    /** The next (1) or previous (-1) shown segment of the list's track from a time. */
    next(direction, time) {
      const left = rows.map((row) => row.segment).filter(passes);
      return direction > 0 ? left.find((s) => s.start > time + 0.01) ?? null : left.findLast((s) => s.start < time - 0.01) ?? null;
    },
    /** Mark a segment in the list as the present one, and keep it in sight. */
    mark(segment) {
      if (segment === current) return;
      current = segment;
      for (const row of rows) {
        const here = row.segment === segment;
        if (here) row.button.setAttribute("aria-current", "true");
        else row.button.removeAttribute("aria-current");
        if (here) {
          const box = parts.list, top = row.item.offsetTop - box.offsetTop;
          if (top < box.scrollTop || top + row.item.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight / 3;
        }
      }
    },
  };
}
