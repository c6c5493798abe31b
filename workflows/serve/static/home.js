// The first page: a new video, uploads to finish, the videos that are here.
import { all } from "./api.js";
import { confirmed, date, make, size, template, wait } from "./dom.js";
import { STATUS_WORDS, finished, jobs, removeVideo, start, videoOf } from "./job.js";
import { choices } from "./models.js";
import { say, tell } from "./problems.js";
import { clock } from "./timeline.js";
import { forget, unfinished, upload } from "./upload.js";

export function home(main) {
  const page = template("home");
  main.append(page.root);
  let file = null, chosen = () => [], sending = null, gone = false;

  function ready() {
    const models = chosen();
    page.start.disabled = !file || !models.length || sending !== null;
    page.hint.textContent = !file ? "Choose a video first." : models.length ? "" : "Choose a model.";
  }
  function take(picked) {
    if (!picked || sending) return;
    if (!picked.size) {
      page.facts.textContent = "This file is empty. Choose another one.";
      return;
    }
    file = picked;
    page.name.textContent = file.name;
    page.facts.textContent = `${size(file.size)} · choose another one`;
    page.drop.classList.add("chosen");
    tell(page.problem, null);
    ready();
  }
  page.file.addEventListener("change", () => take(page.file.files[0]));
  page.form.addEventListener("change", ready);
  for (const name of ["dragenter", "dragover"]) page.drop.addEventListener(name, (event) => {
    event.preventDefault();
    page.drop.classList.add("over");
  });
  for (const name of ["dragleave", "drop"]) page.drop.addEventListener(name, () => page.drop.classList.remove("over"));
  page.drop.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });

  // What is picked again continues, so the list only says which file that is.
  function drawUnfinished() {
    page.unfinished.replaceChildren(...unfinished().map((entry) => {
      const share = Math.floor((100 * (entry.offset ?? 0)) / entry.bytes);
      const away = make("button", { type: "button", onclick: async () => {
        await forget(entry).catch((problem) => tell(page.problem, problem));
        drawUnfinished();
      } }, "Forget it");
      const text = make("span", {}, make("strong", {}, entry.filename), ` is there to ${share} %. Choose the same file again and it goes on.`);
      return make("li", { class: "card row" }, text, away);
    }));
  }

  async function send() {
    const { name } = file;
    sending = new AbortController();
    page.form.hidden = true;
    page.progress.hidden = false;
    page.unfinished.replaceChildren();
    page.title.textContent = name;
    tell(page.problem, null);
    const models = chosen();
    try {
      const id = await upload(file, ({ sent, total, rate, waiting }) => {
        page.bar.value = total ? sent / total : 0;
        const pace = rate ? ` · ${size(rate)} a second · ${wait((total - sent) / rate)} left` : "";
        page.told.textContent = waiting ? "The connection is lost. It goes on when the network is back." :
          sent >= total ? "Sent. The service looks at the video …" : `${Math.floor((100 * sent) / total)} % of ${size(total)}${pace}`;
      }, sending.signal);
      await start(id, models);
      say(`${name} is there.`);
      if (!gone) location.hash = `#/videos/${id}`;
    } catch (problem) {
      if (problem.name !== "AbortError") tell(page.problem, problem);
    }
    sending = null;
    page.form.hidden = false;
    page.progress.hidden = true;
    drawUnfinished();
    ready();
  }
  page.form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!page.start.disabled) send();
  });
  page.stop.addEventListener("click", () => sending?.abort());

  async function drawVideos() {
    const [videos, known] = await Promise.all([all("/v1/videos?limit=1000", "videos"), jobs()]);
    const newest = new Map(); // video -> its newest job
    const several = []; // jobs over several videos, or over other places
    for (const job of known.reverse()) {
      const video = videoOf(job);
      if (video !== null) newest.set(video, job);
      else several.push(job);
    }
    if (gone) return;
    const rows = videos.map((video) => videoRow(video, newest.get(video.video_id)));
    page.videos.replaceChildren(...(rows.length ? rows : [make("li", { class: "soft" }, "None yet. The videos that you send appear here, until you delete them or their time is over.")]));
    page.jobs.replaceChildren();
    if (several.length) page.jobs.append(make("h2", {}, "Other jobs"), make("ul", { class: "plain videos" }, ...several.reverse().map(jobRow)));
  }
  function videoRow(video, job) {
    const status = job ? (job.status === "succeeded" ? "" : STATUS_WORDS[job.status]) : "Steps not looked for yet";
    const link = make("a", { href: `#/videos/${video.video_id}` }, make("strong", {}, video.name),
      make("span", { class: "soft" }, `${clock(video.duration, 0)} · ${size(video.bytes)} · ${date(video.created)}`));
    const tag = make("span", { class: `tag ${job && !finished(job) ? "busy" : job?.status === "failed" ? "bad" : ""}` }, status);
    return make("li", { class: "row" }, link, status ? tag : null, make("button", { type: "button", "aria-label": `Delete ${video.name}`, onclick: async () => {
      if (!(await confirmed(`Delete ${video.name} and its steps? This cannot be undone.`, "Delete"))) return;
      await removeVideo(video.video_id).then(drawVideos).catch((problem) => tell(page.problem, problem));
    } }, "Delete"));
  }
  function jobRow(job) {
    const what = job.inputs === 1 ? "1 input" : `${job.inputs} inputs`;
    return make("li", { class: "row" }, make("a", { href: `#/jobs/${job.id}` }, make("strong", {}, `Job of ${date(job.created)}`), make("span", { class: "soft" }, what)),
      make("span", { class: "tag" }, STATUS_WORDS[job.status]));
  }

  drawUnfinished();
  choices(page.choices).then((choice) => { chosen = choice; ready(); return drawVideos(); }).catch((problem) => {
    page.videos.replaceChildren();
    tell(page.problem, problem);
  });
  return () => {
    gone = true;
    sending?.abort();
  };
}
