// A video on its way in: piece after piece, taken up again after a lost network or a reload of the page.
import { Problem, call, problemFrom } from "./api.js";

const KEY = "balletal.uploads", SHORTEST = 1000, LONGEST = 30000; // ms between tries

// Uploads on their way, by the file: the page has no hold on a file after a reload, but knows it again.
function remembered() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}
function remember(change) {
  const entries = remembered();
  change(entries);
  localStorage.setItem(KEY, JSON.stringify(entries));
}
const fingerprint = (file) => [file.name, file.size, file.lastModified].join("/");

/** Uploads that were not finished: [{key, id, filename, bytes, offset}]. */
export function unfinished() {
  return Object.entries(remembered()).map(([key, upload]) => ({ key, ...upload }));
}

/** Forget an unfinished upload, here and at the service. */
export async function forget({ key, id }) {
  remember((entries) => { delete entries[key]; });
  await call(`/v1/uploads/${id}`, { method: "DELETE" }).catch((problem) => {
    if (problem.status !== 404) throw problem;
  });
}

/**
 * Send a file. `tell({sent, total, rate, waiting})` hears of bytes, bytes a second and whether the network is away.
 * Gives the video's id. Throws Problem, or AbortError when `signal` stops it; what was sent stays for the next time.
 */
export async function upload(file, tell, signal) {
  const key = fingerprint(file);
  const meter = rateMeter(file.size, tell);
  let entry = remembered()[key] ?? null, offset = 0, delay = SHORTEST;
  const known = async () => Number((await call(`/v1/uploads/${entry.id}`, { method: "HEAD", signal })).get("Upload-Offset"));
  const begin = async () => {
    const made = await call("/v1/uploads", { method: "POST", json: { filename: file.name, bytes: file.size }, signal });
    entry = { id: made.id, filename: file.name, bytes: file.size, offset: 0, chunk: made.chunk_max };
    remember((entries) => { entries[key] = entry; });
    return 0;
  };
  let agreed = false; // whether the service told us its offset since the last failure
  for (;;) {
    signal?.throwIfAborted();
    try {
      if (!agreed) {
        offset = entry ? await known() : await begin();
        agreed = true;
        meter(offset);
      }
      while (offset < file.size) {
        offset = await send(entry.id, file.slice(offset, offset + entry.chunk), offset, meter, signal);
        entry.offset = offset;
        remember((entries) => { entries[key] = entry; });
        meter(offset);
        delay = SHORTEST;
      }
      const { video_id: id } = await call(`/v1/uploads/${entry.id}/complete`, { method: "POST", signal });
      remember((entries) => { delete entries[key]; });
      return id;
    } catch (problem) {
      agreed = false;
      if (problem.status === 404 && entry) entry = null; // removed meanwhile: from the beginning
      else if (problem.kind === "offset") offset = problem.body.upload_offset;
      else if (problem.status === 401) continue; // the session has ended: to ask for the offset is to sign in
      else if ([0, 408, 502, 503, 504].includes(problem.status)) { // the last ones are a proxy's
        meter(offset, true);
        await pause(delay, signal);
        delay = Math.min(2 * delay, LONGEST);
      } else {
        if (problem.status >= 400 && problem.status < 500) remember((entries) => { delete entries[key]; });
        throw problem;
      }
    }
  }
}

// One piece. XMLHttpRequest, because fetch does not tell how far a body has gone. Gives the new offset.
function send(id, piece, offset, meter, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    signal?.addEventListener("abort", abort);
    request.open("PATCH", `/v1/uploads/${id}`);
    request.setRequestHeader("Content-Type", "application/offset+octet-stream");
    request.setRequestHeader("Upload-Offset", String(offset));
    request.upload.addEventListener("progress", (event) => meter(offset + event.loaded));
    request.addEventListener("load", () => {
      if (request.status === 204) resolve(Number(request.getResponseHeader("Upload-Offset") ?? offset + piece.size));
      else reject(problemFrom(request.status, request.responseText));
    });
    request.addEventListener("error", () => reject(new Problem(0, "offline")));
    request.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
    request.addEventListener("loadend", () => signal?.removeEventListener("abort", abort));
    request.send(piece);
  });
}

// Wait, but no longer than until the network is back.
function pause(ms, signal) {
  return new Promise((resolve) => {
    const go = () => {
      clearTimeout(timer);
      window.removeEventListener("online", go);
      signal?.removeEventListener("abort", go);
      resolve();
    };
    const timer = setTimeout(go, ms);
    window.addEventListener("online", go);
    signal?.addEventListener("abort", go);
  });
}

// Bytes a second over the last five seconds.
function rateMeter(total, tell) {
  const marks = [];
  return (sent, waiting = false) => {
    const now = performance.now();
    if (waiting || (marks.length && sent < marks.at(-1).sent)) marks.length = 0;
    marks.push({ now, sent });
    while (marks.length > 2 && now - marks[0].now > 5000) marks.shift();
    const span = (now - marks[0].now) / 1000;
    tell({ sent, total, rate: span > 0.2 ? (sent - marks[0].sent) / span : null, waiting });
  };
}
