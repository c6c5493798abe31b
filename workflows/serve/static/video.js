// A video with its timeline: one track a model, and one for annotations of the user's own.
import { call } from "./api.js";
import { confirmed, make, size, template } from "./dom.js";
import { finished, follow, jobsOf, removeVideo, results, start, useful, videoOf } from "./job.js";
import { choices, short } from "./models.js";
import { SPEEDS, player } from "./player.js";
import { say, tell } from "./problems.js";
import { steps } from "./steps.js";
import { clock, describe, mount } from "./timeline.js";
import { parseTruth } from "./truth.js";

const TRUTH = "your annotations", PREVIEW_MS = 2000;
const FORMATS = [["csv", "CSV", "a table, for spreadsheets"], ["eaf", "EAF", "for ELAN"], ["vtt", "WebVTT", "subtitles"], ["srt", "SRT", "subtitles"],
  ["otio", "OTIO", "for video editors"], ["json", "JSON", "everything, for programs"], ["activitynet", "ActivityNet", "for research"], ["label-studio", "Label Studio", "to correct by hand"]];

/** A job's address leads to its video; a job over several shows them. */
export function jobView(main, id) {
  let release = null, gone = false;
  const problem = make("div", { role: "alert" });
  main.append(make("p", { class: "soft" }, make("a", { href: "#/" }, "← All videos")), problem);
  async function look() {
    const job = await call(`/v1/jobs/${id}`);
    if (gone) return;
    if (videoOf(job) !== null) return void location.replace(`#/videos/${videoOf(job)}`);
    // Those in other places are known by what was found in them.
    const others = useful(job) ? (await results(job)).map((segment) => segment.video_id) : [];
    const ids = [...new Set([...job.video_ids, ...others])];
    if (gone) return;
    release = follow(main, job, () => { release?.(); look().catch((error) => tell(problem, error)); });
    if (!finished(job)) return;
    if (ids.length) main.append(make("h1", {}, "Videos of this job"), make("ul", { class: "plain videos" }, ...await Promise.all(ids.map(async (video) => {
      const name = job.video_ids.includes(video) ? await call(`/v1/videos/${video}`).then((found) => found.name).catch(() => null) : null;
      return make("li", { class: "row" }, name === null ? make("span", {}, video) : make("a", { href: `#/videos/${video}` }, make("strong", {}, name)));
    }))));
    if (useful(job)) main.append(make("h2", {}, "Save the steps as a file"), exportLinks(job.models.map((model) => ({ job, model, name: short(model, job.models) })), {}));
  }
  look().catch((error) => tell(problem, error));
  return () => { gone = true; release?.(); };
}

// Links of each track {job, model, name} to each format; `query` narrows what is saved.
function exportLinks(tracks, query) {
  return make("div", {}, ...tracks.map(({ job, model, name: track }) => make("div", {}, tracks.length > 1 ? make("h3", {}, track) : null,
    make("ul", { class: "plain formats" }, ...FORMATS.map(([format, name, purpose]) => make("li", {},
      make("a", { href: `/v1/jobs/${job.id}/export?${new URLSearchParams({ format, model, ...query })}`, download: true }, name),
      make("span", { class: "soft" }, ` ${purpose}`)))))));
}

export function videoView(main, id) {
  const page = template("video");
  main.append(page.root);
  const followed = new Map(), letGo = [];
  let video = null, play = null, view = null, list = null, truth = [], found = [], gone = false;

  call(`/v1/videos/${id}`).then(async (answer) => {
    if (gone) return;
    video = answer;
    document.title = `${video.name} · balletal`;
    page.name.textContent = video.name;
    page.facts.textContent = [clock(video.duration, 0), `${video.width} × ${video.height}`, `${Math.round(video.fps * 100) / 100} frames a second`, size(video.bytes)].join(" · ");
    build();
    for (const warning of video.warnings) page.problem.append(make("p", { class: "note" }, warning));
    letGo.push(keys());
    await refresh();
    const chosen = await choices(page.choices);
    page.form.addEventListener("submit", (event) => { event.preventDefault(); again(chosen()); });
    page.find.disabled = false;
  }).catch((problem) => {
    for (const part of [page.stage, page.again.parentElement]) part.hidden = true;
    page.name.textContent = "Video";
    tell(page.problem, problem);
  });

  function build() {
    page.video.style.aspectRatio = `${video.width} / ${video.height}`;
    page.video.addEventListener("error", () => {
      if (page.video.getAttribute("src")) page.now.textContent = "The browser cannot play this video. The timeline below works without it.";
    });
    show();
    play = player(page.video, { fps: video.fps, onTime });
    view = mount(page.timeline, { duration: video.duration, tracks: [], onSeek: (t) => play.seek(t), onSelect: choose });
    list = steps(page, { onChange, onChoose: (segment) => choose(segment) });
    page.speed.append(...SPEEDS.map((speed) => make("option", { value: String(speed), selected: speed === 1 }, `${speed} ×`)));
    page.speed.addEventListener("change", () => { play.speed = Number(page.speed.value); });
    const acts = { play: () => play.toggle(), before: () => jump(-1), after: () => jump(1), back: () => play.frame(-1), forth: () => play.frame(1), loop: repeat, help };
    for (const [name, act] of Object.entries(acts)) page[name].addEventListener("click", act);
    for (const name of ["play", "pause"]) page.video.addEventListener(name, () => page.play.setAttribute("aria-label", page.video.paused ? "Play" : "Pause"));
    page.video.addEventListener("click", () => play.toggle());
    page.truth.addEventListener("change", () => readTruth(page.truth.files[0]));
    for (const name of ["dragover", "drop"]) page.timeline.addEventListener(name, (event) => event.preventDefault());
    page.timeline.addEventListener("drop", (event) => readTruth(event.dataTransfer.files[0]));
    page.remove.addEventListener("click", remove);
    letGo.push(() => { play.destroy(); view.destroy(); });
    onTime(0);
  }

  // A video that browsers do not play is answered by a copy that they do, once there is one.
  async function show() {
    const place = `/v1/videos/${id}/content`;
    while (!video.playable && !gone) {
      page.now.textContent = "A copy that browsers can play is being made. This takes a moment.";
      const ready = await call(place, { method: "HEAD" }).catch((problem) => problem);
      if (ready.status !== 503) break;
      await new Promise((resolve) => setTimeout(resolve, PREVIEW_MS));
    }
    if (!gone) page.video.src = place;
  }
  function onChange(tracks, least) {
    view.update({ tracks });
    page.saved.textContent = least ? `Only steps that are at least ${Math.round(100 * least)} % sure, as the slider says.` : "";
    page.formats.replaceChildren(exportLinks(found, { video_id: id, min_score: least }));
  }

  function onTime(t) {
    page.clock.textContent = `${clock(t)} of ${clock(video.duration)}`;
    view?.setTime(t, !page.video.paused);
    const here = list?.at(t) ?? null;
    list?.mark(here);
    if (page.video.readyState) page.now.textContent = here ? here.label : "\u00a0";
  }
  function choose(segment, track = null) {
    if (track !== null) list.pick(track);
    if (play.repeating) setRepeat(segment);
    else play.seek(segment.start);
  }
  function jump(direction) {
    const segment = list.next(direction, play.time);
    if (segment) choose(segment);
  }
  function setRepeat(segment) {
    play.repeat(segment?.start ?? null, segment?.end);
    view.setRange(segment?.start ?? null, segment?.end);
    page.loop.setAttribute("aria-pressed", String(segment !== null));
  }
  // Between two steps it is the next one that is meant.
  function repeat() {
    setRepeat(play.repeating ? null : list.at(play.time) ?? list.next(1, play.time));
  }
  function help() {
    document.getElementById("keys").showModal();
  }

  /** Ask for the jobs of this video: finished ones become tracks, others are followed. */
  async function refresh() {
    const jobs = await jobsOf(id);
    if (gone) return;
    for (const job of jobs) {
      if (finished(job) || followed.has(job.id)) continue;
      const release = follow(page.jobs, job, (ended) => {
        if (useful(ended)) {
          release();
          say("The steps are found.");
        }
        refresh().catch((problem) => tell(page.problem, problem));
      });
      followed.set(job.id, release);
    }
    const newest = jobs[0];
    // A failure is told as long as nothing newer went well.
    if (newest && finished(newest) && !useful(newest) && !followed.has(newest.id)) followed.set(newest.id, follow(page.jobs, newest, () => {}));
    const tracks = new Map();
    for (const job of jobs.filter(useful)) {
      if (job.models.every((model) => tracks.has(model))) continue; // newer answers of the same models are there
      const segments = (await results(job)).filter((segment) => segment.video_id === id);
      for (const model of job.models)
        if (!tracks.has(model)) tracks.set(model, { job, model, segments: segments.filter((segment) => segment.model === model) });
    }
    if (gone) return;
    found = [...tracks.values()].map((track) => ({ ...track, name: short(track.model, [...tracks.keys()]) }));
    page.again.open = !jobs.length;
    draw();
  }
  function draw() {
    const tracks = [...(truth.length ? [{ name: TRUTH, segments: truth }] : []), ...found];
    const classes = describe([...new Set(tracks.flatMap((track) => track.segments.map((segment) => segment.label)))].sort());
    page.filters.hidden = !tracks.length;
    page.exports.hidden = !found.length;
    if (!tracks.length) {
      page.count.textContent = "Steps";
      page.list.replaceChildren(make("li", { class: "soft" }, "They appear here when they are found."));
      return;
    }
    view.update({ classes });
    list.show(tracks, classes);
    if (found.length) list.pick(found[0].name);
  }

  async function again(models) {
    if (!models.length) return;
    try {
      await start(id, models);
      page.again.open = false;
      await refresh();
    } catch (problem) {
      tell(page.problem, problem);
    }
  }
  async function readTruth(file) {
    if (!file) return;
    page.wrong.textContent = "";
    try {
      truth = parseTruth(await file.text(), video.name);
    } catch (error) {
      page.wrong.textContent = error.message;
      return;
    }
    draw();
    say(`${truth.length} steps read.`);
  }
  async function remove() {
    if (!(await confirmed(`Delete ${video.name} and its steps? This cannot be undone.`, "Delete"))) return;
    try {
      await removeVideo(id);
      location.hash = "#/";
    } catch (problem) {
      tell(page.problem, problem);
    }
  }

  function keys() {
    const faster = (direction) => {
      page.speed.selectedIndex = Math.min(Math.max(page.speed.selectedIndex + direction, 0), SPEEDS.length - 1);
      play.speed = Number(page.speed.value);
    };
    const acts = {
      " ": () => play.toggle(), p: () => jump(-1), n: () => jump(1), l: repeat, ",": () => play.frame(-1), ".": () => play.frame(1),
      ArrowLeft: () => play.seek(play.time - 1), ArrowRight: () => play.seek(play.time + 1), "[": () => faster(-1), "]": () => faster(1),
      "+": () => view.scale(0.5), "=": () => view.scale(0.5), "-": () => view.scale(2), 0: () => view.zoom(0, video.duration), "?": help,
    };
    const press = (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      // A field, a button or a link has these keys for itself.
      const own = event.target.matches("input, select, textarea") || (event.key === " " && event.target.matches("button, summary, a"));
      const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (own || !act) return;
      event.preventDefault();
      act();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }

  return () => {
    gone = true;
    for (const release of [...followed.values(), ...letGo]) release();
  };
}
