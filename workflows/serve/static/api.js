// The service's HTTP API: JSON in and out, every failure a Problem, and a sign-in when the service asks who it is.

/** What went wrong: `kind` is the end of the problem's type (`urn:balletal:quota` -> `quota`), or `offline`. */
export class Problem extends Error {
  constructor(status, kind, body = {}) {
    super(body.detail ?? kind);
    Object.assign(this, { status, kind, body });
  }
}

// What it means, and what to do about it.
const WORDS = {
  "offline": ["The service cannot be reached.", "Check the network, then try again."],
  "unauthenticated": ["You are not signed in.", "Sign in with the token that you were given."],
  "forbidden-origin": ["This page may not use the service.", "Open it from the service's own address."],
  "not-found": ["This is not here any more.", "It may have been deleted, or kept for its time and then removed."],
  "too-large": ["This video is too large for the service.", "Send a shorter part of it, or a smaller picture size."],
  "media-type": ["This is not a video that the service can read.", "Use an MP4, MOV, MKV, WebM, AVI or MPEG-TS file."],
  "bad-video": ["This video cannot be used.", "It may be damaged. Play it to the end on this computer; if that fails, export it again as MP4."],
  "quota": ["Your space is full, or too many jobs wait.", "Delete videos that you do not need, or wait until a job has finished."],
  "busy": ["The service is busy.", "Try again in a minute."],
  "not-ready": ["The service is still starting.", "Try again in a minute."],
  "conflict": ["This cannot be done now.", "Reload the page to see how things stand."],
  "bad-parameters": ["The service did not understand the request.", "Reload the page and try again."],
  "silence": ["The connection stood still for too long.", "Check the network, then start again."],
  "spec-mismatch": ["This model cannot read these features.", "Choose another model."],
  "internal": ["Something failed inside the service.", "Try again. If it fails again, give the request id below to whoever runs the service."],
};

/** A problem in plain words: {title, advice, details}. */
export function explain(problem) {
  if (!(problem instanceof Problem)) return { title: "Something failed on this page.", advice: "Reload it and try again.", details: String(problem) };
  const [title, advice] = WORDS[problem.kind] ?? WORDS[problem.status >= 500 ? "internal" : "bad-parameters"];
  const { detail, request_id: id } = problem.body;
  const found = [detail, id ? `Request id: ${id}` : ""].filter(Boolean);
  return { title, advice, details: found.join("\n") };
}

/** A problem from an answer; the proxy before the service answers some in plain text. */
export async function problemOf(response) {
  const text = await response.text().catch(() => "");
  return problemFrom(response.status, text);
}

export function problemFrom(status, text) {
  try {
    const body = JSON.parse(text);
    if (body?.type) return new Problem(status, body.type.split(":").at(-1), body);
  } catch { /* plain text */ }
  return new Problem(status, { 401: "unauthenticated", 404: "not-found", 413: "too-large", 429: "quota", 503: "busy" }[status] ?? "internal");
}

let signIn = null;

/** Who asks the user for a token: an async function that ends when there is a session. */
export function onSignIn(ask) {
  signIn = ask;
}

/** One request. Gives the answer's JSON, or null where there is none. Throws Problem. */
export async function call(path, { method = "GET", json, headers = {}, signal } = {}) {
  const options = { method, headers: { ...headers }, signal };
  if (json !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(json);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "offline");
  }
  if (response.status === 401 && signIn && path !== "/v1/session") {
    await signIn();
    return call(path, { method, json, headers, signal });
  }
  if (!response.ok) throw await problemOf(response);
  if (method === "HEAD") return response.headers;
  return response.status === 204 ? null : response.json();
}

/** Every entry of a paged list: follows `next_page_token`. */
export async function all(path, key) {
  const found = [];
  for (let token = null; ;) {
    const page = await call(token === null ? path : `${path}${path.includes("?") ? "&" : "?"}page_token=${encodeURIComponent(token)}`);
    found.push(...page[key]);
    token = page.next_page_token ?? null;
    if (token === null) return found;
  }
}
