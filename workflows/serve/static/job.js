// Jobs: which video they are of, and one on its way, told in words.
import { Problem, all, call } from "./api.js";
import { confirmed, make, template, wait } from "./dom.js";
import { tell } from "./problems.js";

const STAGES = ["queued", "validating", "extracting", "localizing", "writing"];
const STAGE_WORDS = { queued: "Waiting for its turn", validating: "Checking the video", extracting: "Watching the video", localizing: "Finding the steps", writing: "Writing them down" };
export const STATUS_WORDS = {
  ...STAGE_WORDS, succeeded: "Done", partial: "Done, but some videos failed", failed: "It did not work", cancelled: "Stopped",
};
export const finished = (job) => !STAGES.includes(job.status);
export const useful = (job) => job.status === "succeeded" || job.status === "partial";

/** Start a job over a video. The same key for the same wish: a second click or a lost answer makes no second job. */
export const start = (videoId, models, key = randomKey()) =>
  call("/v1/jobs", { method: "POST", json: { inputs: [{ video_id: videoId }], models }, headers: { "Idempotency-Key": key } });
// crypto.randomUUID is for https and localhost only.
const randomKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** The video that a job is about, where that is one of those that are here, and the only one; else null. */
export const videoOf = (job) => (job.inputs === 1 ? job.video_ids[0] ?? null : null);

/** Every job of the user, newest first. */
export const jobs = async () => (await all("/v1/jobs?limit=100", "jobs")).sort((a, b) => b.created.localeCompare(a.created));

/** Every detection of a finished job. */
export const results = (job) => all(`/v1/jobs/${job.id}/results?limit=10000`, "segments");

/** The jobs of a video, newest first. */
export const jobsOf = async (videoId) => (await jobs()).filter((job) => job.video_ids.includes(videoId));

/** Remove a video, and the jobs that are of it alone with what they found. */
export async function removeVideo(id) {
  const passed = (problem) => { if (![404, 409].includes(problem.status)) throw problem; }; // it has just ended, or is gone
  for (const job of (await jobsOf(id)).filter((one) => videoOf(one) === id)) {
    if (!finished(job)) await call(`/v1/jobs/${job.id}/cancel`, { method: "POST" }).catch(passed);
    await call(`/v1/jobs/${job.id}`, { method: "DELETE" }).catch(passed);
  }
  await call(`/v1/videos/${id}`, { method: "DELETE" });
}

/**
 * A card in `place` that follows a job to its end: `onEnd(job)` hears of it. Gives a function that lets go.
 */
export function follow(place, first, onEnd) {
  const { root, card, title, bar, told, cancel, stages, hint, problem } = template("job");
  place.append(root);
  let job = first, source = null, timer = null, began = null, ended = false;
  const items = STAGES.map((stage) => make("li", {}, STAGE_WORDS[stage]));
  stages.append(...items);

  function draw() {
    title.textContent = STATUS_WORDS[job.status] ?? job.status;
    const { done, total } = job.progress ?? { done: 0, total: 0 };
    const share = total ? Math.min(done / total, 1) : null;
    if (finished(job)) bar.hidden = true;
    else if (share === null || job.status === "queued") bar.removeAttribute("value");
    else bar.value = share;
    told.textContent = job.status === "failed" ? `${job.error ?? ""} Try again, or choose another model.`.trim() : finished(job) ? "" : job.status === "queued" || share === null ? "" : `${Math.floor(100 * share)} %${left(done, total)}`;
    const at = STAGES.indexOf(job.status);
    items.forEach((item, i) => {
      item.className = at < 0 || i < at ? "past" : i === at ? "present" : "";
      if (i === at) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
    cancel.hidden = hint.hidden = stages.hidden = finished(job);
    card.classList.toggle("failed", job.status === "failed");
  }
  // From the pace since this page looks on, and only when that says something.
  function left(done, total) {
    const now = performance.now();
    if (began === null || began.status !== job.status) began = { now, done, status: job.status };
    const seconds = (now - began.now) / 1000, pace = (done - began.done) / seconds;
    return seconds > 5 && pace > 0 ? ` · ${wait((total - done) / pace)} left` : "";
  }
  function take(change) {
    job = { ...job, ...change };
    draw();
    if (finished(job) && !ended) {
      ended = true;
      release();
      onEnd(job);
    }
  }
  function listen() {
    source = new EventSource(`/v1/jobs/${job.id}/events`);
    const on = (name, act) => source.addEventListener(name, (event) => act(JSON.parse(event.data)));
    // The status "succeeded" comes before `done`, which has the whole job.
    on("status", ({ status }) => { if (STAGES.includes(status)) take({ status }); });
    on("progress", ({ done, total, unit, counts }) => take({ progress: { done, total, unit }, counts }));
    on("done", take);
    // It reconnects by itself, except after an answer that was no stream: then ask, and listen again.
    source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) timer = setTimeout(ask, 3000); });
  }
  async function ask() {
    try {
      take(await call(`/v1/jobs/${job.id}`));
      if (!ended) listen();
    } catch (error) {
      if (error instanceof Problem && (error.status === 0 || error.status >= 500)) timer = setTimeout(ask, 5000);
      else tell(problem, error);
    }
  }
  function release() {
    source?.close();
    clearTimeout(timer);
  }
  cancel.addEventListener("click", async () => {
    if (!(await confirmed("Stop finding the steps? What was done so far is lost.", "Stop it"))) return;
    cancel.disabled = true;
    try {
      await call(`/v1/jobs/${job.id}/cancel`, { method: "POST" });
    } catch (error) {
      if (error.status !== 409) tell(problem, error); // 409: it has just ended
    }
  });
  draw();
  if (finished(job)) ended = true;
  else listen();
  return () => {
    release();
    card.remove();
  };
}
